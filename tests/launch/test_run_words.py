"""What `torchx run`'s words mean: files, their components' arguments, and the script's own."""

from pathlib import Path

import pytest

from torchflava.launch import recipe
from torchflava.launch.ddp import LaunchError
from torchflava.launch.words import asks_help, nodes_of, torchx_words

COMPONENT = f"{recipe.__file__}:recipe"
FUNCTION = """
raise RuntimeError("the file is read, not run")
def train(*args: str, j: str = "1x1", mem_gb: int = 1) -> "AppDef":
    return None
"""


@pytest.fixture(autouse=True)
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "recipes").mkdir()
    for name in ("pretrain", "finetune", "zero_shot"):
        (tmp_path / "recipes" / f"{name}.py").touch()
    (tmp_path / "mine.py").write_text(FUNCTION)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def words(line: str, *, local: bool = True, **section: str) -> list[str]:
    file = section.pop("file", "recipes/pretrain.py")
    return torchx_words(
        line.split(), {file: section} if section else {}, local=local, torchx={"-s", "-cfg", "--dryrun"}
    )


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("recipes/pretrain.py", []),
        ("./recipes/pretrain.py --nodes 2", ["--nodes=2"]),
        ("mine.py --nodes 2:4", ["--nodes=2:4"]),
        ("mine.py --cpus=3 --name a=b", ["--cpus=3", "--name=a=b"]),
        ("mine.py --gpus 1 -- --model small --steps 200", ["--gpus=1", "--", "--model", "small", "--steps", "200"]),
        ("mine.py -- --nodez 2 -- x --help", ["--", "--nodez", "2", "--", "x", "--help"]),
        ("mine.py --env A=1,B=-2 --", ["--env=A=1,B=-2", "--"]),
    ],
)
def test_a_file_is_launched_by_the_package_s_component(line: str, expected: list[str]) -> None:
    assert words(line) == [COMPONENT, f"--script={line.split()[0]}", *expected]


def test_a_file_is_taken_by_its_absolute_path(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/")
    assert words(f"{checkout}/mine.py") == [COMPONENT, f"--script={checkout}/mine.py"]


def test_hyphens_and_underscores_are_one() -> None:
    for flag in ("--mem-gb", "--mem_gb"):
        assert words(f"mine.py {flag} 4", local=False)[2:] == ["--mem_gb=4"]


@pytest.mark.parametrize(
    "line", ["", "utils.echo --msg hi", "dist.ddp -j 1x2 --script recipes/none.py -- --x 1", "--msg hi", "nothing"]
)
def test_what_is_no_file_stays_as_it_is(line: str) -> None:
    assert words(line) == line.split()


def test_a_function_of_a_file_keeps_its_meaning() -> None:
    assert words("mine.py:train") == ["mine.py:train"]
    assert words("mine.py:train -j 2x1 --mem-gb 3 x --y -- z") == [
        "mine.py:train",
        "--j=2x1",
        "--mem_gb=3",
        "x",
        "--y",
        "--",
        "z",
    ]
    assert words("mine.py:train --help") == ["mine.py:train", "--help"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("recipes/pretran.py", "no file recipes/pretran.py; did you mean recipes/pretrain.py?"),
        ("pretrain.py", "no file pretrain.py; did you mean recipes/pretrain.py?"),
        ("recipes/zeroshot.py:zero_shot", "did you mean recipes/zero_shot.py?"),
        ("qqqqq.py", "no file qqqqq.py in .*; here are .*recipes/finetune.py"),
        ("recipes/pretrain --nodes 2", "no component recipes/pretrain; did you mean recipes/pretrain.py?"),
        ("mine.py:trian", "mine.py has no function 'trian'; did you mean mine.py:train?"),
        ("mine.py --nodez 2", "mine.py has no argument --nodez; did you mean --nodes?"),
        ("mine.py --nodez=2", "no argument --nodez; did you mean --nodes?"),
        ("mine.py --node 2", "no argument --node; did you mean --nodes?"),
        ("mine.py -nodes 2", "no argument -nodes; did you mean --nodes?"),
        ("mine.py --mem 2", "did you mean --mem-gb?"),
        ("mine.py --max_retries 2", "did you mean --retries?"),
        ("mine.py --script x.py", "no argument --script"),
        ("mine.py --steps 9", "no argument --steps; it has --nodes, .*follow `--`: mine.py -- --steps"),
        ("mine.py -s slurm", "-s is TorchX's own argument and stands before the file: torchx run -s ... mine.py"),
        ("mine.py steps=9", "'steps=9' is out of place; the script's own arguments follow `--`: mine.py -- steps=9"),
        ("mine.py --nodes", "--nodes wants a value"),
        ("mine.py --nodes --gpus 1", "--nodes wants a value"),
        ("mine.py --nodes -- 1", "--nodes wants a value"),
        ("mine.py --nodes 1 --nodes 2", "--nodes is given twice"),
        ("mine.py --nodes two", "--nodes two: write a whole number, such as 2, or MIN:MAX, such as 2:4"),
        ("mine.py --nodes 2:", "--nodes 2:: write a whole number"),
        ("mine.py --nodes 1:2:3", "--nodes 1:2:3: write a whole number"),
        ("mine.py --nodes 4:2", "--nodes 4:2 begins with the greater number; write --nodes 2:4"),
        ("mine.py --nodes 1:300000", "--nodes 1:300000 is out of range: 10000 or fewer"),
        ("mine.py --nodes 10001", "--nodes 10001 is out of range: 10000 or fewer"),
        ("mine.py --nodes 0:2", "--nodes 0:2 is out of range: 1 or more"),
        ("mine.py --procs 2:4", "--procs wants a whole number, got '2:4'"),
        ("mine.py:train --mem 2", "mine.py:train has no argument --mem; did you mean --mem-gb?"),
        ("mine.py --retries 2", "local_cwd starts no job again: leave out --retries"),
        ("mine.py --mem-gb 2", "local_cwd limits no memory: leave out --mem-gb"),
    ],
)
def test_a_wrong_word_is_an_error_that_names_the_right_one(line: str, message: str) -> None:
    with pytest.raises(LaunchError, match=message.replace("?", r"\?")):
        words(line)


