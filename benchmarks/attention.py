"""How long torch's own attention takes beside plain products on the CPU: `python benchmarks/attention.py`.

One pre-norm block, forward and backward, and forward alone, at the widths and lengths that recipes use. The ways take turns; the
ratio of the least times counts, in seconds of the processor, for a shared machine is never quiet. The table says where
`torchflava.layers.attend` takes plain products (docs/decisions/0006), and where it makes their table again in backward (0074).
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
    (768, 12, 222, 4),
    (768, 12, 577, 1),
    (768, 12, 901, 1),
)
"""Width, heads, tokens, batch."""


@dataclass(frozen=True)
class Config:
    """Compare attention's kernels."""

    turns: int = 7
    out: str = "benchmarks/results"


WAYS = ("torch's", "products", "again")


def seconds(block: torch.nn.Module, x: torch.Tensor, *, way: str, learn: bool) -> float:
    """Of the processor, for a forward pass, and a backward one where the block is to learn."""
    chosen = attend._by_products, attend._AGAIN
    attend._by_products = lambda q: way == "products"
    attend._AGAIN = range(x.shape[1], x.shape[1] + (way == "again"))
    try:
        with torch.set_grad_enabled(learn):
            began = time.process_time()
            y = block(x)
            if learn:
                y.float().square().mean().backward()
            return time.process_time() - began
    finally:
        attend._by_products, attend._AGAIN = chosen


def main(config: Config) -> None:
    """Print the table and write it."""
    torch.set_num_threads(1)
    lines = [
        "| width | heads | tokens | batch | precision | pass | torch's, ms | products, ms | again, ms | "
        "torch's / products | products / again |",
        "|--:|--:|--:|--:|:--|:--|--:|--:|--:|--:|--:|",
    ]
    for width, heads, tokens, batch in SHAPES:
        for dtype in (torch.float32, torch.bfloat16):
            block = transformer(width, 1, heads).to(dtype)
            x = torch.randn(batch, tokens, width, dtype=dtype)
            for learn in (True, False):
                ways = WAYS if learn and dtype == torch.bfloat16 else WAYS[:2]
                turns = [[seconds(block, x, way=way, learn=learn) for way in ways] for _ in range(config.turns + 1)]
                own, plain, *again = (1e3 * min(column) for column in zip(*turns[1:], strict=True))
                name, passes = str(dtype).removeprefix("torch."), "both" if learn else "forward"
                made = (f"{again[0]:.1f}", f"{plain / again[0]:.2f}") if again else ("", "")
                lines.append(
                    f"| {width} | {heads} | {tokens} | {batch} | {name} | {passes} | {own:.1f} | {plain:.1f} | {made[0]} | "
                    f"{own / plain:.2f} | {made[1]} |"
                )
                print(lines[-1], flush=True)
    where = f"torch {torch.__version__}, {platform.machine()}, {torch.backends.cpu.get_cpu_capability()}, one thread"
    folder = Path(config.out)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "attention.md").write_text(f"# benchmarks/attention.py\n\n{where}\n\n" + "\n".join(lines) + "\n")


if __name__ == "__main__":
    main(tyro.cli(Config))
