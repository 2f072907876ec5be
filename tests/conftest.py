"""Settings of the test run: one thread, so that tests side by side do not fight; and `--no-skips` for `.ci/run`."""

import signal
from collections.abc import Generator, Iterator

import pytest
import torch
from hypothesis import settings

torch.set_num_threads(1)
# No deadline: a shared machine may stop for a second. Few examples: the properties are many, and CI runs them every time.
settings.register_profile("torchflava", deadline=None, max_examples=25)
settings.load_profile("torchflava")
_HANDLERS = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}


@pytest.fixture(autouse=True)
def handlers_of_signals() -> Iterator[None]:
    """As they were: TorchX's local scheduler, asked for a dry run, sets its own for the whole process."""
    yield
    for number, handler in _HANDLERS.items():
        if signal.getsignal(number) is not handler:
            signal.signal(number, handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--no-skips", action="store_true", help="a skipped test is a failure: for CI, where all is installed"
    )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest first, beside which the others run (CI: --no-loadscope-reorder, or pytest-xdist puts it last)."""
    items.sort(key=lambda item: "test_main_job.py" not in item.nodeid)


_CANNOT_BE_HERE = "the real torchtext cannot be imported here"  # its binary loads beside torch 2.3 only


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    if report.skipped and collector.config.getoption("--no-skips") and _CANNOT_BE_HERE not in str(report.longrepr):
        report.outcome = "failed"
        report.longrepr = f"skipped under --no-skips: {report.longrepr}"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.skipped and not hasattr(report, "wasxfail") and item.config.getoption("--no-skips"):
        report.outcome = "failed"
        report.longrepr = f"skipped under --no-skips: {report.longrepr}"
    return report
