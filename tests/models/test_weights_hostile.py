"""Files that someone made to do harm, or that went wrong in ways no one thinks of: a ValueError, and nothing else."""

import json
import os
import struct
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_parts_alone import dino, dvae
from tiny import flava, one_width, pretraining
from torch import Tensor

from torchflava.encoders import beit_image_encoder
from torchflava.files import save_tensors
from torchflava.models import from_pretrained, layouts_transformers, metadata_of, save_pretrained
from torchflava.models.layout import to_theirs
from torchflava.models.layouts_fair import LAYOUTS as FAIR
from torchflava.models.layouts_torchmultimodal import PRETRAINING as TMM

ENCODERS = flava().state_dict()
BEIT = beit_image_encoder(width=22, depth=1, num_heads=2, hidden=23, image_size=15, patch_size=5)
FILES: dict[str, dict[str, Tensor]] = {
    "transformers": to_theirs(layouts_transformers.PRETRAINING, pretraining().state_dict()),
    "torchmultimodal": to_theirs(TMM, pretraining().state_dict()),
    "fair": to_theirs(FAIR[0], pretraining().state_dict()),
    "own": dict(ENCODERS),
    "image": {
        name.removeprefix("image_encoder."): t for name, t in ENCODERS.items() if name.startswith("image_encoder.")
    },
    "text": {name.removeprefix("text_encoder."): t for name, t in ENCODERS.items() if name.startswith("text_encoder.")},
    "dino": dino(),
    "beit": dict(BEIT.state_dict()),
    "dvae": dvae(),
}
CHANGES: dict[str, Callable[[Tensor], Tensor]] = {
    "scalar": lambda x: x.flatten()[0],
    "empty": lambda x: x[:0],
    "no row": lambda x: x.reshape(0, *x.shape) if x.numel() == 0 else x.new_zeros(0, *x.shape),
    "nested": lambda x: x[None],
    "flat": lambda x: x.flatten(),
    "transposed": lambda x: x.transpose(0, -1).contiguous() if x.ndim > 1 else x,
    "doubled": lambda x: torch.cat([x, x]) if x.ndim else x,
    "cut": lambda x: x[..., 1:] if x.ndim else x,
    "wide": lambda x: torch.cat([x, x], -1) if x.ndim else x,
    **{
        str(dtype): (lambda x, dtype=dtype: x.to(dtype))
        for dtype in (torch.int64, torch.bool, torch.complex64, torch.float8_e4m3fn)
    },
    "double": lambda x: x.double(),
    "half": lambda x: x.half(),
    "not finite": lambda x: x * float("nan"),
}
FUZZ = settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])


def harmless(file: Path, **options: int) -> None:
    """Loaded, or refused with a ValueError."""
    with suppress(ValueError):
        from_pretrained(file, **options)


@pytest.mark.slow
@FUZZ
@given(data=st.data(), name=st.sampled_from(sorted(FILES)))
def test_tensors_of_any_shape_and_kind(data: st.DataObject, name: str, tmp_path: Path) -> None:
    tensors = dict(FILES[name])
    for key in data.draw(st.sets(st.sampled_from(sorted(tensors)), min_size=1, max_size=3)):
        tensors[key] = CHANGES[data.draw(st.sampled_from(sorted(CHANGES)))](tensors[key])
    file = tmp_path / f"{os.urandom(4).hex()}.safetensors"
    save_tensors(file, tensors)
    harmless(file, num_heads=2) if name != "dvae" else harmless(file)


