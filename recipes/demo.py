"""A local web page on a trained model: `python recipes/demo.py runs/first --images photos`, then open the address that it says.

Search images by text and texts by image, tell labels of your own apart, fill in masked words with and without the image, see
where the model looks. One process, on the CPU or a GPU; nothing is fetched from elsewhere. docs/demo.md tells more.
"""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro
from evaluation_settings import Subject


@dataclass(frozen=True)
class Demo:
    """Show what a model does, in a browser on this machine."""

    model: Annotated[str, tyro.conf.Positional]
    """A run's folder, or a file or folder of weights with its vocabulary beside it."""
    images: str = ""
    """Images to search: a folder, shards, a captions file, URLs or hub:NAME, as pretrain.py's --images; by default what the run
    held out."""
    texts: str = ""
    """A file with a text a line, to find for an image; by default the captions of the images."""
    most: int = 2000
    """Images that are searched, the first ones, and as many texts."""
    host: str = "127.0.0.1"
    """The address that the page is served at. Any other than this machine's own lets others use the page."""
    port: int = 8010
    """0 takes a free one."""
    vocab: str = ""
    """A vocabulary, vocab.txt or tokenizer.json; by default the one in the model's folder."""
    image_size: int = 0
    """Side of the images, to which the positions are resized; 0 is the model's own."""
    name: str = ""
    """What the page calls the model; the name of its folder or file by default."""
    device: Literal["auto", "cpu", "cuda"] = "auto"

    @property
    def subject(self) -> Subject:
        """The model, as evaluations name it."""
        return Subject(
            self.model, vocab=self.vocab, image_size=self.image_size, name=self.name, device=self.device, out="."
        )


def main(words: Sequence[str]) -> None:
    """Serve the page until Ctrl-C."""
    asked = tyro.cli(Demo, args=list(words), prog="demo.py")
    if told := next(complaints(asked), None):
        sys.exit(f"demo.py: {told}")

    from demo_answers import open_answers
    from demo_server import serve

    from torchflava.training import session

    try:
        with session(0, asked.device) as run:
            serve(open_answers(asked, run.device), asked.host, asked.port, shown=asked.subject.shown)
    except (ValueError, OSError) as error:
        sys.exit(f"demo.py: {error}")
    except KeyboardInterrupt:
        print("\nstopped", flush=True)


def complaints(asked: Demo) -> Iterator[str]:
    """What cannot be meant."""
    if asked.subject.is_code:
        yield f"{asked.model} is a function; the page shows models that this project builds, give a run or weights"
    elif not Path(asked.model).exists():
        yield f"{asked.model} is neither a file nor a folder that is there"
    for flag in ("vocab", "texts"):
        if getattr(asked, flag) and not Path(getattr(asked, flag)).is_file():
            yield f"--{flag} {getattr(asked, flag)} is not a file that is there"
    if asked.most < 1:
        yield f"--most {asked.most} must be 1 or more"
    if not 0 <= asked.port < 65536:
        yield f"--port {asked.port} must be from 0 to 65535"
    if asked.image_size < 0:
        yield f"--image-size {asked.image_size} must be above 0, or 0 for the model's own"


if __name__ == "__main__":
    main(sys.argv[1:])
