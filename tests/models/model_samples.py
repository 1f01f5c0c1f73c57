"""Networks and images that the tests of the zoo share."""

import pytest
import torch
import torch.nn.functional as F
from sklearn.datasets import load_sample_images

from shiftproof import create_model, list_models

TRUNKS = ("cifar_resnet20", "cifar_resnet50", "resnet18", "resnet50")
"""One depth for each kind of block and stem."""

PLACEMENTS = ("", "_lpf1", "_lpf3", "_lpf7", "_aps1", "_aps3", "_aps7", "_pa")

ORDINARY = frozenset(trunk + placement for trunk in TRUNKS for placement in PLACEMENTS)

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


def photographs(height, width):
    """Eight views of two photographs, shrunk, in the value range that networks are fed with."""
    views = [
        torch.tensor(photograph[row : row + 200, column : column + 300])
        for photograph in load_sample_images().images
        for row in (0, 220)
        for column in (0, 320)
    ]
    pixels = torch.stack(views).movedim(-1, 1).float() / 255
    return (F.interpolate(pixels, (height, width), mode="area") - 0.45) / 0.225


def random_shifts(count, batch, seed=0):
    """One shift per image, ``(count, batch, 2)``, of up to a few times the size."""
    source = torch.Generator().manual_seed(seed)
    return torch.randint(-200, 200, (count, batch, 2), generator=source)


def relative_difference(actual, expected):
    """Largest difference of logits in units of their standard deviation over images."""
    deviation = expected.std(0).mean()
    return ((actual - expected).abs().max() / deviation).item()
