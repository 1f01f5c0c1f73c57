"""The published formulation of adaptive polyphase sampling, as a candidate.

Written from a description of it: all components are laid side by side in memory, their norms are
taken in the type of the map, and the rows of the winners are read with an index that is built anew
on the processor at each call; circular padding is torch's.  Networks keep our names of parameters,
so that a state_dict of ours loads and both give the same logits to rounding.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from shiftproof.models.zoo import TRUNKS

PHASES = ((0, 0), (1, 0), (0, 1), (1, 1))
"""First pixel of each component, in the published order."""


def lay_out(x: Tensor) -> Tensor:
    """All components of a map, ``(N, P, C, H / 2, W / 2)``."""
    return torch.stack([x[:, :, row::2, column::2] for row, column in PHASES], 1)


def norms(x: Tensor) -> Tensor:
    """Norm of each component in the type of the map, ``(N, P)``."""
    return torch.linalg.vector_norm(lay_out(x).flatten(2), dim=2)


def _read_rows(components: Tensor, phase: Tensor) -> Tensor:
    batch, number = components.shape[:2]
    index = torch.arange(batch).to(components.device) * number + phase
    return components.flatten(0, 1).index_select(0, index)


def take(x: Tensor, phase: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Keep a component of each sample, the one of the largest norm if no phase is given.

    Returns:
        The components, and the phases in the published order.
    """
    components = lay_out(x)
    if phase is None:
        phase = torch.linalg.vector_norm(components.flatten(2), dim=2).argmax(1)
    return _read_rows(components, phase), phase


class Take(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return take(x)[0]


class CircularPool(nn.Module):
    """Max pooling of the published stem: 2 x 2 at stride 1, one pixel wrapped right and below."""

    def forward(self, x: Tensor) -> Tensor:
        return F.max_pool2d(F.pad(x, (0, 1, 0, 1), mode="circular"), 2, 1)


def _conv(in_channels: int, out_channels: int, size: int) -> nn.Conv2d:
    mode = "circular" if size > 1 else "zeros"
    return nn.Conv2d(
        in_channels, out_channels, size, padding=size // 2, padding_mode=mode, bias=False
    )


class Block(nn.Module):
    def __init__(self, in_channels: int, width: int, strided: bool) -> None:
        super().__init__()
        self.strided = strided
        self.conv1 = _conv(in_channels, width, 3)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = _conv(width, width, 3)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = None
        if strided or in_channels != width:
            self.downsample = nn.Sequential(_conv(in_channels, width, 1), nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        main = self.relu(self.bn1(self.conv1(x)))
        if self.strided:
            main, phase = take(main)
            x, _ = take(x, phase)
        main = self.bn2(self.conv2(main))
        return self.relu(main + (x if self.downsample is None else self.downsample(x)))


class PublishedResNet(nn.Module):
    """An ``_aps1`` network of basic blocks, in the published formulation.

    Args:
        trunk_name: Name of one of our trunks, for instance ``"resnet18"``.
    """

    def __init__(self, trunk_name: str) -> None:
        super().__init__()
        trunk = TRUNKS[trunk_name]
        channels = trunk.widths[0]
        self.conv1 = _conv(3, channels, 7 if trunk.imagenet_stem else 3)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        stem = (Take(), CircularPool(), Take()) if trunk.imagenet_stem else ()
        self.maxpool = nn.Sequential(*stem)
        self.stages = []
        for number, (depth, width) in enumerate(zip(trunk.depths, trunk.widths, strict=True), 1):
            blocks = []
            for index in range(depth):
                blocks.append(Block(channels, width, number > 1 and index == 0))
                channels = width
            self.add_module(f"layer{number}", nn.Sequential(*blocks))
            self.stages.append(f"layer{number}")
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = nn.Linear(channels, trunk.num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        for name in self.stages:
            x = getattr(self, name)(x)
        return self.fc(self.avgpool(x).flatten(1))
