"""The registered residual networks: trunks times placements times filter sizes."""

import functools
import re
from typing import Any

from torch import nn

from shiftproof.models.downsampling import Downsampling, SeparatePools, StridedConvs
from shiftproof.models.registry import ModelEntry, register_model
from shiftproof.models.resnet import BasicBlock, Bottleneck, ResNet, Trunk

FILTER_SIZES = range(1, 8)

_FOUR_STAGES = (64, 128, 256, 512)
_THREE_STAGES = (16, 32, 64)

TRUNKS: dict[str, Trunk] = {
    "resnet18": Trunk(BasicBlock, (2, 2, 2, 2), _FOUR_STAGES, True, 1000),
    "resnet34": Trunk(BasicBlock, (3, 4, 6, 3), _FOUR_STAGES, True, 1000),
    "resnet50": Trunk(Bottleneck, (3, 4, 6, 3), _FOUR_STAGES, True, 1000),
    "resnet101": Trunk(Bottleneck, (3, 4, 23, 3), _FOUR_STAGES, True, 1000),
    "resnet152": Trunk(Bottleneck, (3, 8, 36, 3), _FOUR_STAGES, True, 1000),
    "cifar_resnet20": Trunk(BasicBlock, (3, 3, 3), _THREE_STAGES, False, 10),
    "cifar_resnet56": Trunk(BasicBlock, (9, 9, 9), _THREE_STAGES, False, 10),
    "cifar_resnet18": Trunk(BasicBlock, (2, 2, 2, 2), _FOUR_STAGES, False, 10),
    "cifar_resnet34": Trunk(BasicBlock, (3, 4, 6, 3), _FOUR_STAGES, False, 10),
    "cifar_resnet50": Trunk(Bottleneck, (3, 4, 6, 3), _FOUR_STAGES, False, 10),
}

_SUFFIX = re.compile(r"(?:_(lpf|aps)(\d)|_(pa))?$")


def _allowed_options(trunk: Trunk, kind: str) -> dict[str, Any]:
    """Options of a kind of network, with their defaults."""
    options: dict[str, Any] = {"padding_mode": "circular"}
    if kind in ("aps", "pa"):
        options["selector"] = None
    if kind == "aps":
        options["score_before_lowpass"] = not trunk.imagenet_stem
    if kind in ("lpf", "aps") and trunk.imagenet_stem:
        options["pool_only"] = False
    return options


def _build(
    trunk_name: str,
    name: str,
    *,
    num_classes: int | None,
    in_channels: int,
    **options: Any,
) -> nn.Module:
    trunk = TRUNKS[trunk_name]
    match = _SUFFIX.fullmatch(name, len(trunk_name))
    assert match is not None
    kind, size = match[1] or match[3] or "plain", match[2]
    allowed = _allowed_options(trunk, kind)
    for option in options:
        if option not in allowed:
            raise ValueError(
                f"create_model: options of {name} must be among {', '.join(allowed)}, got "
                f"{option!r}; leave it out or choose another network"
            )
    options = allowed | options
    downsampling: Downsampling
    if kind in ("plain", "pa"):
        downsampling = StridedConvs(aligned=kind == "pa", **options)
    else:
        downsampling = SeparatePools(kernel_size=int(size), adaptive=kind == "aps", **options)
    return ResNet(trunk, downsampling, num_classes=num_classes, in_channels=in_channels)


def _register() -> None:
    for trunk_name, trunk in TRUNKS.items():
        build = functools.partial(_build, trunk_name)
        torchvision_name = trunk_name if trunk.imagenet_stem else None
        register_model(trunk_name, ModelEntry(build, torchvision_name))
        for kind in ("lpf", "aps"):
            for size in FILTER_SIZES:
                register_model(f"{trunk_name}_{kind}{size}", ModelEntry(build))
        register_model(f"{trunk_name}_pa", ModelEntry(build, torchvision_name))


_register()
