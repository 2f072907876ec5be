"""How long torch's own attention takes beside plain matmuls on the CPU: `python benchmarks/attention.py`.

One pre-norm block, forward and backward, at the widths and lengths that recipes use. The two take turns; the ratio of the least
times counts, in seconds of the processor, for a shared machine is never quiet. The table says where
`torchflava.training.attention_kernels` may choose plain matmuls.
"""

import platform
import time
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro
from torch.nn.attention import SDPBackend, sdpa_kernel

from torchflava.layers import transformer

SHAPES = (
    (128, 4, 17, 64),
    (128, 4, 37, 64),
    (192, 3, 17, 64),
    (192, 3, 65, 64),
    (768, 12, 77, 8),
    (768, 12, 197, 4),
    (768, 12, 901, 1),
)
"""Width, heads, tokens, batch."""


@dataclass(frozen=True)
class Config:
    """Compare attention's kernels."""

    turns: int = 7
    out: str = "benchmarks/results"


def seconds(block: torch.nn.Module, x: torch.Tensor, plain: bool) -> float:
    """Of the processor, for a forward and a backward pass."""
    with sdpa_kernel(SDPBackend.MATH) if plain else nullcontext():
        began = time.process_time()
        block(x).float().square().mean().backward()
        return time.process_time() - began


def main(config: Config) -> None:
    """Print the table and write it."""
    torch.set_num_threads(1)
    lines = [
        "| width | heads | tokens | batch | precision | own, ms | plain, ms | own / plain |",
        "|--:|--:|--:|--:|:--|--:|--:|--:|",
    ]
    for width, heads, tokens, batch in SHAPES:
        for dtype in (torch.float32, torch.bfloat16):
            block = transformer(width, 1, heads).to(dtype)
            x = torch.randn(batch, tokens, width, dtype=dtype)
            times = [(seconds(block, x, False), seconds(block, x, True)) for _ in range(config.turns + 1)][1:]
            own, plain = (1e3 * min(column) for column in zip(*times, strict=True))
            name = str(dtype).removeprefix("torch.")
            lines.append(
                f"| {width} | {heads} | {tokens} | {batch} | {name} | {own:.1f} | {plain:.1f} | {own / plain:.2f} |"
            )
            print(lines[-1], flush=True)
    where = f"torch {torch.__version__}, {platform.machine()}, {torch.backends.cpu.get_cpu_capability()}, one thread"
    folder = Path(config.out)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "attention.md").write_text(f"# benchmarks/attention.py\n\n{where}\n\n" + "\n".join(lines) + "\n")


if __name__ == "__main__":
    main(tyro.cli(Config))
