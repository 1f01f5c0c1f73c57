"""Scores of the polyphase components, and the choice among them.

A shift permutes the components, so the scores must permute with them: to the last bit, or two
components that are nearly as strong change places.  Sums of floating-point numbers depend on their
order.  These do not: the energy of each pixel is summed over channels in one order that is the same
at every pixel, and is then rounded to an integer so small that float64 sums of them are exact.

References:
    A. Chaman and I. Dokmanic, "Truly shift-invariant convolutional neural networks", CVPR 2021,
    section 3.1.
"""

import math
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor

from shiftproof.ops.channels import norm_channels
from shiftproof.ops.overrides import may_branch, may_launch, overridable
from shiftproof.ops.phases import as_floats, check_divisible, check_map, per_axis
from shiftproof.ops.polyphase import polyphase_split
from shiftproof.ops.ties import find_ties, view_numbers

_LARGEST_SUM = 2.0**52
"""Whole numbers up to here are exact in float64, and so are their sums."""


def _sum_lattices(values: Tensor, strides: Sequence[int]) -> Tensor:
    """Sum non-negative pixels over each component, with the same result in any order."""
    most, sizes = torch.finfo(values.dtype).max, values.shape[1:]
    shares = values.nan_to_num(nan=most, posinf=most)
    largest = shares.flatten(1).amax(1).clamp(min=torch.finfo(values.dtype).tiny)
    # Two steps, because one factor could leave the range of float32.
    shares = shares.div_(largest.view(-1, *[1] * len(sizes)))
    levels = shares.mul_(_LARGEST_SUM / math.prod(sizes)).round_()
    # Apple's GPUs have no float64; integers serve as well there.
    exact = torch.int64 if values.device.type == "mps" else torch.float64
    # One axis after the other, because whole rows add fast and pixels of a stride do not.
    rows, columns = values.shape[0], math.prod(sizes)
    for size, stride in zip(sizes, strides, strict=True):
        levels = levels.reshape(rows, size // stride, columns // size * stride)
        levels = levels.sum(1, dtype=exact)
        rows, columns = rows * stride, columns // size
    return levels.view(values.shape[0], math.prod(strides))


def _largest_on_lattices(values: Tensor, strides: Sequence[int]) -> Tensor:
    values = values.nan_to_num(nan=math.inf, posinf=math.inf, neginf=-math.inf)
    return polyphase_split(values.amax(1, keepdim=True), strides)[:, 0].flatten(2).amax(-1)


@overridable
def phase_scores(x: Tensor, stride: int | Sequence[int], norm: float = 2) -> Tensor:
    """Strength of each polyphase component of each sample, over all channels and pixels.

    For ``norm=2`` proportional to the sum of squares, for ``norm=1`` to the sum of magnitudes, for
    ``norm=inf`` the largest magnitude.  The factor differs between samples, so scores compare
    components of one sample, not samples.

    Args:
        x: Feature map, ``(N, C, *spatial)``.  A pixel that holds NaN or infinity counts as
            stronger than any other.  Integers of up to 32 bits count exactly.
        stride: Sampling stride in pixels; must divide every spatial size.
        norm: 1, 2 or infinity.

    Returns:
        Scores, ``(N, P)``, row-major.  For norms 1 and 2 whole numbers in float64, which no order
        of summation can change.  They carry no gradient.

    Raises:
        ValueError: If a spatial size is not a multiple of its stride, or the norm is another.
        TypeError: If the map is of a dtype whose strengths floats cannot hold: integers of 64 bits,
            complex numbers; or of floats of 8 bits.

    Equivariance:
        Exact (bitwise): a circular shift of ``x`` permutes the scores as it permutes the
        components.  Checked by ``tests/ops/test_scores.py``.

    Examples:
        >>> phase_scores(torch.tensor([[[1.0, 0.0, 2.0, 3.0]]]), 2, norm=torch.inf)
        tensor([[2., 3.]])
    """
    strides = per_axis("phase_scores", stride, check_map("phase_scores", x))
    check_divisible("phase_scores", x.shape[2:], strides)
    if norm not in (1, 2, math.inf) or isinstance(norm, bool):
        raise ValueError(
            f"phase_scores: norm must be 1, 2 or infinity, got {norm}; choose one of them"
        )
    x = as_floats("phase_scores", x.detach())
    if norm == math.inf:
        return _largest_on_lattices(x.abs(), strides)
    if may_launch(x):
        from shiftproof.ops import kernels  # which needs Triton

        return kernels.norm_scores(x, strides, int(norm))
    if x.dtype in (torch.float16, torch.bfloat16):
        x = x.float()
    return _sum_lattices(norm_channels(x, int(norm)), strides)


@overridable
def largest_values(x: Tensor, stride: int | Sequence[int]) -> Tensor:
    """Largest value, not magnitude, of each polyphase component of each sample.

    Args:
        x: Feature map, ``(N, C, *spatial)``.  NaN counts as infinity.  Integers of up to 32 bits
            count exactly.
        stride: Sampling stride in pixels; must divide every spatial size.

    Returns:
        Scores, ``(N, P)``, row-major, in the dtype of ``x``, or that of floats for integers.
            They carry no gradient.

    Raises:
        ValueError: If a spatial size is not a multiple of its stride.
        TypeError: As for ``phase_scores``.

    Equivariance:
        Exact (bitwise), as for ``phase_scores``.  Checked by ``tests/ops/test_scores.py``.
    """
    strides = per_axis("largest_values", stride, check_map("largest_values", x))
    check_divisible("largest_values", x.shape[2:], strides)
    return _largest_on_lattices(as_floats("largest_values", x.detach()), strides)


@overridable
def first_phase(x: Tensor, stride: int | Sequence[int]) -> Tensor:
    """Scores that always choose phase 0: an ordinary stride, for comparison.

    Args:
        x: Feature map, ``(N, C, *spatial)``.
        stride: Sampling stride in pixels.

    Returns:
        Scores, ``(N, P)`` int64: 1 for phase 0 and 0 for the others.

    Equivariance:
        None: the scores do not move with the map.  Checked, as the control of every law, by
        ``tests/ops/test_scores.py``.
    """
    strides = per_axis("first_phase", stride, check_map("first_phase", x))
    first = torch.arange(math.prod(strides), device=x.device) == 0
    return first.to(torch.int64).expand(x.shape[0], -1)


def _settle_ties(tied: Tensor, maps: Sequence[Tensor], strides: Sequence[int]) -> Tensor:
    """Of the tied phases, the one whose component holds the view of the largest number."""
    numbers = _largest_on_lattices(view_numbers(maps)[:, None], strides)
    return torch.where(tied, numbers, -math.inf).argmax(1)


def _choose_blindly(scores: Tensor, maps: Sequence[Tensor], strides: Sequence[int]) -> Tensor:
    """Choose without looking at values, in a graph that is being recorded."""
    tied = find_ties(scores)
    exporting = torch.compiler.is_compiling() and not torch.compiler.is_dynamo_compiling()
    if not exporting or not all(type(size) is int for size in maps[0].shape[2:]):
        return _settle_ties(tied, maps, strides)
    # A branch of the exported program, because the rule costs half as much as a network.  Where
    # sizes are open it is always computed: inside a branch they would be taken for known.
    return cast(
        Tensor,
        torch.cond(
            (tied.sum(1) > 1).any(),
            lambda tied, *maps: _settle_ties(tied, maps, strides),
            lambda tied, *maps: tied.to(torch.int64).argmax(1),
            (tied, *[x.detach() for x in maps]),
        ),
    )


@overridable
def select_phase(
    x: Tensor | Sequence[Tensor],
    stride: int | Sequence[int],
    scores: Tensor | None = None,
) -> Tensor:
    """Choose one phase per sample: the one of the largest score.

    Among phases whose scores equal the largest to a relative 1e-9, the content of the maps decides,
    by a rule that moves with it, see ``shiftproof.ops.ties``.  In eager mode the rule is only
    computed for samples that tie: on a CPU by a branch, on a CUDA device with Triton by a kernel
    that finds them itself, so that the host does not wait.  In a compiled or exported graph, which
    must not look at values, and on other devices it is always computed.

    Args:
        x: Feature map, ``(N, C, *spatial)``; or all the maps of one spatial size that the phase
            will be applied to, of which the first is scored.
        stride: Sampling stride in pixels; must divide every spatial size.
        scores: Scores of the phases, ``(N, P)``; by default ``phase_scores`` of the first map.

    Returns:
        The chosen phases, ``(N,)`` int64, row-major.

    Raises:
        ValueError: If a spatial size is not a multiple of its stride, the maps differ in size, or
            the scores do not have one column per phase.
        TypeError: If a map or the scores are no tensor, or a map is of a dtype that
            ``phase_scores`` refuses.

    Equivariance:
        Exact (bitwise): a circular shift ``d`` of the maps turns the choice ``p`` into
        ``(p + d) mod S``, or into a phase that cannot be told from it, because translating the maps
        by the difference does not change them.  Checked by ``tests/ops/test_ties.py``.

    Examples:
        >>> select_phase(torch.tensor([[[1.0, 0.0, 2.0, 3.0]]]), 2)
        tensor([1])
    """
    maps = tuple(x) if isinstance(x, (tuple, list)) else (x,)
    if not maps:
        raise ValueError("select_phase: there must be at least one map, got none; pass the map")
    first = maps[0]
    strides = per_axis("select_phase", stride, check_map("select_phase", first))
    check_divisible("select_phase", first.shape[2:], strides)
    for other in maps[1:]:
        check_map("select_phase", other)
        if other.shape[0] != first.shape[0] or other.shape[2:] != first.shape[2:]:
            raise ValueError(
                "select_phase: all maps must have the samples and the size of the first, got "
                f"{tuple(first.shape)} and {tuple(other.shape)}; select for each size separately"
            )
    maps = tuple(as_floats("select_phase", other) for other in maps)
    if scores is None:
        scores = phase_scores(maps[0], strides)
    if not isinstance(scores, Tensor):
        raise TypeError(
            f"select_phase: scores must be a tensor, got {type(scores).__name__}; pass what "
            "phase_scores returns"
        )
    if scores.shape != (first.shape[0], math.prod(strides)):
        raise ValueError(
            f"select_phase: scores must have shape ({first.shape[0]}, {math.prod(strides)}), one "
            f"per sample and phase, got {tuple(scores.shape)}; pass what phase_scores returns"
        )
    scores = scores.detach()
    if scores.dtype == torch.float64 and all(map(may_launch, (scores, *maps))):
        from shiftproof.ops import kernels  # which needs Triton

        if scores.shape[1] <= kernels.MOST_PHASES:
            return kernels.choose(scores, maps, strides)
    if not may_branch(scores):
        return _choose_blindly(scores, maps, strides)
    best, phases = scores.topk(min(2, scores.shape[1]), dim=1)
    phase = phases[:, 0]
    rows = find_ties(best).all(1).nonzero().flatten()
    if scores.shape[1] > 1 and len(rows) > 0:
        tied = find_ties(scores[rows])
        phase[rows] = _settle_ties(tied, [other[rows] for other in maps], strides)
    return phase
