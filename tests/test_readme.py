"""The Python of README.md runs as it stands, on the meta device: shapes without memory."""

import re
from pathlib import Path

import pytest
import torch

from torchflava.batch import ImageBatch
from torchflava.models import FlavaForPreTraining

ROOT = Path(__file__).parents[1]
BLOCKS = [
    block
    for block in re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    if "flava_for_pretraining" in block  # tests/docs runs the others
]
PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_within_the_project_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\((?!https?://|#)([^)#]+)", page.read_text())
    assert [link for link in links if not (page.parent / link).exists()] == []


@pytest.mark.parametrize("block", BLOCKS, ids=range(len(BLOCKS)))
def test_a_block_runs(block: str) -> None:
    names: dict[str, object] = {}
    with torch.device("meta"):
        exec(block, names)
    assert isinstance(names.get("training", names["model"]), FlavaForPreTraining)


def test_the_encoder_of_one_s_own_trains() -> None:
    names: dict[str, object] = {}
    exec(BLOCKS[1], names)
    model = names["model"]
    assert isinstance(model, FlavaForPreTraining)
    assert model.itm is None
    masked = torch.zeros(2, 9, dtype=torch.bool)
    masked[:, 4] = True
    at = torch.full((2, 1), 4)
    loss = model(ImageBatch(torch.randn(2, 3, 48, 48), masked, at, at))["mim"].mean
    loss.backward()
    assert names["ConvEncoder"] is type(model.flava.image_encoder)
    assert model.flava.get_submodule("image_encoder").mask_token.grad is not None
