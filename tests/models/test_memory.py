"""What a step keeps and takes, counted without data, against runs with data: tensor by tensor, and by the process's memory."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from torchflava.batch import Batch, ImageBatch, PairBatch, TextBatch
from torchflava.models import (
    FlavaForPreTraining,
    count_states,
    count_table,
    flava_for_pretraining,
    flava_model,
    predicted,
)
from torchflava.training import recompute

ROOT = Path(__file__).parents[2]
KINDS = ("image", "text", "pair")


def model_of(size: str = "mini", side: int = 48, patch: int = 12, *, words: int = 500) -> FlavaForPreTraining:
    flava = flava_model(size, image_size=side, patch_size=patch, vocab_size=words)
    return flava_for_pretraining(flava, num_codes=128 if words == 500 else 8192)


def on_meta(size: str = "mini", side: int = 48, patch: int = 12, *, words: int = 500) -> FlavaForPreTraining:
    with torch.device("meta"):
        return model_of(size, side, patch, words=words)


def batch_of(
    kind: str, rows: int, side: int = 48, patches: int = 16, *, asked: int = 6, length: int = 31, words: int = 4
) -> Batch:
    """Every text of full length, every place asked for."""
    pixels, masked = torch.zeros(rows, 3, side, side), torch.zeros(rows, patches, dtype=torch.bool)
    at, word_at = torch.zeros(rows, asked, dtype=torch.int64), torch.ones(rows, words, dtype=torch.int64)
    ids, keep = torch.ones(rows, length, dtype=torch.int64), torch.ones(rows, length, dtype=torch.bool)
    if kind == "image":
        return ImageBatch(pixels, masked, at, at)
    if kind == "text":
        return TextBatch(ids, keep, word_at, word_at)
    yes = torch.ones(rows, dtype=torch.bool)
    return PairBatch(pixels, masked, at, at, ids, keep, ids, keep, word_at, word_at, yes, yes)


def really_kept(model: FlavaForPreTraining, batch: Batch) -> int:
    """Bytes of the storages with data that autograd is given to keep in a forward on the CPU."""
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    found: dict[int, torch.UntypedStorage] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            found[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        model(batch)
    return sum(storage.nbytes() for storage in found.values())


@pytest.mark.parametrize("again", ["none", "selective", "full"])
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_kept_is_what_a_forward_with_data_keeps(kind: str, again: Any) -> None:
    real, counted = model_of(), on_meta()
    recompute(real.units(), again)
    recompute(counted.units(), again)
    got = [count_states(counted, batch_of(kind, rows)).kept for rows in (2, 7)]
    due = [really_kept(real, batch_of(kind, rows)) for rows in (2, 7)]
    assert got[1] - got[0] == pytest.approx(due[1] - due[0], rel=0.02)


@pytest.mark.parametrize("kind", KINDS)
def test_heads_in_chunks_keep_their_gradients_and_no_logits(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with_logits = [count_states(on_meta(), batch_of(kind, rows)).kept for rows in (2, 7)]
    monkeypatch.setattr(predicted, "pays", lambda *_: True)
    real, counted = model_of(), on_meta()
    got = [count_states(counted, batch_of(kind, rows)).kept for rows in (2, 7)]
    due = [really_kept(real, batch_of(kind, rows)) for rows in (2, 7)]
    assert got[1] - got[0] == pytest.approx(due[1] - due[0], rel=0.02)
    logits = {"image": 6 * 128, "text": 4 * 500, "pair": 6 * 128 + 4 * 500}[kind]
    assert with_logits[1] - with_logits[0] - (got[1] - got[0]) == pytest.approx(5 * 4 * logits, rel=0.5)


def test_in_bf16_the_cpu_does_not_keep_what_gelu_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    """An image has 17 states in the MLPs of 3 blocks, but for the last, which sees the 6 places that are asked for."""
    model = model_of().bfloat16()
    batches = [batch_of("image", rows) for rows in (2, 7)]
    batches = [batch._replace(pixels=batch.pixels.bfloat16()) for batch in batches]
    found = [really_kept(model, batch) for batch in batches]
    monkeypatch.setattr(sys.modules["torchflava.layers.transformer"], "is_bare", lambda part, kind: False)
    plain = [really_kept(model, batch) for batch in batches]
    hidden = model.flava.image_encoder.trunk.blocks[0].mlp.up.out_features
    assert (plain[1] - plain[0]) - (found[1] - found[0]) == 5 * 2 * hidden * (2 * 17 + 6)


def test_what_is_computed_again_is_kept_no_more_than_as_inputs_of_blocks() -> None:
    """An image's 17 states of width 128 before each of 3 blocks, 6 positions, and what a run without blocks has."""
    plain, again = on_meta(), on_meta()
    recompute(again.units())
    batches = [batch_of("image", rows) for rows in (2, 7)]
    (few, more), (few_again, more_again) = ([count_states(m, b) for b in batches] for m in (plain, again))
    for_blocks = 3 * 17 * 128 * 4 + 6 * 8
    outside = really_kept_outside(batch_of("image", 7)) - really_kept_outside(batch_of("image", 2))
    assert more_again.kept - few_again.kept == pytest.approx(5 * for_blocks + outside, rel=0.02)
    assert more_again.most < 0.7 * more.most
    of_one = (more.kept - few.kept - outside) / 3  # a block's states are there while it is computed again
    assert more_again.most - few_again.most > (more_again.kept - few_again.kept) + 0.7 * of_one


