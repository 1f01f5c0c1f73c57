"""What makes a component the chosen one: modules that score the phases of a map.

A selector maps ``(x, stride)`` to scores ``(N, P)`` that permute with the components of ``x``; the
largest wins.  Ties are not its business: ``ops.select_phase`` owns the choice.
"""

import math
from collections.abc import Sequence

from torch import Tensor, nn

from shiftproof import ops


class FirstPhase(nn.Module):
    """Always phase 0: an ordinary stride, for comparison.

    Equivariance:
        None: the scores do not move with the map.  Checked, as the control of every law, by
        ``tests/nn/test_selectors.py``.
    """

    def forward(self, x: Tensor, stride: int | Sequence[int]) -> Tensor:
        """Score the phases.

        Args:
            x: Feature map, ``(N, C, *spatial)``.
            stride: Sampling stride in pixels.

        Returns:
            Scores, ``(N, P)``: 1 for phase 0 and 0 for the others.
        """
        return ops.first_phase(x, stride)


class LargestNorm(nn.Module):
    """The component of the largest norm: adaptive polyphase sampling.

    Args:
        order: 1, 2 or infinity.

    Raises:
        ValueError: If the order is another.

    Equivariance:
        Exact (bitwise): the scores permute with the components.  Checked by
        ``tests/nn/test_selectors.py``.

    References:
        A. Chaman and I. Dokmanic, "Truly shift-invariant convolutional neural networks", CVPR 2021,
        section 3.1 and table 6.
    """

    def __init__(self, order: float = 2) -> None:
        super().__init__()
        if order not in (1, 2, math.inf) or isinstance(order, bool):
            raise ValueError(
                f"{type(self).__name__}: order must be 1, 2 or infinity, got {order}; "
                "choose one of them"
            )
        self.order = order

    def forward(self, x: Tensor, stride: int | Sequence[int]) -> Tensor:
        """Score the phases.

        Args:
            x: Feature map, ``(N, C, *spatial)``.
            stride: Sampling stride in pixels; must divide every spatial size.

        Returns:
            Scores, ``(N, P)``, see ``ops.phase_scores``.

        Raises:
            ValueError: If a spatial size is not a multiple of its stride.
        """
        return ops.phase_scores(x, stride, self.order)

    def extra_repr(self) -> str:
        """Show the order of the norm."""
        return f"order={self.order}"


class SmallestNorm(LargestNorm):
    """The component of the smallest norm.

    Args:
        order: 1, 2 or infinity.

    Raises:
        ValueError: If the order is another.

    Equivariance:
        Exact (bitwise): the scores permute with the components.  Checked by
        ``tests/nn/test_selectors.py``.
    """

    def forward(self, x: Tensor, stride: int | Sequence[int]) -> Tensor:
        """Score the phases.

        Args:
            x: Feature map, ``(N, C, *spatial)``.
            stride: Sampling stride in pixels; must divide every spatial size.

        Returns:
            Scores, ``(N, P)``: the negative of ``LargestNorm``'s.

        Raises:
            ValueError: If a spatial size is not a multiple of its stride.
        """
        return -super().forward(x, stride)


class LargestValue(nn.Module):
    """The component that holds the largest value, sign included.

    Equivariance:
        Exact (bitwise): the scores permute with the components.  Checked by
        ``tests/nn/test_selectors.py``.
    """

    def forward(self, x: Tensor, stride: int | Sequence[int]) -> Tensor:
        """Score the phases.

        Args:
            x: Feature map, ``(N, C, *spatial)``.
            stride: Sampling stride in pixels; must divide every spatial size.

        Returns:
            Scores, ``(N, P)``, see ``ops.largest_values``.

        Raises:
            ValueError: If a spatial size is not a multiple of its stride.
        """
        return ops.largest_values(x, stride)
