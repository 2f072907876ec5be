"""The laptop-sized twin of a run: the same losses, shares, schedule and parts, on few scenes, in less than a minute."""

from dataclasses import replace

from own import Own
from presets import Config

_STEPS = 20  # a block of the paper's shares, so that every kind of batch comes up


def twin(config: Config) -> Config:
    """`config` with everything shrunk that costs time: sizes, steps, batch; and scenes in place of what must be fetched.

    What makes a run the run that it is stays: losses and weights, shares, optimizer, schedule, the warm-up's share of it, and the
    parts of the model. First weights are left out, for they are of the large model; a twin's own can be given. It computes in
    fp32, because bf16 is slow on processors that have no instructions for it.
    """
    return replace(
        config, twin=True, corpus="scenes", own=Own(), vocab="", codebook="", init_image="", init_text="",
        model="tiny", image_size=32, patch_size=8, code_size=32, num_codes=32, max_length=32, text_length=0,
        steps=_STEPS, batch_size=16, warmup_steps=_STEPS * config.warmup_steps // config.steps,
        vocab_size=600 if config.tokenizer == "bpe" else 300,
        log_every=1, save_every=_STEPS, measure_every=0, micro_batch=0, threads=1,
        precision="fp32",
    )  # fmt: skip