def test_no_file_and_nothing_near(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    with pytest.raises(LaunchError, match="recipes lie in `recipes/`"):
        words("nowhere/pretrain.py")


def test_a_file_that_is_no_python_is_named(checkout: Path) -> None:
    (checkout / "torn.py").write_text("def f(:")
    with pytest.raises(LaunchError, match=r"torn\.py is not Python: .*line 1"):
        words("torn.py:f")


def test_the_configuration_gives_defaults_and_what_is_typed_wins(checkout: Path) -> None:
    section = {"nodes": "4", "mem-gb": "8", "args": "--steps 9 --name 'a b'"}
    one = words("recipes/pretrain.py --nodes 2", local=False, **section)
    assert one[1:] == ["--script=recipes/pretrain.py", "--nodes=2", "--mem_gb=8", "--", "--steps", "9", "--name", "a b"]
    assert words("recipes/pretrain.py -- x", local=False, **section)[2:] == ["--nodes=4", "--mem_gb=8", "--", "x"]
    assert "--mem_gb=8" not in words("recipes/pretrain.py", **section)  # it is for clusters
    assert words("recipes/finetune.py", **section)[2:] == []
    other = words("recipes/pretrain.py", file=str(checkout / "recipes" / "pretrain.py"), cpus="3")
    assert other[2:] == ["--cpus=3"]


def test_of_two_configurations_the_first_wins_however_the_file_is_written() -> None:
    """TorchX names the home directory's first."""
    both = {"./recipes/pretrain.py": {"nodes": "4"}, "recipes/pretrain.py": {"nodes": "2", "cpus": "3"}}
    got = torchx_words(["recipes/pretrain.py"], both, local=False, torchx=())
    assert sorted(got[2:]) == ["--cpus=3", "--nodes=4"]


def test_a_cluster_s_job_knows_the_file_by_where_it_lies_from_here(
    checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that a job in a copy, or in an image, runs the copy's; what lies elsewhere is found from there too."""
    (checkout / "link").symlink_to(checkout)
    for typed in (f"{checkout}/recipes/pretrain.py", f"{checkout}/link/recipes/pretrain.py", "./recipes/pretrain.py"):
        assert words(typed, local=False)[1] == "--script=recipes/pretrain.py"
    monkeypatch.chdir(checkout / "recipes")
    assert words("../mine.py", local=False)[1] == f"--script={checkout.resolve()}/mine.py"
    assert words("../mine.py --image a/b", local=False)[1] == "--script=../mine.py"


@pytest.mark.parametrize(("first", "second"), [("mem-gb", "mem_gb"), ("mem_gb", "mem-gb")])
def test_hyphens_and_underscores_are_one_in_the_configuration(first: str, second: str) -> None:
    """TorchX puts what two files say under one section, the first file's first."""
    section = {first: "4", "cpus": "2", second: "8"}
    sections = {"recipes/pretrain.py": section, "./recipes/pretrain.py": {second: "9"}}
    for line, memory in (("recipes/pretrain.py", 4), ("recipes/pretrain.py --mem-gb 5", 5)):
        got = torchx_words(line.split(), sections, local=False, torchx=())
        assert sorted(got[2:]) == ["--cpus=2", f"--mem_gb={memory}"]


def test_a_wrong_entry_of_the_configuration_is_named() -> None:
    with pytest.raises(LaunchError, match=r"\.torchxconfig, \[component:recipes/pretrain.py\].* --nods; .*--nodes"):
        words("recipes/pretrain.py", nods="4")


def test_how_many_ranks_there_may_be() -> None:
    for line, ranks in (
        ("mine.py -- --nodes=9", [1]),
        ("mine.py --nodes 3 --procs 2 -- x", [6]),
        ("mine.py --nodes=2:4 --gpus 8", [16, 24, 32]),
        ("mine.py --nodes 1:2 --gpus 8 --procs 4", [4, 8]),
    ):
        assert nodes_of(words(line)).ranks == ranks


def test_help_is_asked_for_before_the_dashes() -> None:
    assert asks_help(["a.py", "--nodes", "2", "--help"])
    assert asks_help(["a.py", "-h"])
    assert not asks_help(["a.py", "--", "--help"])
    assert not asks_help(["dist.ddp", "-h", "--help"])
    assert not asks_help([])
