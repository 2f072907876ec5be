"""Hostile pickles: none of what they name is run, whatever way they take, and each is refused by name."""

import builtins
import functools
import io
import os
import pickle
import struct
import zipfile
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from torchflava.files import load_tensors, read_state
from torchflava.pickled import RefusedError, UnreadableError, parse

FIRED: list[str] = []
FORMS = {"zip": {}, "legacy": {"_use_new_zipfile_serialization": False}}
BASE = ("torch.nn.modules.linear.Linear", "torch.nn.modules.container.Sequential")


def fire(*_: object) -> dict[str, object]:
    FIRED.append("fired")
    return {}


class Bomb:
    """Calls `function` when a pickle of it is run."""

    def __init__(self, function: object, *args: object) -> None:
        self.call = (function, args)

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return self.call


BOMBS = {
    "os.system": (lambda canary: Bomb(os.system, f"touch {canary}"), "posix.system"),
    "eval": (lambda canary: Bomb(eval, f"open({str(canary)!r}, 'w')"), "eval"),
    "exec": (lambda canary: Bomb(exec, f"open({str(canary)!r}, 'w').close()"), "exec"),
    "open": (lambda canary: Bomb(open, str(canary), "w"), "io.open"),
    "getattr": (lambda canary: Bomb(getattr, os, "system"), "getattr"),
    "partial": (lambda canary: Bomb(functools.partial(os.system, f"touch {canary}")), "partial"),
    "import": (lambda canary: Bomb(builtins.__import__, "antigravity"), "__import__"),
    "path": (lambda canary: Bomb(Path.touch, canary), "getattr|Path"),
    "torch.load": (lambda canary: Bomb(torch.load, str(canary)), "torch.serialization.load"),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_refused_by_name(tmp_path: Path, name: str, form: str) -> None:
    make, refused = BOMBS[name]
    canary = tmp_path / "canary"
    held = (
        {"weight": torch.ones(2), "bomb": make(canary)} if name != "getattr" else {"bomb": Bomb(getattr, Bomb, "call")}
    )
    torch.save(held, tmp_path / "bomb.pkl", **FORMS[form])
    with pytest.raises(ValueError, match=rf"bomb\.pkl: its pickle names '[^']*({refused}).*convert it") as caught:
        read_state(tmp_path / "bomb.pkl", BASE)
    assert "safetensors" in str(caught.value)
    with pytest.raises(ValueError, match=r"bomb\.pkl"):
        load_tensors(tmp_path / "bomb.pkl")
    assert not canary.exists()


def test_the_bombs_are_live(tmp_path: Path) -> None:
    """What the tests above refuse would have gone off in pickle's own hands."""
    for name in ("os.system", "eval", "exec", "open"):
        canary = tmp_path / name
        left = pickle.loads(pickle.dumps(BOMBS[name][0](canary)))
        if name in ("eval", "open"):
            left.close()
        assert canary.exists()


def test_a_bomb_within_an_allowed_module(tmp_path: Path) -> None:
    FIRED.clear()
    net = nn.Sequential(nn.Linear(2, 3))
    net[0].notes = [{"deep": (Bomb(fire),)}]
    torch.save(net, tmp_path / "net.pkl")
    with pytest.raises(ValueError, match=r"its pickle names '[\w.]*test_pickled\.fire'"):
        read_state(tmp_path / "net.pkl", BASE)
    assert not FIRED
    torch.load(tmp_path / "net.pkl", weights_only=False)
    assert FIRED


def nested(inner: st.SearchStrategy[object]) -> st.SearchStrategy[object]:
    keys = st.text("abc", max_size=2) | st.integers(0, 5)
    some = st.lists(inner, min_size=1, max_size=3)
    maps = st.dictionaries(keys, inner, min_size=1, max_size=3)
    return some | some.map(tuple) | maps | maps.map(OrderedDict)


@given(
    st.recursive(st.just(Bomb(fire)), nested, max_leaves=4),
    st.sampled_from([2, 3, 4, 5]),
    st.sampled_from(sorted(FORMS)),
)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_bomb_goes_off_wherever_it_lies(tmp_path: Path, held: object, protocol: int, form: str) -> None:
    FIRED.clear()
    torch.save(held, tmp_path / "held.pt", pickle_protocol=protocol, **FORMS[form])
    with pytest.raises(ValueError, match="fire"):
        read_state(tmp_path / "held.pt", BASE)
    assert not FIRED


SYSTEM = b"cposix\nsystem\n"
CALLS = {
    "REDUCE": b"\x80\x02" + SYSTEM + b"X\x04\x00\x00\x00true\x85R.",
    "STACK_GLOBAL": b"\x80\x04\x8c\x05posix\x8c\x06system\x93\x8c\x04true\x85R.",
    "NEWOBJ_EX": b"\x80\x04\x8c\x05posix\x8c\x06system\x93\x8c\x04true\x85}\x92.",
    "INST": b"(S'true'\niposix\nsystem\n.",
    "OBJ": b"(" + SYSTEM + b"S'true'\no.",
    "EXT1": b"\x80\x02\x82\x01)R.",
    "EXT4": b"\x80\x02\x84\x01\x00\x00\x00)R.",
    "BUILD": b"\x80\x02ccollections\nOrderedDict\n}X\x01\x00\x00\x00aK\x01sb.",
    "BUILD on a dict's class": b"\x80\x02ccollections\nOrderedDict\nN}X\x07\x00\x00\x00__new__K\x01s\x86b.",
    "spaced name": b"\x80\x02ccollections OrderedDict\nx\n)R.",
    "PERSID": b"Pstorage\n.",
    "persistent id": b"\x80\x02X\x07\x00\x00\x00storageQ.",
    "DUP": b"\x80\x02)2\x86.",
    "BYTEARRAY8": b"\x80\x05\x96\x01\x00\x00\x00\x00\x00\x00\x00a.",
    "NEXT_BUFFER": b"\x80\x05\x97.",
    "call of a tuple": b"\x80\x02)" + b")R.",
    "call with a list": b"\x80\x02ccollections\nOrderedDict\n]R.",
    "underflow": b"\x80\x02\x87.",
    "no mark": b"\x80\x02)t.",
    "no memo": b"\x80\x02h\x07.",
    "no end": b"\x80\x02)",
    "large claim": b"\x80\x04\x8e" + struct.pack("<Q", 2**60) + b"x.",
    "negative sizes": b"\x80\x02ctorch._utils\n_rebuild_tensor\n((X\x07\x00\x00\x00storagectorch\nFloatStorage\n"
    b"X\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x04tQK\x00J\xff\xff\xff\xff\x85K\x01\x85tR.",
    "deep key": b"\x80\x02})" + b"\x85" * 20_000 + b"K\x01s.",
}


@pytest.mark.parametrize("name", CALLS)
def test_every_other_way_to_call(name: str) -> None:
    with pytest.raises(UnreadableError):
        parse(io.BytesIO(CALLS[name]), BASE)


def test_large_memo_indices_take_no_memory() -> None:
    assert parse(b"\x80\x02)r\xff\xff\xff\xffj\xff\xff\xff\xff\x86.", ()).root == ((), ())


@pytest.mark.parametrize("opcode", [b"\x96", b"\x8e", b"\x8d"])  # BYTEARRAY8, BINBYTES8, BINUNICODE8
@pytest.mark.parametrize("length", [2**40, 2**62])
def test_a_length_beyond_the_file_reserves_nothing(tmp_path: Path, opcode: bytes, length: int) -> None:
    (tmp_path / "long").write_bytes(b"\x80\x05" + opcode + length.to_bytes(8, "little") + b"abc.")
    with (
        (tmp_path / "long").open("rb") as file,
        pytest.raises(UnreadableError, match=r"is damaged \(ValueError: \d+ bytes"),
    ):
        parse(file, ())


def test_a_refusal_is_told_apart_from_damage() -> None:
    with pytest.raises(RefusedError, match=r"'posix\.system'"):
        parse(CALLS["REDUCE"], BASE)
    with pytest.raises(RefusedError, match=r"'posix\.system'"):
        parse(CALLS["STACK_GLOBAL"], BASE)


@given(st.binary(max_size=200))
@settings(max_examples=300, deadline=None)
def test_noise_is_unreadable(noise: bytes) -> None:
    try:
        parse(b"\x80\x02" + noise, BASE)
    except UnreadableError:
        return
    assert noise.count(b".")


@pytest.mark.parametrize("loop", ["self", "wide", "named", "forked"])
def test_modules_that_hold_each_other_end(tmp_path: Path, loop: str) -> None:
    net = nn.Sequential()
    for i in range(3 if loop == "wide" else 1):
        net._modules["x" * 900 if loop == "named" else str(i)] = net
    if loop == "forked":
        net = nn.Sequential()
        for _ in range(40):
            net = nn.Sequential(net, net)
    torch.save(net, tmp_path / "loop.pkl")
    with pytest.raises(ValueError, match=r"loop\.pkl .* hold each other"):
        read_state(tmp_path / "loop.pkl", BASE)


def test_a_view_beyond_its_record_is_refused(tmp_path: Path) -> None:
    state = {"a": torch.zeros(4)}
    torch.save(state, tmp_path / "good.pt")
    whole = (tmp_path / "good.pt").read_bytes()
    sized = b"K\x00K\x04\x85"  # offset 0, size (4,)
    assert whole.count(sized) == 1
    for bad in (b"K\x01K\x04\x85", b"K\x00K\x05\x85"):
        rebuilt = io.BytesIO(whole)
        with zipfile.ZipFile(rebuilt) as old, zipfile.ZipFile(tmp_path / "bad.pt", "w") as new:
            for name in old.namelist():
                new.writestr(name, old.read(name).replace(sized, bad))
        with pytest.raises(ValueError, match="a reaches beyond its record"):
            read_state(tmp_path / "bad.pt")
