"""The paper's names for what makes a component the chosen one."""

import math

from torch import nn

from shiftproof.nn import LargestNorm, LargestValue, SmallestNorm

CRITERIA: dict[str, nn.Module] = {
    "l2": LargestNorm(2),
    "l1": LargestNorm(1),
    "l_infty": LargestNorm(math.inf),
    "non_abs_max": LargestValue(),
    "l2_min": SmallestNorm(2),
    "l1_min": SmallestNorm(1),
}
"""Values of ``--apspool_criterion``; ``l2`` is the default of every network."""
