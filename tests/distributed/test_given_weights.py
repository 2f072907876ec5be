"""Weights given to a model that is sharded on two ranks and was built without memory: theirs where given, drawn elsewhere."""

from functools import cache
from typing import Any

import pytest
import tiny
import torch
from ranks import Outcome, on_ranks
from torch import Tensor

from torchflava.models import FlavaForPreTraining
from torchflava.training import full_weights, give_weights, initialise, mesh_of, shard

GIVEN = "flava.text_encoder."
WAYS = {"all": False, "copies": False, "offload": True}


def built() -> FlavaForPreTraining:
    with torch.device("meta"):
        return tiny.flava_for_pretraining(
            tiny.Flava(tiny.image_encoder(), tiny.text_encoder(), tiny.fusion_encoder(), embed_dim=tiny.EMBED_DIM),
            num_codes=tiny.NUM_CODES,
        )


def given() -> dict[str, Tensor]:
    return {name: tensor for name, tensor in tiny.pretraining().state_dict().items() if name.startswith(GIVEN)}


def give(number: int, ranks: int) -> Any:
    """The whole weights after giving, by way of sharding; and what an unknown name says."""
    results = {}
    for way, offload in WAYS.items():
        model = built()
        mesh = mesh_of(torch.device("cpu"), "copies" if way == "copies" else "all")
        shard(model, mesh, precision="bf16", offload=offload, seed=5)
        give_weights(model, given())
        results[way] = full_weights(model)
    with pytest.raises(ValueError, match=r"the model has no flava\.nothing \(1 in all\)"):
        give_weights(model, {"flava.nothing": torch.zeros(1)})
    return results


@cache
def outcome() -> Outcome:
    return on_ranks(2, give)


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_the_given_weights_are_there_and_the_others_are_drawn(way: str) -> None:
    drawn = built()
    initialise(drawn, 5)
    due = drawn.state_dict() | given()
    after = outcome()[give][0][way]
    assert after.keys() == due.keys()
    assert [name for name in due if not torch.equal(after[name], due[name])] == []
