"""What a choice needs on a GPU, in few launches: Triton kernels beside the operations of torch.

On a GPU small operations cost launches, not arithmetic: scores, ties and the copy of one choice are
two hundred calls of torch, and ten of these.  The operations of torch are the reference, and run
wherever these do not: while a graph is recorded, under transforms, on other devices.

A kernel does the same operations in the same order at every pixel, so that what it computes moves
with the map; sums over pixels are sums of whole numbers.  Maps are read by their strides, as maps
of three axes; missing ones have one pixel.
"""

import math
from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

_PIXELS = 128
"""Pixels per program where they lie side by side, with few channels at a time."""

MOST_PHASES = 4096
"""More scores than this do not fit into one program."""


def three(values: Sequence[int], missing: int) -> list[int]:
    """One number for each of three axes.

    Args:
        values: Numbers of the axes that a map has.
        missing: Number for those that it does not have.

    Returns:
        Three numbers.
    """
    return [missing] * (3 - len(values)) + list(values)


def strides_of(x: Tensor) -> list[int]:
    """Strides of a map in memory.

    Args:
        x: Feature map, ``(N, C, *spatial)``.

    Returns:
        Those of sample, channel and three axes.
    """
    return [x.stride(0), x.stride(1), *three(x.stride()[2:], 0)]


