"""Feature maps and layouts that entries share."""

import functools

import torch
from torch import Tensor

FORMATS = {"NCHW": torch.contiguous_format, "channels_last": torch.channels_last}


@functools.lru_cache(maxsize=2)
def feature_map(
    shape: tuple[int, int, int, int], dtype: torch.dtype, layout: str, device: str
) -> Tensor:
    """Normal noise, the same in every layout; the candidates of an entry share the memory."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(shape, generator=generator).to(device, dtype)
    return x.contiguous(memory_format=FORMATS[layout])


def some_phases(x: Tensor) -> Tensor:
    """A phase for each sample, all of them equally often."""
    return torch.arange(len(x), device=x.device) % 4
