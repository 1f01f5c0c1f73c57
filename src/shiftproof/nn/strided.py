"""What layers with a sampling stride share, for 1, 2 and 3 spatial axes."""

from collections.abc import Sequence
from typing import ClassVar

from torch import nn

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
