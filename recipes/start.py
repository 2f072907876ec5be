"""The beginning of a run: its folder, its corpus, a sharded model, an optimizer, and where it goes on."""

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import torch
from corpora import Corpus, open_corpus, save_corpus
from folders import check_space, find_folder
from kept import check_place, fetch_kept
from own_sources import is_coded
from presets import Config, as_json, shaping
from torch import Tensor, nn

from torchflava.data.mixture import Mixture
from torchflava.encoders import ImageEncoder, beit_image_encoder, clip_text_encoder
from torchflava.files import save_tensors
from torchflava.models import (
    CLIP_TEXTS,
    SIZES,
    VERBS,
    Clip,
    FlavaForPreTraining,
    clip_for_pretraining,
    clip_model,
    first_weights,
    flava_for_pretraining,
    flava_model,
    metadata_of,
)
from torchflava.training import (
    REQUEUE,
    Checkpoints,
    Meter,
    Run,
    Scaler,
    StopSignals,
    adamw,
    checked_state,
    compile_units,
    full_weights,
    give_weights,
    load_checkpoint,
    mesh_of,
    recompute,
    shard,
    together,
)
from torchflava.transforms import BytePair, TextTokenizer


class Found(NamedTuple):
    """Where a run is, and what it goes on from."""

    folder: Path
    last: Path | str | None
    """The checkpoint; None if it begins."""
    of_run: Mapping[str, Any]
    """What the checkpoint must have been saved under: `checked_state`'s settings."""


class Started(NamedTuple):
    """What a loop needs."""

    folder: Path
    corpus: Corpus
    model: FlavaForPreTraining
    optimizer: torch.optim.Optimizer
    scaler: Scaler
    state: Mapping[str, Any]
    """What the checkpoint says that it goes on from; empty if it begins."""
    done: int
    """Steps that it has behind it."""


def start(config: Config, run: Run) -> Started:
    """Everything up to the first step; called by every rank."""
    found = find_run(config, run, {"config": shaping(config), "defaults": shaping(Config())})
    folder = found.folder
    config = replace(config, resume=str(folder) if found.last else "")
    corpus = open_corpus(config)
    model = _sharded(config, run, corpus)
    if corpus.codebook is not None:
        corpus.codebook.to(run.device)
    optimizer = adamw(model, config.lr, config.weight_decay, betas=config.betas, eps=config.eps)
    scaler, state = go_on(found, config, run, model=model, optimizer=optimizer)
    if run.leads and not state:
        _open_folder(folder, config, corpus)
    if run.leads and config.corpus == "own":
        print(_where_codes_come_from(corpus), flush=True)
    return Started(folder, corpus, model, optimizer, scaler, state, state.get("step", 0))


def find_run(config: Any, run: Run, of_run: Mapping[str, Any]) -> Found:
    """The run's folder, with what a checkpoint elsewhere has beside it, and the checkpoint, checked. Called by every rank."""
    folder, last = run.agree(find_folder(config) if run.leads else None)
    check_place(config, folder)
    if last:
        # Before another run's files replace this one's.
        together(lambda: checked_state(last, **of_run) if run.leads else None)
        fetch_kept(config, folder)
    return Found(folder, last, of_run)


def go_on(
    found: Found, config: Any, run: Run, *, model: nn.Module, optimizer: torch.optim.Optimizer
) -> tuple[Scaler, Mapping[str, Any]]:
    """Read the checkpoint's tensors into a sharded model and its optimizer; what else it says, nothing if the run begins."""
    scaler, state = Scaler(config.precision, run.device), {}
    if run.leads:
        check_space(config, found.folder, model)
    if found.last:
        state = load_checkpoint(found.last, model, optimizer, **found.of_run)
        scaler.load(state["scaler"])
    if run.leads:
        begins = f"going on at step {state['step']}" if state else "starting"
        print(f"{begins} in {found.folder}, on {run.world_size} x {run.device}", flush=True)
    return scaler, state


def _where_codes_come_from(corpus: Corpus) -> str:
    found = {"pairs": corpus.sources.pairs, "images": corpus.sources.images}
    return "; ".join(
        f"codes of {kind} are {'read from beside the shards' if is_coded(source) else 'computed in each step'}"
        for kind, source in found.items()
        if source is not None
    )


