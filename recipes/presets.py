"""Settings of a pretraining run, and the runs that have a name: functions that return a `Config`."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import chain
from typing import Annotated, Any, Literal

import tyro
from keeping import Keeping
from own import Own


@dataclass(frozen=True)
class Shares:
    """The share of the steps that each kind of batch has; 0 leaves a kind out (paper §4.1: .70, .15, .15)."""

    pair: float = 0.70
    image: float = 0.15
    text: float = 0.15


@dataclass(frozen=True)
class Weights:
    """What each loss is multiplied with before the sum; 0 takes its head out of the model (paper §3.2: all 1)."""

    mim: float = 1.0
    mlm: float = 1.0
    mmm_image: float = 1.0
    mmm_text: float = 1.0
    itm: float = 1.0
    contrastive: float = 1.0


@dataclass(frozen=True)
class Config(Keeping):
    """Pretrain FLAVA. Every setting is a flag; `--preset NAME` first chooses where they start from."""

    preset: str = "scenes"
    """Where the other settings start from: scenes, emoji, tiny, or a row of the paper's such as flava (docs/presets.md)."""
    twin: bool = False
    """Shrink what the preset asks for to a minute on a laptop, on scenes, through the same code."""
    corpus: Literal["scenes", "emoji", "own"] = "scenes"
    """What to train on: scenes drawn on the fly, emoji from `--data`, or your own `--pairs`, `--images` and `--texts`."""
    data: str = "data/emoji"
    """The folder that recipes/data/emoji.py wrote; the others need none."""
    own: Annotated[Own, tyro.conf.arg(name="")] = field(default_factory=Own)
    vocab: str = ""
    """A vocabulary: WordPiece such as BERT's vocab.txt or, for CLIP, its byte-level BPE; without one it is learnt."""
    tokenizer: Literal["wordpiece", "bpe"] = "wordpiece"
    """Of which kind is the vocabulary that is learnt from the captions: BERT's, or CLIP's, which goes with CLIP alone."""
    codebook: str = ""
    """A codebook: a run's codebook.safetensors, the weights of DALL-E's dVAE, or the name of either on the Hugging Face Hub; by
    default it is fitted to the images."""
    architecture: Literal["flava", "clip"] = "flava"
    """FLAVA, or CLIP, which learns by the contrastive loss alone: other weights, and shares of images and texts, must be 0."""
    model: str = "mini"
    """A size: tiny, mini, small, medium, base, 900m, 1.8b, 2.7b, 4.8b or 10b; CLIP has those up to base."""
    image_encoder: Literal["vit", "beit"] = "vit"
    """Blocks of the image encoder: ViT's, or BEiT's, with biases by relative position and scaled branches."""
    init_image: str = ""
    """First weights of the image encoder: DINO's or BEiT's, or a run's; without them they are drawn."""
    init_text: str = ""
    """First weights of the text encoder: a run's folder, such as one of text_stage1; without them they are drawn."""
    image_size: int = 48
    """Side of the encoder's images, in pixels."""
    patch_size: int = 12
    """Side of a patch, in pixels."""
    vocab_size: int = 512
    """Of the vocabulary that is learnt from the captions."""
    max_length: int = 32
    """Of a caption, in tokens; what is longer is cut."""
    text_length: int = 0
    """Of a text of --texts, in tokens, 512 in the paper; 0 takes --max-length."""
    code_precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Of DALL-E's dVAE, where it runs in training; OpenAI ran it in fp16. Lower ones change some codes (docs/decisions/0070)."""
    num_codes: int = 128
    """Of the codebook that is fitted to the images."""
    code_size: int = 48
    """Side of the codebook's images, in pixels."""

    steps: int = 900
    batch_size: int = 64
    """Samples in a step, over all ranks."""
    lr: float = 1.5e-3
    """Peak learning rate."""
    weight_decay: float = 0.1
    warmup_steps: int = 50
    clip: float = 1.0
    """Greatest norm of the gradients; 0 clips none."""
    betas: tuple[float, float] = (0.9, 0.98)
    eps: float = 1e-8
    """Of AdamW."""
    schedule: Literal["cosine", "linear"] = "cosine"
    """How the learning rate falls to 0 after the warm-up."""
    shares: Shares = field(default_factory=Shares)
    weights: Weights = field(default_factory=Weights)
    gradients: Literal["global", "local", "none"] = "global"
    """Through whose embeddings the contrastive loss differentiates."""
    loss_mean: Literal["global", "rank"] = "global"
    """Means over the labelled rows of all ranks, or of each rank alone as in the references."""
    itm_input: Literal["masked", "clean"] = "masked"
    """What matching looks at."""
    mismatch_rate: float = 0.25
    """Share of the pairs whose masked text is another's."""
    mask_rate: float = 0.25
    """Share of the words that are masked, whole words at a time in captions."""
    patch_mask_rate: float = 75 / 196
    """Share of the patches that are masked, at most."""

    max_corrupt_fraction: float = 0.01
    """Share of a source's samples that may be unreadable, hence replaced by others, before the run stops."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Of forward and backward; weights are kept in fp32. In fp16 the loss is scaled, and steps that overflow are left out."""
    micro_batch: int = 0
    """Rows that a rank computes at a time, for batches that do not fit; same losses and gradients. 0 means all of them."""
    spread: Literal["all", "node", "copies"] = "all"
    """Weights lie on all ranks in shards, on those of a node with a copy on each node, or as a copy on each rank."""
    recompute: Literal["none", "selective", "full"] = "none"
    """Inner states of blocks that backward computes again instead of keeping: none, all but linear layers' results, or all."""
    compiled: bool = False
    """Compile each block."""
    offload: bool = False
    """Keep weights, gradients and moments in main memory."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: int = 1
    """That make batches, on each rank."""
    seed: int = 0
    measure_every: int = 0
    """Steps between two measurements on what was held out, for a curve in the log; 0 measures at the end alone."""
    select: str = ""
    """A reading, such as "zero-shot, all 64" or "image to text R@1", by which the best measured checkpoint is kept, and is what
    the run ends with; none, and it ends with the last."""
    peak_tflops: float = 0.0
    """What each device can do, in 10^12 operations a second, to tell how much of it is used; 0 means by the GPU's name."""


