"""Images and networks that the tests of the certifier share."""

import torch


def noise(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def build(factory):
    """A network with the same random weights at every call, and none of the caller's disturbed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return factory()