def _sharded(config: Config, run: Run, corpus: Corpus) -> FlavaForPreTraining:
    """The model on all ranks; built without memory, which its parts get as they are drawn and sharded one by one."""
    with torch.device("meta"):
        num_codes = config.num_codes if corpus.codebook is None else corpus.codebook.num_codes
        vocab_size = config.vocab_size if corpus.tokenizer is None else corpus.tokenizer.vocab_size
        model = build(config, vocab_size, num_codes, end_id=end_of(corpus.tokenizer))
    recompute(model.units(), config.recompute)
    if config.compiled:
        compile_units(model.units())
    first = {} if config.resume else first_of(config, model, say=run.leads)
    mesh = mesh_of(run.device, config.spread, per_node=int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
    whole = [] if model.contrastive is None else [model.contrastive]
    shard(model, mesh, precision=config.precision, verbs=VERBS, whole=whole, offload=config.offload, seed=config.seed)
    give_weights(model, first)
    return model


def build(config: Config, vocab_size: int, num_codes: int, *, end_id: int | None = None) -> FlavaForPreTraining:
    """The model that `config` describes; a loss of weight 0 has no head.

    Args:
        config: of the run.
        vocab_size: of its vocabulary.
        num_codes: of its codebook.
        end_id: the id that ends CLIP's texts, if its vocabulary has no padding.
    """
    if config.model not in SIZES:
        raise SystemExit(f"no model is called {config.model!r}; there are {', '.join(SIZES)}")
    if config.architecture == "clip":
        return clip_for_pretraining(_clip(config, vocab_size, end_id), gradients=config.gradients)
    if config.image_encoder == "beit":
        flava = flava_model(config.model, image=_beit(config), vocab_size=vocab_size)
    else:
        flava = flava_model(
            config.model, image_size=config.image_size, patch_size=config.patch_size, vocab_size=vocab_size
        )
    model = flava_for_pretraining(flava, num_codes=num_codes, gradients=config.gradients, itm_input=config.itm_input)
    for name, weight in vars(config.weights).items():
        if weight == 0:
            setattr(model, name, None)
    return model


def end_of(tokenizer: TextTokenizer | None) -> int | None:
    """The id by which CLIP finds a text's end, where its padding is a token too."""
    return tokenizer.end_id if isinstance(tokenizer, BytePair) else None


def _clip(config: Config, vocab_size: int, end_id: int | None) -> Clip:
    if config.model not in CLIP_TEXTS:
        raise SystemExit(f"no CLIP is of size {config.model!r}; there are {', '.join(CLIP_TEXTS)}")
    side = {"image_size": config.image_size, "patch_size": config.patch_size}
    sizes = CLIP_TEXTS[config.model]._asdict()
    text = clip_text_encoder(**sizes, vocab_size=vocab_size, max_length=config.max_length, end_id=end_id)
    return clip_model(config.model, **side, text=text)


def _beit(config: Config) -> ImageEncoder:
    size, side = SIZES[config.model], {"image_size": config.image_size, "patch_size": config.patch_size}
    return beit_image_encoder(width=size.width, depth=size.depth, num_heads=size.num_heads, hidden=size.hidden, **side)


def first_of(config: Config, model: FlavaForPreTraining, *, say: bool) -> dict[str, Tensor]:
    """The weights that `--init-image` and `--init-text` name, by the model's names; all others are drawn.

    Args:
        config: names the files.
        model: to put them into, with shapes and no memory.
        say: print where they come from.

    Raises:
        ValueError: for a file that is not of this model, naming the tensors.
    """
    state: dict[str, Tensor] = {}
    for name, path in (("image_encoder", config.init_image), ("text_encoder", config.init_text)):
        if path:
            first = first_weights(path, model.flava.get_submodule(name), name)
            state |= {f"flava.{name}.{key}": tensor for key, tensor in first.state.items()}
            made = "".join(f"; {key}: {reason}" for key, reason in first.made.items())
            if say:
                print(f"{name} from {path}, {first.layout}: {len(first.state)} tensors{made}", flush=True)
    return state


def keep_order(mixture: Mixture, folder: Path, run: Run, done: int) -> None:
    """Keep what fixes the order of the data in `data.json`; a run that goes on must have the same.

    Raises:
        ValueError: naming what differs, such as the length of a source; or if `data.json` is missing or damaged.
    """
    kept = folder / "data.json"
    if done:
        mixture.check_state(_kept_order(kept) | {"step": done})
    elif run.leads:
        kept.write_text(json.dumps(mixture.state(0)))


def _kept_order(kept: Path) -> dict[str, Any]:
    try:
        order: dict[str, Any] = json.loads(kept.read_bytes())
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{kept}, which says in which order this run had its data, cannot be read ({error}); put it back from a copy of "
            "the run's folder, or start a new run"
        ) from error
    return order


def export(model: FlavaForPreTraining, folder: Path, run: Run) -> None:
    """The whole model as one file, `model.safetensors`, which `torchflava.models.from_pretrained` reads. For every rank."""
    weights = full_weights(model)
    if run.leads:
        save_tensors(folder / "model.safetensors", weights, metadata_of(model))


def leave(checkpoints: Checkpoints[Path | str], meter: Meter, stop: StopSignals, words: str) -> NoReturn:
    """End a run that was asked to stop, once its checkpoint is whole, so that schedulers start it again. For every rank."""
    checkpoints.wait()
    leave_early(stop, words if meter.folder is not None else "")


def leave_early(stop: StopSignals, words: str) -> NoReturn:
    """The same of a run that has no checkpoint to wait for. For every rank; `words` are for the one that prints."""
    stop.meet()
    if words:
        print(words, flush=True)
    sys.exit(REQUEUE)


def _open_folder(folder: Path, config: Config, corpus: Corpus) -> None:
    (folder / "config.json").write_text(json.dumps(as_json(config), indent=1))
    save_corpus(corpus, folder)