def scenes() -> Config:
    """The default: a FLAVA that learns captioned scenes in about three minutes on two CPU cores."""
    return Config()


def tiny() -> Config:
    """For tests: a few steps in a few seconds, through the same code."""
    return Config(
        preset="tiny", model="tiny", image_size=32, patch_size=8, code_size=32, num_codes=32, vocab_size=300,
        steps=5, batch_size=8, warmup_steps=2, log_every=1, save_every=5, mismatch_rate=0.3,
    )  # fmt: skip


def emoji() -> Config:
    """Emoji of two vendors, evaluated on a third's; 90 minutes on two CPU cores that compute in bf16. See docs/emoji.md."""
    return Config(
        preset="emoji", corpus="emoji", vocab_size=3000, max_length=20, num_codes=256, mismatch_rate=0.1,
        steps=9_000, batch_size=256, lr=1.2e-3, warmup_steps=300, shares=Shares(0.8, 0.1, 0.1), precision="bf16",
        log_every=25, save_every=1500, measure_every=1500,
    )  # fmt: skip


def presets() -> dict[str, Callable[[], Config]]:
    """All runs that have a name."""
    from paper import ROWS  # here, because the paper's rows are Configs themselves

    return {"scenes": scenes, "emoji": emoji, "tiny": tiny} | ROWS


def parse(words: Sequence[str], *, places: bool = True, ranks: Sequence[int] = ()) -> Config:
    """The settings that command-line `words` ask for; ends the program with the nearest flag where one is unknown.

    Args:
        words: of the command line.
        places: whether to look for the files and folders that they name, which may lie where only the job sees them.
        ranks: how many processes the job may have, where that is known.
    """
    from complaints import complaints, complaints_of_places, complaints_of_ranks  # here, because they speak of a Config

    if sum(word.partition("=")[0] == "--preset" for word in words) > 1:
        sys.exit("pretrain.py: --preset is given twice; name one")
    name, named = preset_of(words), presets()
    if name not in named:
        sys.exit(f"no preset is called {name!r}; there are {', '.join(named)}")
    base = replace(named[name](), preset=name)
    if "--twin" in words:
        from twins import twin

        base = twin(base)
    config = tyro.cli(Config, args=list(words), default=base, prog="pretrain.py")
    found = chain(
        complaints(config),
        complaints_of_ranks(config.batch_size, ranks),
        complaints_of_places(config) if places else (),
    )
    if complaint := next(found, None):  # those after it may rely on its not being there
        sys.exit(f"pretrain.py: {complaint}")
    return config


def needs_codes(config: Config) -> bool:
    """Whether a loss that is trained predicts codes of patches."""
    shares, weights = config.shares, config.weights
    return bool((shares.image and weights.mim) or (shares.pair and weights.mmm_image))


def preset_of(words: Sequence[str]) -> str:
    """The preset that command-line `words` name, or the default one."""
    for at, word in enumerate(words):
        if word == "--preset" and at + 1 < len(words):
            return words[at + 1]
        if word.startswith("--preset="):
            return word.partition("=")[2]
    return "scenes"


def shaping(config: Keeping) -> dict[str, Any]:
    """The settings that shape a run and must be the same when it goes on: all but where things lie and how it is watched.

    Which data it is, `data.json` says; vocabulary and codebook lie in the run's folder.
    """
    lying = ("folder", "name", "checkpoints", "resume", "data", "own", "vocab", "codebook", "init_image", "init_text")
    computed = ("threads", "device", "spread", "recompute", "compiled", "offload", "micro_batch")
    watched = (
        "log_every",
        "save_every",
        "measure_every",
        "measured",
        "debug",
        "peak_tflops",
        "wandb",
        "profile_at",
        "select",
    )
    kept = ("keep", "keep_every", "on_spike", "spike", "max_corrupt_fraction")
    passing = (*lying, *computed, *watched, *kept)
    return {name: value for name, value in as_json(config).items() if name not in passing}


def as_json(config: Keeping) -> dict[str, Any]:
    """All settings, as JSON holds them."""
    plain: dict[str, Any] = _plain(asdict(config))
    return plain


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(part) for key, part in value.items()}
    return [*value] if isinstance(value, tuple) else value
