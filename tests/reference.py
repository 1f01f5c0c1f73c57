"""The operators as NumPy slices and loops, so simple that they need no test."""

import itertools

import numpy as np
import torch

TOLERANCES = {
    # Relative to the largest value: the rounding of one stored value, times the up to 49 products
    # that a 7 x 7 filter adds.
    torch.float64: 1e-14,
    torch.float32: 1e-5,
    torch.bfloat16: 5e-2,
    torch.float16: 5e-3,
}


def as_numpy(x):
    return x.detach().double().numpy()


def offsets(stride):
    """First pixel of each component, in row-major phase order."""
    return list(itertools.product(*map(range, stride)))


def _component(offset, stride):
    return (..., *(slice(first, None, step) for first, step in zip(offset, stride, strict=True)))


def split(x, stride):
    return np.stack([x[_component(offset, stride)] for offset in offsets(stride)], axis=2)


def merge(components, stride):
    counts = components.shape[3:]
    sizes = [count * step for count, step in zip(counts, stride, strict=True)]
    x = np.empty((*components.shape[:2], *sizes))
    for phase, offset in enumerate(offsets(stride)):
        x[_component(offset, stride)] = components[:, :, phase]
    return x


def take(x, phase, stride):
    return np.stack([split(x, stride)[n, :, p] for n, p in enumerate(phase)])


def place(y, phase, stride):
    components = np.zeros((*y.shape[:2], len(offsets(stride)), *y.shape[2:]))
    for n, p in enumerate(phase):
        components[n, :, p] = y[n]
    return merge(components, stride)


def circular_shift(x, shift):
    spatial = tuple(range(1, x.ndim - 1))
    return np.stack([np.roll(x[n], tuple(d), spatial) for n, d in enumerate(shift)])


def align(x, phase, stride):
    return circular_shift(x, [[-first for first in offsets(stride)[p]] for p in phase])


def align_gradient(grad, phase, stride):
    return circular_shift(grad, [offsets(stride)[p] for p in phase])


def scores(x, stride, norm):
    """Sum of powers of magnitudes for norms 1 and 2, largest magnitude for infinity."""
    components = np.moveaxis(split(np.abs(x), stride), 2, 1).reshape(
        len(x), len(offsets(stride)), -1
    )
    return components.max(-1) if norm == np.inf else (components**norm).sum(-1)


def largest_values(x, stride):
    return np.moveaxis(split(x, stride), 2, 1).reshape(len(x), len(offsets(stride)), -1).max(-1)


def source(position, size, padding_mode):
    """Pixel that a position beyond the border shows; None where it is zero."""
    if padding_mode == "circular":
        return position % size
    if padding_mode == "zeros":
        return position if 0 <= position < size else None
    if size == 1:
        return 0
    while not 0 <= position < size:
        position = -position if position < 0 else 2 * (size - 1) - position
    return position


def _products(sizes, kernel, padding_mode, stride):
    """Output pixel, tap and source pixel of every product of a filter."""
    grid = [range(0, size, step) for size, step in zip(sizes, stride, strict=True)]
    for output in itertools.product(*grid):
        for tap in itertools.product(*map(range, kernel.shape)):
            position = [
                source(first + offset - (taps - 1) // 2, size, padding_mode)
                for first, offset, taps, size in zip(output, tap, kernel.shape, sizes, strict=True)
            ]
            if None not in position:
                yield (
                    tuple(o // s for o, s in zip(output, stride, strict=True)),
                    tap,
                    tuple(position),
                )


def lowpass(x, kernel, padding_mode, stride):
    counts = [-(-size // step) for size, step in zip(x.shape[2:], stride, strict=True)]
    y = np.zeros((*x.shape[:2], *counts))
    for output, tap, position in _products(x.shape[2:], kernel, padding_mode, stride):
        y[(..., *output)] += kernel[tap] * x[(..., *position)]
    return y


def lowpass_gradient(grad, kernel, padding_mode, stride, sizes):
    gradient = np.zeros((*grad.shape[:2], *sizes))
    for output, tap, position in _products(sizes, kernel, padding_mode, stride):
        gradient[(..., *position)] += kernel[tap] * grad[(..., *output)]
    return gradient


def _copies(sizes, before, after, padding_mode):
    """Padded pixel and the pixel it shows, of every one that is not zero."""
    lengths = [b + size + a for b, size, a in zip(before, sizes, after, strict=True)]
    for position in itertools.product(*map(range, lengths)):
        pixel = [
            source(p - b, size, padding_mode)
            for p, b, size in zip(position, before, sizes, strict=True)
        ]
        if None not in pixel:
            yield position, tuple(pixel)


def pad(x, before, after, padding_mode):
    sizes = x.shape[2:]
    lengths = [b + size + a for b, size, a in zip(before, sizes, after, strict=True)]
    padded = np.zeros((*x.shape[:2], *lengths))
    for position, pixel in _copies(sizes, before, after, padding_mode):
        padded[(..., *position)] = x[(..., *pixel)]
    return padded


def pad_gradient(grad, before, after, padding_mode):
    lengths = grad.shape[2:]
    sizes = [length - b - a for length, b, a in zip(lengths, before, after, strict=True)]
    gradient = np.zeros((*grad.shape[:2], *sizes))
    for position, pixel in _copies(sizes, before, after, padding_mode):
        gradient[(..., *pixel)] += grad[(..., *position)]
    return gradient
