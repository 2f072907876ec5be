"""A model, or a codebook, sent to the Hugging Face Hub: its weights, its vocabulary, and a page that says what it is."""

import json
import shutil
import tempfile
from pathlib import Path

from torchflava.codebooks import DalleCodebook, PatchCodebook
from torchflava.models.card import Facts, model_card, without_places
from torchflava.models.hub import CODEBOOK
from torchflava.models.weights import Loadable, save_pretrained
from torchflava.transforms.tokenizer import VOCABULARIES, TextTokenizer

_OF_A_RUN = ("vocab.txt", "tokenizer.json", CODEBOOK)


def push_to_hub(
    model: Loadable,
    name: str,
    *,
    run: str | Path | None = None,
    tokenizer: TextTokenizer | None = None,
    codebook: DalleCodebook | PatchCodebook | None = None,
    facts: Facts | None = None,
    private: bool | None = None,
    revision: str | None = None,
) -> str:
    """Send a model to the Hugging Face Hub, from where `from_pretrained(name)` loads it; the address of what was sent.

    The user's token is `huggingface_hub`'s: `hf auth login`, or `HF_TOKEN`. Where a run's data and checkpoints lie is left out.

    Args:
        model: not sharded, of this project's own parts; or a codebook by itself, which `--codebook NAME` of the recipes takes.
        name: OWNER/NAME; made if it is not there.
        run: the folder of the run that trained it: its settings and results are told on the page, and its vocabulary and
            codebook go with the weights. Of a codebook's own run the settings and results are told.
        tokenizer: the vocabulary, in place of the run's.
        codebook: in place of the run's.
        facts: licence, data sets and languages, for the page.
        private: whether only the owner sees it, if it is made; None leaves it to the owner's settings.
        revision: a branch, which is made if it is not there; `main` unless given.

    Raises:
        ValueError: for a model that weights alone would not bring back, for what does not go with a codebook, and for a name that
            the Hub does not take.
        PermissionError: if the Hub does not let this user write there.
        ConnectionError: if the Hub cannot be reached.
    """
    alone = isinstance(model, DalleCodebook | PatchCodebook)
    if alone and (tokenizer is not None or codebook is not None):
        raise ValueError(f"a {type(model).__name__} goes by itself; leave tokenizer and codebook out")
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        _fill(folder, model, run=run, tokenizer=tokenizer, codebook=codebook)
        (folder / "README.md").write_text(model_card(model, name, facts=facts, run=run), encoding="utf-8")
        message = f"A {type(model).__name__} of torchflava"
        outdated = (CODEBOOK,) if alone else _outdated({file.name for file in folder.iterdir()})
        return _send(folder, name, message, outdated=outdated, private=private, revision=revision)


def _send(
    folder: Path, name: str, message: str, *, outdated: tuple[str, ...], private: bool | None, revision: str | None
) -> str:
    from huggingface_hub import HfApi  # it loads an HTTP client, and few need it
    from huggingface_hub.errors import (  # type: ignore[attr-defined]  # HTTPError is that of its HTTP client
        HfHubHTTPError,
        HFValidationError,
        HTTPError,
        OfflineModeIsEnabled,
    )

    api = HfApi(library_name="torchflava")
    try:
        api.create_repo(name, private=private, exist_ok=True)
        if revision is not None:
            api.create_branch(name, branch=revision, exist_ok=True)
        sent = api.upload_folder(
            repo_id=name,
            folder_path=folder,
            revision=revision,
            commit_message=message,
            delete_patterns=list(outdated) or None,
        )
    except HFValidationError as error:
        raise ValueError(f"{name!r} is no name for a model on the Hub, which are OWNER/NAME: {error}") from error
    except OfflineModeIsEnabled as error:
        raise ConnectionError(f"nothing is sent while HF_HUB_OFFLINE is set; unset it to send {name!r}") from error
    except HfHubHTTPError as error:
        if error.response is not None and error.response.status_code in (401, 403):
            raise PermissionError(
                f"the Hub does not let this user write to {name!r}; log in by `hf auth login`, or set HF_TOKEN to a "
                f"token that may write ({error})"
            ) from error
        raise ConnectionError(f"the Hub did not take {name!r}: {error}") from error
    except HTTPError as error:
        raise ConnectionError(f"the Hub cannot be reached to send {name!r}: {error}") from error
    return str(sent.commit_url)


def _outdated(sent: set[str]) -> tuple[str, ...]:
    """The names under which an older vocabulary would lie beside the one that is sent, and might be taken for it."""
    others = tuple(name for name in VOCABULARIES if name not in sent)
    return others if len(others) < len(VOCABULARIES) else ()


def _fill(
    folder: Path,
    model: Loadable,
    *,
    run: str | Path | None,
    tokenizer: TextTokenizer | None,
    codebook: DalleCodebook | PatchCodebook | None,
) -> None:
    """Put into a folder all that is sent but the page."""
    save_pretrained(model, folder)
    if run is not None:
        _copy_run(Path(run), folder, () if isinstance(model, DalleCodebook | PatchCodebook) else _OF_A_RUN)
    if tokenizer is not None:
        (folder / "vocab.txt").unlink(missing_ok=True)
        tokenizer.save(folder / "tokenizer.json")
    if codebook is not None:
        codebook.save(folder / CODEBOOK)


def _copy_run(run: Path, folder: Path, names: tuple[str, ...]) -> None:
    """Copy files of these names, and the settings, without the places that they name."""
    if not run.is_dir():
        raise FileNotFoundError(
            f"there is no run's folder {run}; leave it out, or name the folder with its config.json"
        )
    for name in names:
        if (run / name).is_file():
            shutil.copyfile(run / name, folder / name)
    if (run / "config.json").is_file():
        try:
            config = json.loads((run / "config.json").read_bytes())
        except ValueError as error:
            raise ValueError(f"{run / 'config.json'} is damaged ({error}); leave the run out, or repair it") from error
        (folder / "config.json").write_text(json.dumps(without_places(config), indent=1), encoding="utf-8")
