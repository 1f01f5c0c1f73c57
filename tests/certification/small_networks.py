"""Small networks, most of which are not shift invariant."""

import torch
import torch.nn.functional as F
from torch import nn

from shiftproof.nn import (
    AlignPhase2d,
)


def circular(channels, out_channels, size=3, stride=1, **options):
    options = {"padding": size // 2, "padding_mode": "circular", **options}
    return nn.Conv2d(channels, out_channels, size, stride, **options)


def classifier(*layers, channels=4):
    """The layers between others that make every pixel count, global pooling and logits."""
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 3))
    return nn.Sequential(
        circular(2, 4), nn.ReLU(), *layers, circular(channels, channels), nn.ReLU(), head
    )


class Applied(nn.Module):
    """A function as a module, so that its work is done between modules."""

    def __init__(self, function, channels=4):
        super().__init__()
        self.function = function
        self.conv = circular(channels, 4)

    def forward(self, x):
        return self.function(self.conv(x))


class Branches(nn.Module):
    """Two branches, each aligned by its own choice."""

    def __init__(self):
        super().__init__()
        self.stem = circular(2, 4)
        self.left = nn.Sequential(circular(4, 4), AlignPhase2d(2), circular(4, 4, stride=2))
        self.right = nn.Sequential(circular(4, 4), AlignPhase2d(2), circular(4, 4, stride=2))

    def forward(self, x):
        x = self.stem(x)
        return (self.left(x) + self.right(x)).relu().mean((2, 3))


class Positions(nn.Module):
    """A map of its own for each position."""

    def __init__(self):
        super().__init__()
        self.register_buffer("table", torch.randn(1, 4, 16, 16))

    def forward(self, x):
        return x + self.table


class Tokens(nn.Module):
    """A small vision transformer, with positions or without."""

    def __init__(self, positions):
        super().__init__()
        self.align = AlignPhase2d(4)
        self.patches = nn.Conv2d(2, 8, 4, 4)
        self.cls = nn.Parameter(torch.randn(1, 1, 8))
        self.pos_embed = nn.Parameter(torch.randn(1, 17, 8)) if positions else None
        self.norm = nn.LayerNorm(8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        x = self.patches(self.align(x)).flatten(2).mT
        x = torch.cat([self.cls.expand(len(x), -1, -1), x], 1)
        if self.pos_embed is not None:
            x = x + self.pos_embed
        x = self.norm(x)
        x = x + self.attention(x, x, x, need_weights=False)[0]
        return self.head(x[:, 0])


class Mixer(nn.Module):
    """Tokens that are mixed by position."""

    def __init__(self, width):
        super().__init__()
        self.align = AlignPhase2d(4)
        self.patches = nn.Conv2d(2, 8, 4, 4)
        self.mix = nn.Linear(16, width)
        self.unmix = nn.Linear(width, 16)

    def forward(self, x):
        x = self.patches(self.align(x)).flatten(2)
        return (x + self.unmix(self.mix(x).relu())).mean(2)


class WindowAttention(nn.Module):
    """Attention within windows, in channels-last layout."""

    def __init__(self, window_size=4):
        super().__init__()
        self.window_size = window_size

    def forward(self, x):
        batch, height, width, channels = x.shape
        size = self.window_size
        windows = x.reshape(batch, height // size, size, width // size, size, channels)
        windows = windows.permute(0, 1, 3, 2, 4, 5).reshape(-1, size * size, channels)
        mixed = F.scaled_dot_product_attention(windows, windows, windows)
        mixed = mixed.reshape(batch, height // size, width // size, size, size, channels)
        return mixed.permute(0, 1, 3, 2, 4, 5).reshape(batch, height, width, channels)


class Swinlike(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = circular(2, 4)
        self.block = nn.Sequential(nn.LayerNorm(4), WindowAttention())

    def forward(self, x):
        x = self.stem(x).movedim(1, -1)
        x = x + self.block(x)
        return x.mean((1, 2))


def uneven(layer):
    """The layer with random weights where it had ones."""
    nn.init.normal_(layer.weight)
    return layer


class Aligned(nn.Module):
    """A map that is aligned and never moved back."""

    def __init__(self):
        super().__init__()
        self.conv = circular(2, 4)
        self.align = AlignPhase2d(2)
        self.last = circular(4, 1)

    def forward(self, x):
        return self.last(self.align(self.conv(x)))
