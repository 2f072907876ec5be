"""Models on the Hugging Face Hub: found on the disk, fetched once, or sent there.

Only what a model is made of is fetched: its weights (safetensors where there are any), its configuration and its vocabulary.
`huggingface_hub` keeps them in its cache, reads the token (`HF_TOKEN`) and heeds `HF_ENDPOINT` and `HF_HUB_OFFLINE`.
"""

import os
import re
from collections.abc import Sequence
from pathlib import Path

_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_FILES = (".safetensors", ".bin", ".pt", ".pth", ".pkl", ".ckpt", ".json", ".npz", ".tar", ".zip", ".txt")
_BESIDE = ("config.json", "preprocessor_config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
           "vocab.txt", "vocab.json", "merges.txt", "codebook.safetensors", "open_clip_config.json")  # fmt: skip
CODEBOOK = "codebook.safetensors"
"""What a codebook is called in the folder of a model."""
_WEIGHTS = (("model.safetensors", "model-*.safetensors", "model.safetensors.index.json"),
            ("pytorch_model.bin", "pytorch_model-*.bin", "pytorch_model.bin.index.json"),
            ("open_clip_model.safetensors",), ("open_clip_pytorch_model.bin",))  # fmt: skip
"""The first of these that there are."""


def find_or_fetch(path: str | os.PathLike[str], revision: str | None = None) -> Path:
    """The file or folder of that name or, where there is none and it is the name of a model on the Hub, its folder in the cache.

    Raises:
        FileNotFoundError: if there is neither.
        ConnectionError: if the Hub cannot be reached and its cache has not all that is needed.
        PermissionError: if the Hub refuses the model to this user.
        ValueError: for a `revision` of a file.
    """
    place = Path(path)
    if place.exists():
        if revision is not None:
            raise ValueError(f"{place} is on this disk and has no revision {revision!r}; leave it out")
        return place
    if not isinstance(path, str) or not is_hub_name(path):
        hint = "a model on the Hugging Face Hub is named OWNER/NAME, as a string"
        raise FileNotFoundError(f"there is no file or folder {os.fspath(path)}; {hint}")
    return _fetch(path, revision)


def find_or_fetch_codebook(path: str | os.PathLike[str], revision: str | None = None) -> Path:
    """As `find_or_fetch`, of a codebook: `codebook.safetensors` in the folder where there is one, else what is found.

    Of a model on the Hub that has its codebook beside it, the codebook alone is fetched.

    Raises:
        FileNotFoundError, ConnectionError, PermissionError, ValueError: as `find_or_fetch`.
    """
    if isinstance(path, str) and not Path(path).exists() and is_hub_name(path):
        place = _snapshot(path, revision, (CODEBOOK,))
        if not (place / CODEBOOK).is_file():
            place = _fetch(path, revision)
    else:
        place = find_or_fetch(path, revision)
    return place / CODEBOOK if (place / CODEBOOK).is_file() else place


def is_hub_name(name: str) -> bool:
    """Whether a string that is no file's has the form OWNER/NAME, and not that of a path with a mistake in it."""
    owner = name.partition("/")[0]
    return bool(_NAME.fullmatch(name)) and not name.endswith(_FILES) and ".." not in name and not Path(owner).exists()


def _fetch(name: str, revision: str | None) -> Path:
    for weights in _WEIGHTS:
        folder = _snapshot(name, revision, (*_BESIDE, *weights))
        if any(list(folder.glob(pattern)) for pattern in weights):
            return folder
    from huggingface_hub import HfApi  # it loads an HTTP client, and few need it
    from huggingface_hub.errors import HTTPError, OfflineModeIsEnabled  # type: ignore[attr-defined]

    try:
        there = sorted(HfApi().list_repo_files(name, revision=revision))
    except (HTTPError, OfflineModeIsEnabled) as error:
        raise ConnectionError(f"the cache has no weights of {name!r}, and the Hub cannot be asked: {error}") from error
    raise FileNotFoundError(
        f"{name!r} on the Hub has no model.safetensors and no pytorch_model.bin, only {', '.join(there[:12]) or 'nothing'}; "
        "download the file that you need and give its path"
    )


def _snapshot(name: str, revision: str | None, patterns: Sequence[str]) -> Path:
    """The folder in the cache with a model's files of these names."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (  # type: ignore[attr-defined]  # HTTPError is that of its HTTP client
        GatedRepoError,
        HFValidationError,
        HTTPError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    where = f"{name!r} at revision {revision!r}" if revision else repr(name)
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=list(patterns)))
    except GatedRepoError as error:
        raise PermissionError(
            f"{where} on the Hub is for those only who were let in; ask for access on its page, then log in by "
            "`hf auth login` or set HF_TOKEN"
        ) from error
    except RevisionNotFoundError as error:
        raise FileNotFoundError(
            f"{name!r} on the Hub has no revision {revision!r}; leave it out for the newest"
        ) from error
    except RepositoryNotFoundError as error:
        raise FileNotFoundError(
            f"there is no file or folder {name}, and the Hub shows no model {name!r} to this user; check the spelling, or if "
            "it is private log in by `hf auth login` or set HF_TOKEN"
        ) from error
    except HFValidationError as error:
        raise FileNotFoundError(f"there is no file or folder {name}, and it is no name on the Hub: {error}") from error
    except LocalEntryNotFoundError as error:
        raise ConnectionError(
            f"there is no file or folder {name}, and the model {where} is not whole in the cache while the Hub cannot be "
            f"reached ({_why(error)}); fetch it once with a network, without HF_HUB_OFFLINE"
        ) from error
    except HTTPError as error:  # its own, and those of the connection
        raise ConnectionError(f"the Hub did not give {where}: {error}") from error


def _why(error: BaseException) -> str:
    cause = error.__cause__ or error
    return str(cause).splitlines()[0] if str(cause) else type(cause).__name__
