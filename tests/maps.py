"""Small maps of every kind, with strides that divide them, phases and shifts."""

import itertools
from dataclasses import dataclass

import torch
from hypothesis import strategies as st
from torch import Tensor

from shiftproof import ops

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)

_LARGEST_SIZE = {1: 16, 2: 12, 3: 6}


@dataclass(frozen=True)
class Case:
    """A batch of maps and one phase and one circular shift for each of them."""

    x: Tensor
    stride: tuple[int, ...]
    phase: Tensor
    shift: Tensor

    @property
    def moved(self) -> Tensor:
        return ops.circular_shift(self.x, self.shift)

    def to(self, device: torch.device) -> "Case":
        x, phase, shift = (tensor.to(device) for tensor in (self.x, self.phase, self.shift))
        return Case(x, self.stride, phase, shift)


def laid_out(x: Tensor, channels_last: bool) -> Tensor:
    """The same values in one memory format or the other, for any number of spatial axes."""
    return x.movedim(1, -1).contiguous().movedim(-1, 1) if channels_last else x.contiguous()


def random_map(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


def whole_map(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    """Small whole numbers, so that sums of products with dyadic weights are exact."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-8, 9, shape, generator=generator).to(dtype)


def distinct_map(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """No two values alike, and strengths of components far apart."""
    generator = torch.Generator().manual_seed(0)
    count = torch.Size(shape).numel()
    return torch.randperm(count, generator=generator).add(1).to(dtype).reshape(shape)


@st.composite
def cases(draw, num_dims=None, dtypes=DTYPES, fill=random_map):
    num_dims = num_dims or draw(st.integers(1, 3))
    stride = draw(st.tuples(*[st.integers(1, 5)] * num_dims))
    counts = [draw(st.integers(1, max(1, _LARGEST_SIZE[num_dims] // step))) for step in stride]
    sizes = [count * step for count, step in zip(counts, stride, strict=True)]
    # Few and many channels take different ways through memory.
    batch, channels = draw(st.integers(1, 3)), draw(st.sampled_from((1, 2, 3, 5, 17)))
    seed, dtype = draw(st.integers(0, 2**16)), draw(st.sampled_from(dtypes))
    shifts = st.tuples(*[st.integers(-15, 15)] * num_dims)
    return Case(
        x=laid_out(fill(batch, channels, *sizes, seed=seed, dtype=dtype), draw(st.booleans())),
        stride=stride,
        phase=torch.tensor([draw(st.integers(0, num_phases(stride) - 1)) for _ in range(batch)]),
        shift=torch.tensor([draw(shifts) for _ in range(batch)]),
    )


def num_phases(stride) -> int:
    return torch.Size(stride).numel()


def is_circular_shift(y: Tensor, x: Tensor) -> bool:
    """Whether one shift of all samples of ``x`` gives ``y``."""
    shifts = itertools.product(*map(range, x.shape[2:]))
    return any(torch.equal(y, torch.roll(x, shift, list(range(2, x.ndim)))) for shift in shifts)
