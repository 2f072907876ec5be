"""The beginning of a codebook's training: its folder, its images, a sharded dVAE, an optimizer, and where it goes on."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from codebook_data import Images, open_images, pixels_of
from codebook_settings import Dvae
from folders import check_space, find_folder
from kept import check_place, fetch_kept
from presets import as_json, shaping

from torchflava.codebooks import DiscreteVae, clustered_logits, discrete_vae
from torchflava.training import (
    Run,
    Scaler,
    adamw_by_depth,
    checked_state,
    compile_units,
    give_weights,
    load_checkpoint,
    mesh_of,
    recompute,
    shard,
    together,
)

_PLACES = 32
"""Places a code, at which the first clusters are found."""


class Started(NamedTuple):
    """What a loop needs."""

    folder: Path
    images: Images
    model: DiscreteVae
    optimizer: torch.optim.Optimizer
    scaler: Scaler
    state: Mapping[str, Any]
    """What the checkpoint says that it goes on from; empty if it begins."""
    done: int
    """Steps that it has behind it."""


def start(config: Dvae, run: Run) -> Started:
    """Everything up to the first step; called by every rank."""
    folder, last = run.agree(find_folder(config) if run.leads else None)
    check_place(config, folder)
    of_run = {"config": shaping(config), "defaults": shaping(Dvae())}
    if last:
        together(lambda: checked_state(last, **of_run) if run.leads else None)
        fetch_kept(config, folder)
    images = open_images(config)
    model = _sharded(config, run)
    optimizer = _optimizer(config, model)
    scaler = Scaler(config.precision, run.device)
    state: dict[str, Any] = {}
    if run.leads:
        check_space(config, folder, model)
    if last:
        state = load_checkpoint(last, model, optimizer, **of_run)
        scaler.load(state["scaler"])
    elif config.first_spread:
        _cluster(config, run, model, images)
    if not last and run.leads:
        (folder / "config.json").write_text(json.dumps(as_json(config), indent=1))
    done = state.get("step", 0)
    if run.leads:
        at = f"going on at step {done}" if done else "starting"
        print(f"{at} in {folder}, on {run.world_size} x {run.device}", flush=True)
    return Started(folder, images, model, optimizer, scaler, state, done)


def _sharded(config: Dvae, run: Run) -> DiscreteVae:
    """The dVAE on all ranks; built without memory, which its parts get as they are drawn and sharded one by one."""
    with torch.device("meta"):
        model = discrete_vae(
            width=config.width,
            blocks=config.blocks,
            num_codes=config.num_codes,
            first_width=config.first_width,
            least_scale=config.least_scale,
        )
    recompute(model.units(), config.recompute)
    if config.compiled:
        compile_units(model.units())
    mesh = mesh_of(run.device, config.spread, per_node=int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
    of_shards = {"whole": model.exact(), "offload": config.offload, "seed": config.seed}
    shard(model, mesh, precision=config.precision, verbs=("features", "reconstruct"), **of_shards)
    return model


def _optimizer(config: Dvae, model: DiscreteVae) -> torch.optim.Optimizer:
    """AdamW, with another learning rate for the encoder."""
    depths = {name: int(name.startswith("decoder.")) for name, _ in model.named_parameters()}
    adam = {"betas": config.betas, "eps": config.eps}
    of_encoder = {"depths": depths, "layer_decay": config.encoder_lr}
    return adamw_by_depth(model, config.lr, config.weight_decay, **of_encoder, **adam)


@torch.no_grad()
def _cluster(config: Dvae, run: Run, model: DiscreteVae, images: Images) -> None:
    """Have each code stand for a cluster of places from the first step on. Called by every rank."""
    pixels = pixels_of(images.train, config, -(-_PLACES * config.num_codes // (config.code_size // 8) ** 2))
    features = torch.cat([model.features(part.to(run.device)).cpu() for part in pixels.split(32)])
    found = None
    if run.leads:
        draws = torch.Generator().manual_seed(config.seed)
        points = features.movedim(1, -1).flatten(0, 2)
        found = clustered_logits(points, config.num_codes, spread=config.first_spread, generator=draws)
    weight, bias = run.agree(found)
    give_weights(model, {"encoder.output.conv.w": weight, "encoder.output.conv.b": bias})