@pytest.mark.slow
@FUZZ
@given(data=st.data(), name=st.sampled_from(sorted(FILES)))
def test_names_of_any_kind(data: st.DataObject, name: str, tmp_path: Path) -> None:
    """Half renamed, mixed with another file's, or with names that look like something else."""
    tensors = dict(FILES[name])
    other = FILES[data.draw(st.sampled_from(sorted(FILES)))]
    for key in data.draw(st.sets(st.sampled_from(sorted(other)), max_size=5)):
        tensors[key] = other[key]
    for key in data.draw(st.sets(st.sampled_from(sorted(tensors)), max_size=5)):
        into = data.draw(
            st.sampled_from(["", "x", "../x", "__class__", f"{key}.0", key.replace("0", "9999"), "blocks.0.", "é\n"])
        )
        tensors[into] = tensors.pop(key)
    file = tmp_path / f"{os.urandom(4).hex()}.safetensors"
    save_tensors(file, tensors)
    harmless(file)


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from([0, -2, 10**400, "global", "pair"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=2),
    max_leaves=5,
)


@pytest.mark.slow
@FUZZ
@given(data=st.data())
def test_metadata_that_says_anything(data: st.DataObject, tmp_path: Path) -> None:
    said = json.loads(metadata_of(one_width())["torchflava"])
    for key in data.draw(st.sets(st.sampled_from(sorted(said)), min_size=1, max_size=2)):
        said[key] = data.draw(JSON)
    file = tmp_path / f"{os.urandom(4).hex()}.safetensors"
    save_tensors(file, one_width().state_dict(), {"torchflava": json.dumps(said)})
    harmless(file)


@pytest.mark.slow
@FUZZ
@given(data=st.data())
def test_a_config_that_says_anything(data: st.DataObject, tmp_path: Path) -> None:
    folder = tmp_path / os.urandom(4).hex()
    folder.mkdir()
    save_tensors(folder / "model.safetensors", FILES["transformers"])
    config = {"model_type": "flava"} | {
        f"{part}_config": {
            "hidden_size": width,
            "num_hidden_layers": depth,
            "intermediate_size": inside,
            "num_attention_heads": 2,
        }
        for part, width, depth, inside in (("image", 22, 2, 23), ("text", 26, 2, 29), ("multimodal", 34, 1, 31))
    }
    part = data.draw(st.sampled_from(sorted(config)))
    keys = ["layer_norm_eps", "num_attention_heads", "pad_token_id", "hidden_act", "hidden_size", "hidden_dropout_prob"]
    if part != "model_type" and data.draw(st.booleans()):
        config[part] |= {data.draw(st.sampled_from(keys)): data.draw(JSON)}  # type: ignore[operator]
    else:
        config[data.draw(st.sampled_from([part, "global_backprop_contrastive", f"{part}_dict"]))] = data.draw(JSON)
    (folder / "config.json").write_text(json.dumps(config))
    harmless(folder)


@pytest.mark.slow
@FUZZ
@given(text=st.binary(max_size=40) | st.text(max_size=20).map(str.encode) | JSON.map(lambda x: json.dumps(x).encode()))
def test_an_index_that_says_anything(text: bytes, tmp_path: Path) -> None:
    folder = tmp_path / os.urandom(4).hex()
    folder.mkdir()
    (folder / "model.safetensors.index.json").write_bytes(b'{"weight_map": ' + text + b"}")
    with suppress(ValueError, FileNotFoundError):  # a shard that is named and is not there
        from_pretrained(folder)


@pytest.mark.parametrize(
    "place", ["../secret.safetensors", "/etc/passwd", "..", ".", "a/b.safetensors", "model.safetensors.index.json"]
)
def test_an_index_that_leads_out_of_its_folder(place: str, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    save_tensors(tmp_path / "secret.safetensors", ENCODERS)
    where = dict.fromkeys(ENCODERS, place)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))
    with pytest.raises(ValueError, match="outside its folder"):
        from_pretrained(folder)


def test_deep_nesting_everywhere(tmp_path: Path) -> None:
    deep = "[" * 100_000
    save_tensors(tmp_path / "model.safetensors", FILES["transformers"])
    (tmp_path / "config.json").write_text('{"model_type": ' + deep)
    with pytest.raises(ValueError, match=r"config\.json is damaged"):
        from_pretrained(tmp_path)
    save_tensors(tmp_path / "own.safetensors", ENCODERS, {"torchflava": deep})
    with pytest.raises(ValueError, match="'torchflava' is damaged"):
        from_pretrained(tmp_path / "own.safetensors")


