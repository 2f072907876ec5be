"""The beginning of a codebook's training: its folder, its images, a sharded dVAE, an optimizer, and where it goes on."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from codebook_data import Images, open_images, pixels_of
from codebook_settings import Dvae
from presets import as_json, shaping
from start import find_run, go_on, leave_early

from torchflava.codebooks import DiscreteVae, clustered_logits, discrete_vae
from torchflava.training import (
    Run,
    Scaler,
    StopSignals,
    adamw_by_depth,
    compile_units,
    give_weights,
    mesh_of,
    recompute,
    shard,
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


def start(config: Dvae, run: Run, stop: StopSignals) -> Started:
    """Everything up to the first step; called by every rank. Leaves where it is asked to stop while it looks for clusters."""
    found = find_run(config, run, {"config": shaping(config), "defaults": shaping(Dvae())})
    folder = found.folder
    images = open_images(config)
    model = _sharded(config, run)
    optimizer = _optimizer(config, model)
    scaler, state = go_on(found, config, run, model=model, optimizer=optimizer)
    if run.leads and not state:
        (folder / "config.json").write_text(json.dumps(as_json(config), indent=1))
    if config.first_spread and not state:
        _cluster(config, run, model, images=images, stop=stop)
    return Started(folder, images, model, optimizer, scaler, state, state.get("step", 0))


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
def _cluster(config: Dvae, run: Run, model: DiscreteVae, *, images: Images, stop: StopSignals) -> None:
    """Have each code stand for a cluster of places from the first step on. Called by every rank."""
    pixels = pixels_of(images.train, config, -(-_PLACES * config.num_codes // (config.code_size // 8) ** 2))
    features = torch.cat([model.features(part.to(run.device)).cpu() for part in pixels.split(32)])

    def under_way(looking: bool = True) -> bool:
        """Whether the first rank still looks for clusters; called by every rank as often as by it."""
        looking = run.agree(looking)
        if looking and stop.asked(0):
            leave_early(stop, "stopped before the first step; the same command begins again" if run.leads else "")
        return looking

    found = None
    if run.leads:
        draws = torch.Generator().manual_seed(config.seed)
        points = features.movedim(1, -1).flatten(0, 2)
        of_search = {"generator": draws, "between": under_way}
        found = clustered_logits(points, config.num_codes, spread=config.first_spread, **of_search)
        under_way(False)
    while not run.leads and under_way():
        pass
    weight, bias = run.agree(found)
    give_weights(model, {"encoder.output.conv.w": weight, "encoder.output.conv.b": bias})
