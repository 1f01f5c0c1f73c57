"""Networks, each of which loses shift invariance for one reason."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from small_networks import (
    Applied,
    Branches,
    Mixer,
    Positions,
    Swinlike,
    Tokens,
    circular,
    classifier,
    uneven,
)
from torch import nn

from shiftproof.nn import (
    AlignPhase2d,
    BlurPool2d,
    FirstPhase,
    LowPass2d,
    MaxPool2d,
    PolyphaseDownsample2d,
)


@dataclass(frozen=True)
class Broken:
    """How to build a network, and whom it must blame."""

    build: Callable[[], nn.Module]
    module: str
    type: str
    reason: str
    size: int = 16


def broken_layer(layer, type_name, reason, module="2", **options):
    return Broken(lambda: classifier(layer()), module, type_name, reason, **options)


def broken_function(function, reason):
    return broken_layer(lambda: Applied(function), "Applied", reason)


NO_CHOICE = "stride 2 keeps phase 0 whatever the content"

BROKEN = {
    "zero padding": broken_layer(
        lambda: nn.Conv2d(4, 4, 3, padding=1), "Conv2d", "zero padding of 1 pixel"
    ),
    "same padding": broken_layer(
        lambda: nn.Conv2d(4, 4, 5, padding="same"), "Conv2d", "zero padding ('same')"
    ),
    "reflect padding": broken_layer(
        lambda: circular(4, 4, 5, padding_mode="reflect"), "Conv2d", "reflect padding of 2 pixels"
    ),
    "replicate padding": broken_layer(
        lambda: circular(4, 4, padding_mode="replicate"), "Conv2d", "replicate padding of 1 pixel"
    ),
    "padding module": broken_layer(
        lambda: nn.Sequential(nn.ReflectionPad2d(1), nn.Conv2d(4, 4, 3)),
        "ReflectionPad2d",
        "reflect padding",
        "2.0",
    ),
    "constant padding module": broken_layer(
        lambda: nn.Sequential(nn.ConstantPad2d(1, 0.5), nn.Conv2d(4, 4, 3)),
        "ConstantPad2d",
        "constant padding",
        "2.0",
    ),
    "functional padding": broken_function(lambda x: F.pad(x, (1, 1, 1, 1)), "zero padding"),
    "functional replicate padding": broken_function(
        lambda x: F.pad(x, (1, 1, 1, 1), mode="replicate"), "replicate padding"
    ),
    "padded max pool": broken_layer(
        lambda: nn.MaxPool2d(3, 1, 1), "MaxPool2d", "padding with minus infinity of 1 pixel"
    ),
    "padded average pool": broken_layer(
        lambda: nn.AvgPool2d(3, 1, 1), "AvgPool2d", "zero padding of 1 pixel"
    ),
    "functional pool": broken_function(lambda x: F.max_pool2d(x, 2), NO_CHOICE),
    "functional convolution": broken_function(
        lambda x: F.conv2d(x, torch.ones(4, 1, 2, 2).to(x), None, 2, groups=4), NO_CHOICE
    ),
    "stride": broken_layer(lambda: circular(4, 4, stride=2), "Conv2d", NO_CHOICE),
    "stride with zero padding": broken_layer(
        lambda: nn.Conv2d(4, 4, 3, 2, 1), "Conv2d", f"zero padding of 1 pixel; {NO_CHOICE}"
    ),
    "stride without a choice": broken_layer(
        lambda: PolyphaseDownsample2d(2, FirstPhase()),
        "PolyphaseDownsample2d",
        "stride 2 keeps one phase whatever the content",
    ),
    "blur pool": broken_layer(lambda: BlurPool2d(3), "BlurPool2d", NO_CHOICE),
    "reflecting filter": broken_layer(
        lambda: LowPass2d(3, "reflect"), "LowPass2d", "reflect padding of 1 pixel"
    ),
    "zero-padded pool": broken_layer(
        lambda: MaxPool2d(3, 1, (1, 1), "zeros"), "MaxPool2d", "zero padding of 1 pixel"
    ),
    "slicing": broken_function(
        lambda x: x[:, :, ::2, ::2], "slicing with stride 2 keeps phase 0 whatever the content"
    ),
    "cropping": broken_function(
        lambda x: x[:, :, 1:-1, 1:-1], "slicing cuts the map at a fixed place"
    ),
    "odd size": broken_layer(
        lambda: nn.Sequential(
            PolyphaseDownsample2d(2), PolyphaseDownsample2d(2), circular(4, 4, stride=2)
        ),
        "Conv2d",
        "stride 2 on a map of 7 x 7, which it does not divide",
        "2.2",
        size=28,
    ),
    "unpadded window": broken_layer(
        lambda: nn.Conv2d(4, 4, 3),
        "Conv2d",
        "a window of 3 x 3 without padding leaves 14 x 14 of 16 x 16",
    ),
    "unpadded strided window": broken_layer(
        lambda: nn.MaxPool2d(3, 2),
        "MaxPool2d",
        f"{NO_CHOICE}; a window of 3 x 3 without padding leaves 7 x 7 of 8 x 8",
    ),
    "ceil mode": broken_layer(
        lambda: nn.Sequential(AlignPhase2d(2), nn.MaxPool2d(3, 2, ceil_mode=True)),
        "MaxPool2d",
        "ceil_mode adds a window that hangs over the border",
        "2.1",
    ),
    "ceil mode of an odd size": broken_layer(
        lambda: nn.MaxPool2d(2, 2, ceil_mode=True),
        "MaxPool2d",
        "ceil_mode adds a window that hangs over the border; "
        "stride 2 on a map of 15 x 15, which it does not divide",
        size=15,
    ),
    "too much padding": broken_layer(
        lambda: circular(4, 4, 3, padding=2),
        "Conv2d",
        "a window of 3 x 3 that gives 18 x 18 in the place of 16 x 16",
    ),
    "flatten": Broken(
        lambda: nn.Sequential(circular(2, 4), nn.ReLU(), nn.Flatten(), nn.Linear(1024, 3)),
        "3",
        "Linear",
        "a linear layer across a map of 16 x 16, with weights of its own for each",
    ),
    "functional flatten": Broken(
        lambda: nn.Sequential(Applied(lambda x: x.flatten(1), 2), nn.Linear(1024, 3)),
        "1",
        "Linear",
        "a linear layer across a map of 16 x 16, with weights of its own for each",
    ),
    "position embedding": Broken(
        lambda: Tokens(positions=True),
        "",
        "Tokens",
        "other values joined to the positions of a map",
    ),
    "position embedding of a map": broken_layer(
        lambda: Positions(), "Positions", "position embedding: 2.table stays where it is"
    ),
    "adaptive pooling": broken_layer(
        lambda: nn.AdaptiveAvgPool2d(4),
        "AdaptiveAvgPool2d",
        "adaptive pooling to 4 x 4 cells, which stay where they are",
    ),
    "functional adaptive pooling": broken_function(
        lambda x: F.adaptive_max_pool2d(x, (4, 2)),
        "adaptive pooling to 4 x 2 cells, which stay where they are",
    ),
    "interpolation to no multiple": broken_layer(
        lambda: nn.Upsample(size=(24, 24)),
        "Upsample",
        "interpolation from 16 x 16 to 24 x 24, which is no multiple",
    ),
    "functional interpolation": broken_function(
        lambda x: F.interpolate(x, size=(10, 10), mode="bilinear"),
        "interpolation from 16 x 16 to 10 x 10, which is no multiple",
    ),
    "bilinear interpolation": broken_layer(
        lambda: nn.Upsample(scale_factor=2, mode="bilinear"),
        "Upsample",
        "bilinear interpolation repeats the pixels at the border",
    ),
    "interpolation to fewer pixels": broken_layer(
        lambda: nn.Upsample(scale_factor=0.5),
        "Upsample",
        "interpolation from 16 x 16 to 8 x 8 keeps a fixed grid",
    ),
    "transposed convolution": broken_layer(
        lambda: nn.ConvTranspose2d(4, 4, 3, 2, 1, 1),
        "ConvTranspose2d",
        "a transposed convolution of 3 x 3 cuts its overlapping windows off at the border",
    ),
    "normalisation by position": broken_layer(
        lambda: uneven(nn.LayerNorm((4, 16, 16))),
        "LayerNorm",
        "normalisation with weights of its own for each position",
    ),
    "two branches": Broken(Branches, "", "Branches", "two branches aligned differently", size=8),
    "space to depth": broken_layer(
        lambda: nn.Sequential(nn.PixelUnshuffle(2), circular(16, 4, 1)),
        "PixelUnshuffle",
        "space to depth by 2 turns phases into channels, which then change places",
        "2.0",
    ),
    "functional space to depth": broken_layer(
        lambda: nn.Sequential(Applied(lambda x: F.pixel_unshuffle(x, 2)), circular(16, 4, 1)),
        "Applied",
        "space to depth by 2 turns phases into channels, which then change places",
        "2.0",
    ),
    "weights of positions": broken_function(
        lambda x: x * torch.linspace(0, 1, 16).to(x), "weights of positions: a tensor stays"
    ),
    "linear across positions": Broken(
        lambda: Mixer(16),
        "mix",
        "Linear",
        "a linear layer across a map of 4 x 4, with weights of its own for each",
    ),
    "linear across positions, to something unreadable": Broken(
        lambda: Mixer(29),
        "mix",
        "Linear",
        "a linear layer across a map of 4 x 4, with weights of its own for each",
    ),
    "randomness": broken_function(
        lambda x: x + torch.randn_like(x), "random numbers of their own for each position"
    ),
    "windows": Broken(
        Swinlike,
        "block.1",
        "WindowAttention",
        "windows or patches of 4 positions, which stay where they are",
    ),
    "nothing known": broken_function(lambda x: x.cumsum(3) / 16, "an order of positions"),
}
"""One entry per reason."""