def tile_of(x: Tensor) -> tuple[int, int]:
    """Pixels and channels per program, so that neighbours in memory are read together.

    Args:
        x: Feature map, ``(N, C, *spatial)``.

    Returns:
        Two powers of two.
    """
    channels = triton.next_power_of_2(x.shape[1])
    if x.stride(1) == 1 and x.shape[1] > 1:
        return max(8, 2048 // min(channels, 128)), min(channels, 128)
    return _PIXELS, min(channels, 16)


@triton.jit
def _address(flat, size1, size2, step0, step1, step2):
    """Where pixels lie, by their row-major numbers."""
    rest = flat // size2
    return (rest // size1).to(tl.int64) * step0 + (rest % size1) * step1 + flat % size2 * step2


@triton.jit
def _phase(flat, size1, size2, stride0, stride1, stride2):
    """Phases of pixels, by their row-major numbers."""
    rest = flat // size2
    first = rest // size1 % stride0
    return (first * stride1 + rest % size1 % stride1) * stride2 + flat % size2 % stride2


@triton.jit
def _energies(
    x, energies, largest, xn, xc, x0, x1, x2, channels, size0, size1, size2,
    MOST: tl.constexpr, ORDER: tl.constexpr, WIDE: tl.constexpr, P: tl.constexpr, C: tl.constexpr,
):  # fmt: skip
    sample, pixels = tl.program_id(1).to(tl.int64), size0 * size1 * size2
    flat = tl.program_id(0) * P + tl.arange(0, P)
    row = x + sample * xn + _address(flat, size1, size2, x0, x1, x2)
    inside = flat < pixels
    total = tl.zeros((P, C), WIDE)
    for first in range(0, channels, C):
        channel = first + tl.arange(0, C)
        seen = inside[:, None] & (channel < channels)[None, :]
        value = tl.load(row[:, None] + channel[None, :] * xc, seen, other=0.0).to(WIDE)
        total += value * value if ORDER == 2 else tl.abs(value)
    energy = tl.sum(total, 1)
    most = tl.full((), MOST, WIDE)
    energy = tl.where((energy != energy) | (energy > most), most, energy)
    tl.store(energies + sample * pixels + flat, energy, inside)
    strongest = tl.max(tl.where(inside, energy, 0.0), 0)
    bits = strongest.to(tl.int32 if WIDE == tl.float32 else tl.int64, bitcast=True)
    tl.atomic_max(largest + sample, bits.to(tl.int64))  # bits of what is not negative are in order


@triton.jit
def _levels(
    energies, largest, sums, size0, size1, size2, stride0, stride1, stride2,
    TINY: tl.constexpr, WIDE: tl.constexpr, FEW: tl.constexpr, P: tl.constexpr,
):  # fmt: skip
    sample, pixels = tl.program_id(1).to(tl.int64), size0 * size1 * size2
    flat = tl.program_id(0) * P + tl.arange(0, P)
    inside = flat < pixels
    energy = tl.load(energies + sample * pixels + flat, inside, other=0.0)
    bits = tl.load(largest + sample).to(tl.int32 if WIDE == tl.float32 else tl.int64)
    share = energy / tl.maximum(bits.to(WIDE, bitcast=True), tl.full((), TINY, WIDE))
    # 2^52, up to which whole numbers and their sums are exact in float64.
    steps = tl.full((), 4503599627370496.0, tl.float64) / pixels
    level = (share.to(tl.float64) * steps + 0.5).to(tl.int64)
    phase = _phase(flat, size1, size2, stride0, stride1, stride2)
    count = stride0 * stride1 * stride2
    if FEW:  # one addition to memory per program and phase
        for one in range(count):
            tl.atomic_add(
                sums + sample * count + one, tl.sum(tl.where(inside & (phase == one), level, 0), 0)
            )
    else:
        tl.atomic_add(sums + sample * count + phase, level, inside)


def norm_scores(x: Tensor, strides: Sequence[int], order: int) -> Tensor:
    """Sums of powers over each component, as ``shiftproof.ops.phase_scores`` has them.

    Args:
        x: Feature map, ``(N, C, *spatial)`` of floats.
        strides: Stride of each axis.
        order: 1 or 2.

    Returns:
        Whole numbers in float64, ``(N, P)``; those of torch but for the rounding of energies.
    """
    # Triton compiles another kernel for odd addresses, whose sums may round differently.
    x = x if x.data_ptr() % 16 == 0 else x.clone()
    batch, pixels, count = x.shape[0], math.prod(x.shape[2:]), math.prod(strides)
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    wide = tl.float64 if dtype == torch.float64 else tl.float32
    energies = torch.empty((batch, pixels), dtype=dtype, device=x.device)
    found = torch.zeros((count + 1) * batch, dtype=torch.int64, device=x.device)
    sizes, steps = three(x.shape[2:], 1), three(strides, 1)
    P, C = tile_of(x)
    limits = torch.finfo(dtype)
    sums = found[batch:]
    with torch.cuda.device_of(x):
        _energies[triton.cdiv(pixels, P), batch](
            x, energies, found, *strides_of(x), x.shape[1], *sizes,
            MOST=limits.max, ORDER=order, WIDE=wide, P=P, C=C,
        )  # fmt: skip
        _levels[triton.cdiv(pixels, 1024), batch](
            energies, found, sums, *sizes, *steps,
            TINY=limits.tiny, WIDE=wide, FEW=count <= 16, P=1024,
        )  # fmt: skip
    return sums.view(batch, count).to(torch.float64)


@triton.jit
def _find_ties(scores, sample, count, P: tl.constexpr):
    """Scores of a sample, and which of them are as good as the best."""
    index = tl.arange(0, P)
    score = tl.load(scores + sample * count + index, index < count, other=float("-inf"))
    best = tl.max(score, 0)
    near = best - tl.full((), 1e-9, tl.float64) * tl.abs(best)
    return index, score, ((score == best) | (score >= near)) & (index < count)


@triton.jit
def _add_map(
    x, views, scores, xn, xc, x0, x1, x2, before, channels, size0, size1, size2, count,
    MOST: tl.constexpr, FIRST: tl.constexpr, S: tl.constexpr, P: tl.constexpr,
):  # fmt: skip
    """Where a sample ties, add the weighted channels of a map to each pixel."""
    sample, pixels = tl.program_id(1).to(tl.int64), size0 * size1 * size2
    _, _, tied = _find_ties(scores, sample, count, S)
    if tl.sum(tied.to(tl.int32), 0) > 1:
        flat = tl.program_id(0) * P + tl.arange(0, P)
        inside = flat < pixels
        row = x + sample * xn + _address(flat, size1, size2, x0, x1, x2)
        most = tl.full((), MOST, tl.float64)
        golden = tl.full((), 0.6180339887498949, tl.float64)
        pi = tl.full((), 3.141592653589793, tl.float64)
        half = tl.full((), 0.5, tl.float64)
        total = tl.zeros((P,), tl.float64)
        if not FIRST:
            total = tl.load(views + sample * pixels + flat, inside, other=0.0)
        for channel in range(channels):
            value = tl.load(row + channel * xc, inside, other=0.0).to(tl.float64)
            value = tl.where(value != value, 0.0, value)
            value = tl.minimum(tl.maximum(value, -most), most)
            index = (before + channel + 1).to(tl.float64)
            spread = index * index * golden + index * pi
            total += value * (half + half * (spread - tl.floor(spread)))
        tl.store(views + sample * pixels + flat, total, inside)


@triton.jit
def _double(views, source, target, axis, bit, size, below, pixels, P: tl.constexpr):
    """At each pixel add the sum of the window that lies at the far side of its own."""
    index = tl.where(bit < 13, 13 * axis + bit, 3 * bit + axis).to(tl.float64)
    golden = tl.full((), 0.6180339887498949, tl.float64)
    euler = tl.full((), 2.718281828459045, tl.float64)
    half = tl.full((), 0.5, tl.float64)
    spread = index * index * golden + (index + 1.0) * euler
    factor = half + half * (spread - tl.floor(spread))
    for first in range(0, pixels, P):
        flat = first + tl.arange(0, P)
        inside = flat < pixels
        at = flat // below % size
        other = flat + ((at + (1 << bit)) % size - at) * below
        value = tl.load(views + source + flat, inside, other=0.0)
        value += tl.load(views + source + other, inside, other=0.0) * factor
        tl.store(views + target + flat, value, inside)
    tl.debug_barrier()


@triton.jit
def _settle(
    views, scores, chosen, batch, count, axes, bits0, bits1, bits2,
    size0, size1, size2, stride0, stride1, stride2,
    S: tl.constexpr, P: tl.constexpr,
):  # fmt: skip
    """The phase of the best score; of tied ones, the phase of the largest view."""
    sample, pixels = tl.program_id(0).to(tl.int64), size0 * size1 * size2
    index, score, tied = _find_ties(scores, sample, count, S)
    num_tied = tl.sum(tied.to(tl.int32), 0)
    if num_tied <= 1:
        only = tl.min(tl.where(tied, index, count), 0)
        tl.store(chosen + sample, tl.where(num_tied == 1, only, 0).to(tl.int64))
    else:
        done = 0
        for padded in tl.static_range(3):
            size = size0 if padded == 0 else (size1 if padded == 1 else size2)
            below = size1 * size2 if padded == 0 else (size2 if padded == 1 else 1)
            bits = bits0 if padded == 0 else (bits1 if padded == 1 else bits2)
            for bit in range(bits):
                source = ((done + bit) % 2 * batch + sample) * pixels
                target = ((done + bit + 1) % 2 * batch + sample) * pixels
                _double(views, source, target, padded - 2 + axes, bit, size, below, pixels, P)
            done += bits
        source = (done % 2 * batch + sample) * pixels
        near = tl.min(tl.where(tied, score, float("inf")), 0)  # the least of the tied scores
        found = tl.full((P,), float("-inf"), tl.float64)
        for first in range(0, pixels, P):
            flat = first + tl.arange(0, P)
            phase = _phase(flat, size1, size2, stride0, stride1, stride2)
            strong = tl.load(scores + sample * count + phase, flat < pixels, other=float("-inf"))
            value = tl.load(views + source + flat, flat < pixels, other=0.0)
            found = tl.maximum(found, tl.where((flat < pixels) & (strong >= near), value, found))
        largest = tl.max(found, 0)
        phases = tl.full((P,), 1 << 30, tl.int32)
        for first in range(0, pixels, P):
            flat = first + tl.arange(0, P)
            phase = _phase(flat, size1, size2, stride0, stride1, stride2)
            strong = tl.load(scores + sample * count + phase, flat < pixels, other=float("-inf"))
            value = tl.load(views + source + flat, flat < pixels, other=0.0)
            holds = (flat < pixels) & (strong >= near) & (value == largest)
            phases = tl.minimum(phases, tl.where(holds, phase, phases))
        tl.store(chosen + sample, tl.min(phases, 0).to(tl.int64))


def choose(scores: Tensor, maps: Sequence[Tensor], strides: Sequence[int]) -> Tensor:
    """The phases of the largest scores, ties settled as ``shiftproof.ops.ties`` does.

    Args:
        scores: Scores, ``(N, P)`` float64, not NaN.
        maps: Feature maps of one spatial size, ``(N, C, *spatial)`` of floats.
        strides: Stride of each axis.

    Returns:
        Phases, ``(N,)`` int64; those of torch but for the rounding of views.
    """
    batch, count = scores.shape
    pixels = math.prod(maps[0].shape[2:])
    scores = scores.contiguous()
    views = torch.empty((2, batch, pixels), dtype=torch.float64, device=scores.device)
    chosen = torch.empty(batch, dtype=torch.int64, device=scores.device)
    sizes, width, before = three(maps[0].shape[2:], 1), triton.next_power_of_2(count), 0
    with torch.cuda.device_of(scores):
        for x in maps:
            most = min(torch.finfo(x.dtype).max, 1e38)
            _add_map[triton.cdiv(pixels, 256), batch](
                x, views, scores, *strides_of(x), before, x.shape[1], *sizes, count,
                MOST=most, FIRST=before == 0, S=width, P=256, enable_fp_fusion=False,
            )  # fmt: skip
            before += x.shape[1]
        _settle[(batch,)](
            views, scores, chosen, batch, count, len(strides),
            *[(size - 1).bit_length() for size in sizes], *sizes, *three(strides, 1),
            S=width, P=1024, enable_fp_fusion=False,
        )  # fmt: skip
    return chosen


@triton.jit
def _offsets(phases, starts, batch, axes, stride0, stride1, stride2, N: tl.constexpr):
    sample = tl.program_id(0) * N + tl.arange(0, N)
    phase = tl.load(phases + sample, sample < batch, other=0)
    count = stride0 * stride1 * stride2
    phase = (phase % count + count) % count  # the rest of a negative number is negative
    for padded in tl.static_range(3):
        stride = stride0 if padded == 0 else (stride1 if padded == 1 else stride2)
        below = stride1 * stride2 if padded == 0 else (stride2 if padded == 1 else 1)
        axis = padded - 3 + axes
        place = starts + sample.to(tl.int64) * axes + axis
        tl.store(place, phase // below % stride, (sample < batch) & (axis >= 0))


def offsets(phases: Tensor, strides: Sequence[int]) -> Tensor:
    """First pixel of each phase's component.

    Args:
        phases: Phases, ``(N,)`` int64, row-major, taken modulo P.
        strides: Stride of each axis.

    Returns:
        Pixel offsets, ``(N, D)`` int64.
    """
    phases, batch = phases.contiguous(), len(phases)
    starts = torch.empty((batch, len(strides)), dtype=torch.int64, device=phases.device)
    with torch.cuda.device_of(phases):
        _offsets[(triton.cdiv(batch, 256),)](
            phases, starts, batch, len(strides), *three(strides, 1), N=256
        )
    return starts