def test_selective_keeps_results_of_linear_layers_and_of_the_attention_kernel() -> None:
    """Of a block its input, queries, keys and values, what attention and its projection give, and of the MLP both layers."""
    again = on_meta()
    recompute(again.units(), "selective")
    few, more = (count_states(again, batch_of("image", rows)) for rows in (2, 7))
    up = again.flava.image_encoder.trunk.blocks[0].mlp.up
    width, hidden = up.in_features, up.out_features
    logarithms = (
        32 * again.flava.image_encoder.trunk.blocks[0].attention.num_heads
    )  # of 17 places, in the GPU's kernel 32
    states = 3 * (17 * 6 * width + logarithms) + (2 * 17 + 6) * (
        hidden + width
    )  # the last MLP sees the 6 rows asked for
    outside = really_kept_outside(batch_of("image", 7)) - really_kept_outside(batch_of("image", 2))
    assert more.kept - few.kept == pytest.approx(5 * 4 * states + outside, rel=0.03)


def really_kept_outside(batch: Batch) -> int:
    """What a model with no block keeps."""
    model = model_of()
    model.flava.image_encoder.trunk.blocks = torch.nn.ModuleList()
    return really_kept(model, batch)


@pytest.mark.parametrize(("precision", "at"), [pytest.param("fp32", 1, marks=pytest.mark.slow), ("bf16", 2)])
def test_the_base_models_pairs_keep_what_the_benchmark_counted(precision: str, at: int) -> None:
    page = (ROOT / "benchmarks/results/accumulation.md").read_text()
    told = re.search(r"keeps of a pair at this size is (\d+) MB in fp32 and (\d+) MB in bf16", page)
    assert told is not None
    shape = {"side": 224, "patches": 196, "asked": 75, "length": 77, "words": 12}
    model = on_meta("base", 224, 16, words=30522)
    few, more = (count_states(model, batch_of("pair", rows, **shape), precision) for rows in (128, 160))
    assert (more.kept - few.kept) / 32 / 1e6 == pytest.approx(int(told[at]), abs=0.5)
    assert more.kept < more.most < 1.1 * more.kept


@pytest.mark.parametrize(("rows", "columns"), [(8192, 8192), (1024, 8192), (128, 8192), (512, 32768), (4096, 32768)])
def test_the_contrastive_loss_is_counted_linear_in_rows_and_in_columns(rows: int, columns: int) -> None:
    """Forward has embeddings, their gradients and a chunk's two tables of 4M logits; backward the gradients times another."""
    embeddings, tables = 2 * 4 * 512 * (rows + columns), 2 * 4 * min(2**22, rows * columns)
    due = max(2 * embeddings + tables, 3 * embeddings)
    assert count_table(rows, columns, 512) == pytest.approx(due, rel=0.03)


def test_nothing_of_the_model_is_changed_and_waiting_gradients_are_counted() -> None:
    """Where matching looks at the clean pair, the encoders are met twice, so their first gradients wait for the second."""
    model = on_meta()
    once = count_states(model, batch_of("pair", 1))
    model.itm_input = "clean"
    few = count_states(model, batch_of("pair", 1))
    assert all(parameter.is_meta and parameter.grad is None for parameter in model.parameters())
    assert not any("forward" in vars(part) for part in model.modules())
    encoders = sum(p.numel() for e in ("image", "text") for p in model.flava.get_submodule(f"{e}_encoder").parameters())
    assert few.most - few.kept > 0.8 * 4 * encoders > once.most - once.kept


def test_what_cannot_be_counted_is_told() -> None:
    with pytest.raises(ValueError, match=r"build it under torch\.device\('meta'\)"):
        count_states(model_of(), batch_of("text", 1))
    with pytest.raises(ValueError, match="precision must be one of fp32, bf16, fp16, got 'fp8'"):
        count_states(on_meta(), batch_of("text", 1), "fp8")


PROCESS = """
import json, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import torch
import test_memory as t
from torchflava.losses import mean_losses
torch.set_num_threads(1)
def most():
    (line,) = (x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith("VmHWM"))
    return int(line.split()[1]) * 1024
model, batch = t.model_of("small", 96, 8), t.batch_of(sys.argv[2], int(sys.argv[3]), 96, 144, asked=50)
for parameter in model.parameters():
    parameter.grad = torch.ones_like(parameter)
Path("/proc/self/clear_refs").write_text("5")
before = most()
torch.stack(list(mean_losses(model(batch)).values())).sum().backward()
print(json.dumps(most() - before))
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="Linux tells a process's most memory")
@pytest.mark.parametrize("kind", ["image", "pair"])
def test_the_memory_of_a_process_grows_as_counted(kind: str) -> None:
    def measured(rows: int) -> int:
        env = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "MALLOC_MMAP_THRESHOLD_": "65536"}
        command = [sys.executable, "-c", PROCESS, str(Path(__file__).parent), kind, str(rows)]
        return int(json.loads(subprocess.run(command, check=True, capture_output=True, text=True, env=env).stdout))

    model = on_meta("small", 96, 8)
    few, more = (count_states(model, batch_of(kind, rows, 96, 144, asked=50)).most for rows in (16, 48))
    assert measured(48) - measured(16) == pytest.approx(more - few, rel=0.15)
