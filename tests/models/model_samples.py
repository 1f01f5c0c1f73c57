"""Networks and images that the tests of the zoo share."""

import functools

import pytest
import torch
import torch.nn.functional as F
from sklearn.datasets import load_sample_images

from shiftproof import create_model, list_models

TRUNKS = ("cifar_resnet20", "cifar_resnet50", "resnet18", "resnet50")
"""One depth for each kind of block and stem."""

EVERY_TRUNK = [
    pytest.param(trunk, marks=pytest.mark.slow if trunk.endswith("50") else ()) for trunk in TRUNKS
]

PLACEMENTS = ("", "_lpf1", "_lpf3", "_lpf7", "_aps1", "_aps3", "_aps7", "_pa")

ORDINARY = frozenset(
    trunk + placement
    for trunk in TRUNKS
    for placement in PLACEMENTS
    if not trunk.endswith("50") or placement in ("", "_pa")
)

# Differences of logits, in units of their standard deviation over images.
ROUNDING = 1e-4
"""Sums taken in another order: by the average pool of a shifted map, by a kernel for another memory
format, by a filter and a stride in one pass; at most 3e-5 was seen."""

ROUNDING_FLOAT64 = 1e-10
"""The same in float64; at most 1e-13 was seen."""

DIFFERENT = 1e-3
"""Other pixels were kept; the least that was seen is 3e-2."""

ZOO = [
    pytest.param(name, marks=() if name in ORDINARY else pytest.mark.slow) for name in list_models()
]


def build(name, **options):
    """A network with the same random weights at every call, and none of the caller's disturbed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return create_model(name, **options)


def noise(batch, channels, height, width=None, seed=0):
    source = torch.Generator().manual_seed(seed)
    return torch.randn(batch, channels, height, width or height, generator=source)


@functools.cache
def views():
    """Four views of two photographs, ``(4, 3, 427, 300)``, with pixels in [0, 1]."""
    cut = [
        torch.tensor(photograph[:, column : column + 300])
        for photograph in load_sample_images().images
        for column in (0, 320)
    ]
    return torch.stack(cut).movedim(-1, 1).float() / 255


def photographs(model):
    """Normalised photographs, small, but so that the last map that is downsampled is 4 x 4.

    A filter on two pixels that wrap around makes them equal, and the choice of a phase a tie.
    """
    size = (64, 64) if model.total_stride == 32 else (16, 24)
    return (F.interpolate(views(), size, mode="area") - 0.45) / 0.225


def relative_difference(actual, expected):
    """Largest difference of logits in units of their standard deviation over images."""
    return ((actual - expected).abs().max() / expected.std(0).mean()).item()
