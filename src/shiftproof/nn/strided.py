"""What layers with a sampling stride share, for 1, 2 and 3 spatial axes."""

from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor, nn

from shiftproof import ops
from shiftproof.ops.padding import PaddingMode
from shiftproof.ops.phases import per_axis


class StridedModule(nn.Module):
    """A layer with a sampling stride, for maps of a fixed number of spatial axes.

    Args:
        stride: Sampling stride in pixels, one for all axes or one per axis.

    Raises:
        ValueError: If a stride is below 1, or there is not one per axis.
        TypeError: If a stride is not an integer.
    """

    num_dims: ClassVar[int]

    def __init__(self, stride: int | Sequence[int] = 2) -> None:
        super().__init__()
        self.stride = per_axis(type(self).__name__, stride, self.num_dims)

    def extra_repr(self) -> str:
        """Show the stride."""
        return f"stride={self.stride}"


def check_part(layer: nn.Module, name: str, part: object) -> None:
    """Refuse a part of a layer that cannot be called.

    Args:
        layer: The layer, for the error message.
        name: Name of the argument.
        part: What was given.

    Raises:
        TypeError: If it is a class, or cannot be called.
    """
    if isinstance(part, type) or not (part is None or callable(part)):
        raise TypeError(
            f"{type(layer).__name__}: {name} must be a module, got {part!r}; see shiftproof.nn, or "
            "leave it"
        )


def align_and_pad(
    x: Tensor,
    phase: Tensor | None,
    stride: int | Sequence[int],
    before: Sequence[int],
    after: Sequence[int],
    padding_mode: PaddingMode,
) -> Tensor:
    """Give a strided layer its input: aligned where there is a phase, and with a border.

    Args:
        x: Feature map, ``(N, C, *spatial)``.
        phase: Component that the layer shall sample, ``(N,)`` integers, or None.
        stride: Stride of the layer, in pixels.
        before: Pixels to add before the first, per spatial axis.
        after: Pixels to add after the last, per spatial axis.
        padding_mode: What the border holds.

    Returns:
        The map to be read with the stride; one copy of ``x`` where the padding is circular.
    """
    if phase is not None and padding_mode == "circular":
        return ops.align_phase(x, phase, stride, before, after)
    if phase is not None:
        x = ops.align_phase(x, phase, stride)
    return ops.pad(x, before, after, padding_mode)
