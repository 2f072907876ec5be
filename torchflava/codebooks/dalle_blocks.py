"""The body of DALL-E's dVAE, encoder and decoder, whatever its convolutions are (facts from openai/DALL-E@5be4b23).

A block adds to its input, which a 1 x 1 convolution widens where the width changes, `post_gain` times four convolutions, each
after a ReLU. Four groups of blocks: the encoder's first three end by halving the side, the decoder's by doubling it.
"""

from collections.abc import Callable, Collection

from torch import Tensor, nn

Make = Callable[[str], nn.Module]
"""The name of a convolution, such as `blocks.group_1.block_1.res_path.conv_1` -> itself."""


class Bottleneck(nn.Module):
    """A block of the given convolutions.

    Args:
        convolutions: the four of the residual path, in order.
        id_path: what the input passes on its way round them.
        post_gain: of the residual path.
    """

    def __init__(self, convolutions: Collection[nn.Module], id_path: nn.Module, post_gain: float) -> None:
        super().__init__()
        self.id_path = id_path
        self.res_path = nn.Sequential()
        for i, convolution in enumerate(convolutions, start=1):
            self.res_path.add_module(f"relu_{i}", nn.ReLU())
            self.res_path.add_module(f"conv_{i}", convolution)
        self.post_gain = post_gain

    def forward(self, x: Tensor) -> Tensor:
        """(B, W, s, s) -> (B, W', s, s)."""
        return self.id_path(x) + self.post_gain * self.res_path(x)


def encoder_blocks(names: Collection[str], make: Make) -> nn.Sequential:
    """The encoder of the tensors called `names`: pixels -> logits over codes."""
    return _body(names, make, lambda: ("pool", nn.MaxPool2d(2)))


def decoder_blocks(names: Collection[str], make: Make) -> nn.Sequential:
    """The decoder of the tensors called `names`: shares of codes -> what is said of pixels."""
    return _body(names, make, lambda: ("upsample", nn.Upsample(scale_factor=2, mode="nearest")))


def _body(names: Collection[str], make: Make, end: Callable[[], tuple[str, nn.Module]]) -> nn.Sequential:
    blocks = sum(name.startswith("blocks.group_1.") and name.endswith(".conv_1.w") for name in names)
    body = nn.Sequential()
    body.add_module("input", make("blocks.input"))
    for g in range(1, 5):
        group = nn.Sequential()
        for k in range(1, blocks + 1):
            name = f"blocks.group_{g}.block_{k}"
            id_path = make(f"{name}.id_path") if f"{name}.id_path.w" in names else nn.Identity()
            convolutions = [make(f"{name}.res_path.conv_{i}") for i in range(1, 5)]
            group.add_module(f"block_{k}", Bottleneck(convolutions, id_path, 1 / (4 * blocks) ** 2))
        if g < 4:
            group.add_module(*end())
        body.add_module(f"group_{g}", group)
    output = nn.Sequential()
    output.add_module("relu", nn.ReLU())
    output.add_module("conv", make("blocks.output.conv"))
    body.add_module("output", output)
    return body
