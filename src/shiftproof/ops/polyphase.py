"""Keep, put back and align: the moves on a map's polyphase components.

References:
    A. Chaman and I. Dokmanic, "Truly shift-invariant convolutional neural networks", CVPR 2021,
    section 3; the same, "Truly shift-equivariant convolutional neural networks with adaptive
    polyphase upsampling", Asilomar 2021.
"""

import math
from collections.abc import Sequence

from torch import Tensor

from shiftproof.ops.lattice import read_lattice, write_lattice
from shiftproof.ops.overrides import overridable
from shiftproof.ops.padding import pad
from shiftproof.ops.phases import (
    check_divisible,
    check_map,
    constants,
    integers,
    per_axis,
    per_sample_phase,
    phase_offsets,
)
from shiftproof.ops.window import read_window


@overridable
def polyphase_split(x: Tensor, stride: int | Sequence[int]) -> Tensor:
    """Lay the polyphase components of a map side by side.

    ``polyphase_split(x, 2)[:, :, p]`` is ``x[:, :, p // 2 :: 2, p % 2 :: 2]``.

    Args:
        x: Feature map, ``(N, C, *spatial)``.
        stride: Sampling stride in pixels; must divide every spatial size.

    Returns:
        The components in row-major phase order, ``(N, C, P, *(spatial / S))``.

    Raises:
        ValueError: If a spatial size is not a multiple of its stride.

    Equivariance:
        Exact (bitwise): a circular shift ``d`` of ``x`` moves component ``p`` to
        ``q = (p + d) mod S``, shifted by ``(p + d - q) / S``.  Checked by
        ``tests/ops/test_polyphase.py``.
    """
    num_dims = check_map("polyphase_split", x)
    strides = per_axis("polyphase_split", stride, num_dims)
    check_divisible("polyphase_split", x.shape[2:], strides)
    pairs = [
        part
        for size, step in zip(x.shape[2:], strides, strict=True)
        for part in (size // step, step)
    ]
    counts = [2 + 2 * axis for axis in range(num_dims)]
    phases = [3 + 2 * axis for axis in range(num_dims)]
    split = x.reshape(*x.shape[:2], *pairs)
    return split.permute(0, 1, *phases, *counts).flatten(2, 1 + num_dims)


@overridable
def polyphase_merge(components: Tensor, stride: int | Sequence[int]) -> Tensor:
    """Interleave polyphase components again: the inverse of ``polyphase_split``.

    Args:
        components: Components in row-major phase order, ``(N, C, P, *spatial)``.
        stride: Sampling stride in pixels, of product ``P``.

    Returns:
        The map, ``(N, C, *(spatial * S))``.

    Raises:
        ValueError: If the number of components is not the product of the strides, or they are not
            those of 1-D, 2-D or 3-D maps.

    Equivariance:
        Exact (bitwise), as for ``polyphase_split``.  Checked by ``tests/ops/test_polyphase.py``.
    """
    if not isinstance(components, Tensor) or not 4 <= components.ndim <= 6:
        got = tuple(components.shape) if isinstance(components, Tensor) else type(components)
        raise ValueError(
            "polyphase_merge: components must be (N, C, P, *spatial) with 1 to 3 spatial axes, got "
            f"{got}; pass what polyphase_split returned"
        )
    num_dims = components.ndim - 3
    strides = per_axis("polyphase_merge", stride, num_dims)
    if components.shape[2] != math.prod(strides):
        raise ValueError(
            f"polyphase_merge: the number of components must be the product of stride={strides}, "
            f"got {components.shape[2]}; pass what polyphase_split returned for this stride"
        )
    sizes = [count * step for count, step in zip(components.shape[3:], strides, strict=True)]
    x = components.reshape(*components.shape[:2], *strides, *components.shape[3:])
    pairs = [axis for i in range(num_dims) for axis in (2 + num_dims + i, 2 + i)]
    return x.permute(0, 1, *pairs).reshape(*components.shape[:2], *sizes)


@overridable
def take_phase(
    x: Tensor, phase: Tensor | Sequence[int] | int, stride: int | Sequence[int]
) -> Tensor:
    """Keep one polyphase component of each sample.

    Args:
        x: Feature map, ``(N, C, *spatial)``.
        phase: Component to keep, ``(N,)`` integers in ``[0, P)``, row-major; other values count
            modulo ``P``; one integer for all samples, or one for each.
        stride: Sampling stride in pixels; must divide every spatial size.

    Returns:
        The chosen components, ``(N, C, *(spatial / S))``, in the memory format of ``x``.

    Raises:
        ValueError: If a spatial size is not a multiple of its stride, or there is not one phase
            per sample.
        TypeError: If the phases are not integers.

    Equivariance:
        Exact (bitwise): shifting ``x`` by ``d`` and asking for phase ``q = (p + d) mod S`` gives
        the same component, shifted by ``(p + d - q) / S``.  Checked by
        ``tests/ops/test_polyphase.py``.

    Examples:
        >>> import torch
        >>> x = torch.arange(8.0).reshape(2, 1, 4)
        >>> take_phase(x, torch.tensor([0, 1]), 2)
        tensor([[[0., 2.]],
        <BLANKLINE>
                [[5., 7.]]])
    """
    strides = per_axis("take_phase", stride, check_map("take_phase", x))
    sizes = x.shape[2:]
    check_divisible("take_phase", sizes, strides)
    phase = per_sample_phase("take_phase", phase, x)
    counts = [size // step for size, step in zip(sizes, strides, strict=True)]
    return read_lattice(x, phase_offsets(phase, strides), strides, counts)


@overridable
def place_phase(
    y: Tensor, phase: Tensor | Sequence[int] | int, stride: int | Sequence[int]
) -> Tensor:
    """Put each sample back as one polyphase component of a map of zeros.

    The exact adjoint of ``take_phase``, and its right inverse:
    ``take_phase(place_phase(y, p, S), p, S) == y``.

    Args:
        y: Components, ``(N, C, *spatial)``.
        phase: Where to put them, ``(N,)`` integers in ``[0, P)``, row-major; other values count
            modulo ``P``; one integer for all samples, or one for each.
        stride: Upsampling stride in pixels.

    Returns:
        The maps, ``(N, C, *(spatial * S))``, in the memory format of ``y``.

    Raises:
        ValueError: If there is not one phase per sample.
        TypeError: If the phases are not integers.

    Equivariance:
        Exact (bitwise): the shifted component at the shifted phase (see ``take_phase``) gives the
        shifted map.  Checked by ``tests/ops/test_polyphase.py``.
    """
    strides = per_axis("place_phase", stride, check_map("place_phase", y))
    phase = per_sample_phase("place_phase", phase, y)
    counts = y.shape[2:]
    sizes = [count * step for count, step in zip(counts, strides, strict=True)]
    return write_lattice(y, phase_offsets(phase, strides), strides, sizes)


@overridable
def align_phase(
    x: Tensor,
    phase: Tensor | Sequence[int] | int,
    stride: int | Sequence[int],
    before: Sequence[int] | None = None,
    after: Sequence[int] | None = None,
) -> Tensor:
    """Circularly shift each sample so that the chosen component starts at the origin.

    Any strided layer that follows then samples the chosen component:
    ``take_phase(x, p, S) == align_phase(x, p, S)[..., ::S, ::S]``.

    A convolution that follows needs the aligned map with a circular border.  Given its widths, both
    are made in one copy: ``align_phase(x, p, S, before, after)`` is
    ``pad(align_phase(x, p, S), before, after, "circular")``.

    Args:
        x: Feature map, ``(N, C, *spatial)``.
        phase: Chosen component, ``(N,)`` integers in ``[0, P)``, row-major; other values count
            modulo ``P``; one integer for all samples, or one for each.
        stride: Stride of the layers that follow, in pixels; must divide every spatial size.
        before: Pixels to add before the first, per spatial axis; none if None.
        after: Pixels to add after the last, per spatial axis; none if None.

    Returns:
        The aligned maps, ``(N, C, *(before + spatial + after))``, in the memory format of ``x``.

    Raises:
        ValueError: If a spatial size is not a multiple of its stride, there is not one phase per
            sample, or not one width of the border per axis.
        TypeError: If the phases are not integers.

    Equivariance:
        Exact (bitwise): shifting ``x`` by ``d`` and aligning at ``q = (p + d) mod S`` shifts the
        result by ``p + d - q``, a multiple of ``S``.  Checked by ``tests/ops/test_polyphase.py``.
    """
    num_dims = check_map("align_phase", x)
    strides = per_axis("align_phase", stride, num_dims)
    check_divisible("align_phase", x.shape[2:], strides)
    phase = per_sample_phase("align_phase", phase, x)
    first, last = (
        integers("align_phase", name, 0 if width is None else width, num_dims)
        for name, width in (("before", before), ("after", after))
    )
    if len(first) != num_dims or len(last) != num_dims:
        raise ValueError(
            f"align_phase: before and after must have one width per spatial axis, {num_dims} here, "
            f"got {first} and {last}; pass a width for each"
        )
    if min(first + last) < 0:  # a window holds the whole map
        return pad(align_phase(x, phase, strides), first, last, "circular")
    start = phase_offsets(phase, strides)
    if any(first):
        start = start - constants(first, start)
    counts = [sum(part) for part in zip(first, x.shape[2:], last, strict=True)]
    return read_window(x, start, -first[-1], strides[-1] - 1, counts)
