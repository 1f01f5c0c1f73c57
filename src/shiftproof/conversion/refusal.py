"""Why a network cannot be converted."""

from collections.abc import Sequence
from fractions import Fraction


class ConversionError(ValueError):
    """A network, or an input size, that ``convert`` refuses: the place, the reason, the way out."""


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
        super().__init__(
            f"convert: {place} samples a map of {shown(sizes)} with stride {shown(strides)}, which "
            "must divide it"
        )


class RecordingError(ConversionError):
    """A network whose forward pass cannot be written down as a graph.

    Args:
        module: Qualified name of the innermost module; empty for the network itself.
        reason: What it does.
    """

    def __init__(self, module: str, reason: str) -> None:
        self.module = module
        self.reason = reason
        place = module or "the network itself"
        super().__init__(
            f"convert: the forward pass must be a graph of torch functions, got {place}, which "
            f"{reason}; convert its parts, or align the input by its full size with "
            "torch.nn.Sequential(shiftproof.nn.AlignPhase2d((H, W)), model)"
        )


def shown(values: Sequence[int]) -> str:
    """Sizes as text.

    Args:
        values: Sizes per axis.

    Returns:
        For instance ``7x7``.
    """
    return "x".join(map(str, values))
