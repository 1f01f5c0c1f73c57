"""Why a network cannot be followed."""

from collections.abc import Sequence
from fractions import Fraction
from typing import Any


class ConversionError(ValueError):
    """A network, or an input size, that ``convert`` refuses: the place, the reason, the way out."""


class UnknownError(Exception):
    """A call that does not move with its input in any way that is known; the reason in words."""


class IndivisibleError(ConversionError):
    """A map whose size a stride does not divide.

    Args:
        place: Name of the module or function that reads the map.
        sizes: Spatial sizes of the map, in its own pixels.
        strides: What must divide them.
        period: What must divide the size of the input, in its pixels, per axis.
    """

    def __init__(
        self, place: str, sizes: Sequence[int], strides: Sequence[int], period: dict[int, Fraction]
    ) -> None:
        self.place = place
        self.sizes = tuple(sizes)
        self.strides = tuple(strides)
        self.period = period
        self.findings: list[Any] = []  # about the calls up to this one
        super().__init__(
            f"convert: {place} samples a map of {shown(sizes)} with stride {shown(strides)}, which "
            "must divide it"
        )


class CaptureError(ConversionError):
    """A network whose forward pass cannot be followed.

    Args:
        module: Qualified name of the innermost module; empty for the network itself.
        reason: What it does.
    """

    def __init__(self, module: str, reason: str) -> None:
        self.module = module
        self.reason = reason
        super().__init__(
            "convert: the forward pass must be made of functions of torch on tensors whose values "
            f"it does not read, got {module or 'the network itself'}, which {reason}; convert its "
            "parts, or align the input by its full size with "
            "torch.nn.Sequential(shiftproof.nn.AlignPhase2d((H, W)), model)"
        )


def shown(values: Sequence[object], by: str = "x") -> str:
    """Sizes as text.

    Args:
        values: Sizes per axis.
        by: What stands between them.

    Returns:
        For instance ``7x7``.
    """
    return by.join(map(str, values))
