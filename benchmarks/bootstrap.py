"""Intervals of statistics over photographs."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Ratio:
    """A paired comparison with an interval of 95 % by bootstrap over photographs."""

    value: float
    low: float
    high: float


def bootstrap(statistic: Callable[[Tensor], Tensor], count: int, draws: int = 2000) -> Ratio:
    """A statistic of photographs, and its interval.

    Args:
        statistic: From indices of photographs, ``(draws, count)``, to one number per draw.
        count: Number of photographs.
        draws: Number of resamples.
    """
    generator = torch.Generator().manual_seed(0)
    whole = statistic(torch.arange(count)[None])
    drawn = statistic(torch.randint(count, (draws, count), generator=generator))
    low, high = torch.quantile(drawn.double(), torch.tensor([0.025, 0.975]).double())
    return Ratio(float(whole), float(low), float(high))