@pytest.mark.parametrize("length", [2**31, 2**40, 2**63, 10**9])
def test_a_header_that_claims_to_be_huge(length: int, tmp_path: Path) -> None:
    (tmp_path / "f.safetensors").write_bytes(
        struct.pack("<Q", length) + b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
    )
    with pytest.raises(ValueError, match=r"f\.safetensors"):
        from_pretrained(tmp_path / "f.safetensors")


def test_a_tensor_that_claims_to_be_huge(tmp_path: Path) -> None:
    for entry in ({"shape": [2**40], "data_offsets": [0, 2**42]}, {"shape": [2**62, 4], "data_offsets": [0, 4]}):
        header = json.dumps({"layernorm.weight": {"dtype": "F32", **entry}}).encode()
        (tmp_path / "f.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(16))
        with pytest.raises(ValueError, match=r"f\.safetensors is damaged"):
            from_pretrained(tmp_path / "f.safetensors")


def bomb(file: Path, method: int, size: int) -> None:
    """A zip like torch.save's whose entry unpacks to `size` bytes."""
    with zipfile.ZipFile(file, "w", method) as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02}q\x00." + bytes(size))
        archive.writestr("archive/version", b"3\n")


def test_a_zip_bomb_is_not_unpacked(tmp_path: Path) -> None:
    bomb(tmp_path / "f.pt", zipfile.ZIP_DEFLATED, 2**24)
    assert (tmp_path / "f.pt").stat().st_size < 2**20
    with pytest.raises(ValueError, match=r"f\.pt .*compressed"):
        from_pretrained(tmp_path / "f.pt")


def test_a_zip_whose_entries_lie_in_each_other(tmp_path: Path) -> None:
    """Many entries over the same bytes add up to more than the file."""
    bomb(tmp_path / "f.pt", zipfile.ZIP_STORED, 2**16)
    data = (tmp_path / "f.pt").read_bytes()
    end = data.rindex(b"PK\x05\x06")
    start = data.index(b"PK\x01\x02")
    first = data[start : data.index(b"PK\x01\x02", start + 4)]
    entries = (
        b"".join(first.replace(b"archive/data.pkl", b"archive/data.%03d" % i) for i in range(99)) + data[start:end]
    )
    tail = bytearray(data[end:])
    struct.pack_into("<HHII", tail, 8, 101, 101, len(entries), start)
    (tmp_path / "g.pt").write_bytes(data[:start] + entries + tail)
    with pytest.raises(ValueError, match=r"g\.pt .*more than there is"):
        from_pretrained(tmp_path / "g.pt")


@pytest.mark.parametrize(("at", "byte"), [(1, 0), (6, 255), (28, 255), (42, 255)])
def test_a_zip_whose_list_of_entries_is_damaged(at: int, byte: int, tmp_path: Path) -> None:
    """Its signature, the version that it asks for, the length of a name, the place of an entry."""
    torch.save(ENCODERS, tmp_path / "f.pt")
    data = bytearray((tmp_path / "f.pt").read_bytes())
    data[data.index(b"PK\x01\x02") + at] = byte
    (tmp_path / "f.pt").write_bytes(data)
    with pytest.raises(ValueError, match=r"f\.pt is damaged"):
        from_pretrained(tmp_path / "f.pt")


def test_a_name_that_is_no_path(tmp_path: Path) -> None:
    with pytest.raises((FileNotFoundError, ValueError)):
        from_pretrained("a\0b")
    save_pretrained(flava(), tmp_path / "f.safetensors")
    with pytest.raises((FileNotFoundError, NotADirectoryError)):
        from_pretrained(tmp_path / "f.safetensors" / "x")
