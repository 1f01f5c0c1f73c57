"""Image size and normalisation of a network, as its library knows them."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from shiftproof.data.cifar10 import CIFAR10_MEAN, CIFAR10_STD
from shiftproof.data.image_folder import IMAGENET_MEAN, IMAGENET_STD
from shiftproof.extras import require


@dataclass(frozen=True)
class Preset:
    """How photographs are brought to a network.

    Attributes:
        size: Height and width of its images, in pixels; None if unknown.
        resize_size: Shorter side of the photograph before the window is cut; None if unknown.
        mean: Subtracted from images in [0, 1].
        std: What they are then divided by.
        stride: Total stride of the network, in pixels; None if unknown.
    """

    size: int | None = None
    resize_size: int | None = None
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    stride: int | None = None


def preset_of(spec: str, module: nn.Module) -> Preset:
    """What the library of a network says of its images.

    Args:
        spec: The network's name on the command line.
        module: The network.

    Returns:
        The preset; what nobody knows is ImageNet's.
    """
    library, _, name = spec.rpartition(":")
    if library == "torchvision":
        return _of_torchvision(name)
    if library == "timm":
        return _of_timm(module)
    if library:
        return Preset()
    stride = getattr(module, "total_stride", None)
    if name.startswith("cifar_"):
        return Preset(32, None, CIFAR10_MEAN, CIFAR10_STD, stride)
    return Preset(224, 256, stride=stride)


def _of_torchvision(name: str) -> Preset:
    models = require("torchvision.models", extra="train")
    try:
        crop = models.get_model_weights(name).DEFAULT.transforms()
        return Preset(crop.crop_size[0], crop.resize_size[0], tuple(crop.mean), tuple(crop.std))
    except (AttributeError, ValueError):  # networks without weights, or not for classes
        return Preset()


def _of_timm(module: nn.Module) -> Preset:
    config = require("timm.data", extra="timm").resolve_model_data_config(module)
    size = int(config["input_size"][-1])
    resize = round(size / float(config.get("crop_pct") or 0.875))
    return Preset(size, resize, tuple(config["mean"]), tuple(config["std"]))
