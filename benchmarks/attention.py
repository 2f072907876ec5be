"""How long torch's own attention takes beside plain products on the CPU: `python benchmarks/attention.py`.

One pre-norm block, forward and backward, and forward alone, at the widths and lengths that recipes use. The two take turns; the
ratio of the least times counts, in seconds of the processor, for a shared machine is never quiet. The table says where
`torchflava.layers.attend` takes plain products (docs/decisions/0006).
"""

import platform
import time
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro

from torchflava.layers import attend, transformer

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


def seconds(block: torch.nn.Module, x: torch.Tensor, *, plain: bool, learn: bool) -> float:
    """Of the processor, for a forward pass, and a backward one where the block is to learn."""
    chosen = attend._by_products
    attend._by_products = lambda q: plain
    try:
        with torch.set_grad_enabled(learn):
            began = time.process_time()
            y = block(x)
            if learn:
                y.float().square().mean().backward()
            return time.process_time() - began
    finally:
        attend._by_products = chosen


def main(config: Config) -> None:
    """Print the table and write it."""
    torch.set_num_threads(1)
    lines = [
        "| width | heads | tokens | batch | precision | pass | torch's, ms | products, ms | torch's / products |",
        "|--:|--:|--:|--:|:--|:--|--:|--:|--:|",
    ]
    for width, heads, tokens, batch in SHAPES:
        for dtype in (torch.float32, torch.bfloat16):
            block = transformer(width, 1, heads).to(dtype)
            x = torch.randn(batch, tokens, width, dtype=dtype)
            for learn in (True, False):
                ways = [
                    [seconds(block, x, plain=plain, learn=learn) for plain in (False, True)]
                    for _ in range(config.turns + 1)
                ]
                own, plain = (1e3 * min(column) for column in zip(*ways[1:], strict=True))
                name, passes = str(dtype).removeprefix("torch."), "both" if learn else "forward"
                lines.append(
                    f"| {width} | {heads} | {tokens} | {batch} | {name} | {passes} | {own:.1f} | {plain:.1f} | "
                    f"{own / plain:.2f} |"
                )
                print(lines[-1], flush=True)
    where = f"torch {torch.__version__}, {platform.machine()}, {torch.backends.cpu.get_cpu_capability()}, one thread"
    folder = Path(config.out)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "attention.md").write_text(f"# benchmarks/attention.py\n\n{where}\n\n" + "\n".join(lines) + "\n")


if __name__ == "__main__":
    main(tyro.cli(Config))
