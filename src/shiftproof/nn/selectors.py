"""What makes a component the chosen one: modules that score the phases of a map.

A selector maps ``(x, stride)`` to scores ``(N, P)`` that permute with the components of ``x``; the
largest wins.  Ties are not its business: ``ops.select_phase`` owns the choice.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from shiftproof import ops
from shiftproof.ops.phases import per_axis
from shiftproof.ops.torus import along


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


class DarkestPhase(nn.Module):
    """The component that holds the most ink: the one whose pixels are darkest, channels averaged.

    Meant for pages and drawings on an even, bright background, whose images are locked by whole
    pixels; it takes images of any size.

    Equivariance:
        Exact (bitwise): the scores permute with the components under circular shifts, if the
        stride divides the sizes.  Checked by ``tests/nn/test_selectors.py``.
    """

    def forward(self, x: Tensor, stride: int | Sequence[int]) -> Tensor:
        """Score the phases.

        Args:
            x: Images, ``(N, C, *spatial)``.
            stride: Sampling stride in pixels.

        Returns:
            Scores, ``(N, P)``, row-major: whole numbers in float64, which no order of summation
            can change.
        """
        strides = per_axis("DarkestPhase", stride, x.ndim - 2)
        grey = x.detach().to(torch.promote_types(x.dtype, torch.float32)).mean(1)
        shape = [-1, *[1] * len(strides)]
        ink = grey.flatten(1).amax(1).reshape(shape) - grey
        largest = ink.flatten(1).amax(1).clamp_min(torch.finfo(ink.dtype).tiny)
        # So few levels that float64 sums of an image of 2^28 pixels are exact.
        scores = (ink / largest.reshape(shape) * 2.0**24).round().to(torch.float64)
        for axis, period in enumerate(strides, 1):
            at = torch.arange(scores.shape[axis], device=x.device) % period
            phases = torch.arange(period, device=x.device)[:, None]
            scores = along(scores, (at == phases).to(torch.float64), axis)
        return scores.flatten(1)
