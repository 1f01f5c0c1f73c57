"""Values of every dtype: exact where floats can hold them, refused in one line where not."""

import pytest
import torch

from maps import random_map
from shiftproof import nn, ops

EXACT = [torch.bool, torch.uint8, torch.int8, torch.int16, torch.uint16, torch.int32, torch.uint32]
OTHERS = {
    torch.int64: r"x\.double\(\)",
    torch.uint64: r"x\.double\(\)",
    torch.complex64: r"torch\.cat\(\[x\.real, x\.imag\], 1\)",
    torch.float8_e4m3fn: r"x\.float\(\)",
    torch.float8_e5m2: r"x\.float\(\)",
}
CHOICES = {
    "scores": lambda x: ops.phase_scores(x, 2),
    "scores 1": lambda x: ops.phase_scores(x, 2, 1),
    "scores inf": lambda x: ops.phase_scores(x, 2, float("inf")),
    "largest": lambda x: ops.largest_values(x, 2),
    "select": lambda x: ops.select_phase(x, 2),
    "SelectPhase2d": nn.SelectPhase2d(2, nn.SmallestNorm()),
    "of others": lambda x: ops.select_phase((random_map(*x.shape), x), 2),
}
MEANS = {
    "global_mean": ops.global_mean,
    "GlobalMean": nn.GlobalMean(),
    "lowpass": lambda x: ops.lowpass(x, ops.binomial_kernel(3)),
    "BlurPool2d": nn.BlurPool2d(),
}


def extreme_map(dtype: torch.dtype) -> torch.Tensor:
    """Values at both ends of the range, whose squares and magnitudes the dtype cannot hold."""
    low, high = (0, 1) if dtype == torch.bool else (torch.iinfo(dtype).min, torch.iinfo(dtype).max)
    values = torch.tensor([low, high, 0, low, 1, high], dtype=torch.float64)
    return values[torch.randint(6, (2, 3, 4, 6), generator=torch.Generator().manual_seed(0))]


@pytest.mark.parametrize("dtype", EXACT, ids=str)
def test_choices_of_integers_are_those_of_the_same_floats(dtype):
    x = extreme_map(dtype).to(torch.float64 if dtype.itemsize > 2 else torch.float32)
    for name, choice in CHOICES.items():
        assert torch.equal(choice(x.to(dtype)), choice(x)), name


@pytest.mark.parametrize("dtype", EXACT, ids=str)
def test_choices_of_integers_move_with_the_map(device, dtype):
    # The control is in tests/ops/test_ties.py: the first of the best.
    x, stride = extreme_map(dtype)[:, :1].repeat(1, 1, 1, 2).to(device), (2, 2)
    x[..., 0, 0] = 1 - x[..., 0, 0].clamp(0, 1)
    phase = ops.select_phase(x.to(dtype), stride)
    for shift in [(1, 0), (0, 1), (3, 5)]:
        moved = ops.circular_shift(x, shift).to(dtype)
        expected, _ = ops.shift_phase(phase, torch.tensor([shift], device=device), stride)
        assert torch.equal(ops.select_phase(moved, stride), expected)


@pytest.mark.parametrize("dtype", OTHERS, ids=str)
def test_what_floats_cannot_hold_is_refused(dtype):
    x = torch.ones(1, 1, 4, 4).to(dtype)
    for choice in CHOICES.values():
        with pytest.raises(TypeError, match=rf"floating-point dtype.*; pass {OTHERS[dtype]}$"):
            choice(x)


@pytest.mark.parametrize("dtype", [*EXACT, *OTHERS], ids=str)
def test_means_are_of_floats(dtype):
    x = torch.ones(1, 1, 4, 4).to(dtype)
    for name, mean in MEANS.items():
        if dtype.is_complex and name not in ("global_mean", "GlobalMean"):
            assert torch.equal(mean(x * 1j).imag, mean(x.real))
        else:
            with pytest.raises(TypeError, match="must be of a floating-point dtype of 16 bits or"):
                mean(x)
    with pytest.raises(TypeError, match="lowpass: the kernel of a real map must be real"):
        ops.lowpass(torch.ones(1, 1, 4), torch.ones(3) * 1j)


def test_max_pools_take_integers_exactly_and_refuse_what_has_no_order():
    x, pool = torch.randint(-(2**62), 2**62, (1, 2, 4, 4)), nn.MaxPool2d(2)
    assert torch.equal(pool(x), ops.polyphase_split(x, 2).amax(2))
    for dtype in (torch.bool, torch.complex64, torch.float8_e5m2, torch.uint16):
        with pytest.raises(TypeError, match="MaxPool2d: the map must be of a floating-point dtype"):
            pool(x.to(dtype))


@pytest.mark.parametrize("dtype", [*EXACT, *OTHERS], ids=str)
def test_copies_keep_every_value_of_every_dtype(dtype):
    if torch.__version__ < "2.11" and dtype in (torch.uint16, torch.uint32, torch.uint64):
        pytest.skip("this torch cannot gather them")
    x = torch.arange(24).remainder(2).reshape(1, 1, 4, 6).to(dtype)
    phase, floats = torch.tensor([1]), torch.arange(24.0).remainder(2).reshape(1, 1, 4, 6)
    for copied in (
        lambda x: ops.polyphase_merge(ops.polyphase_split(x, 2), 2),
        lambda x: ops.take_phase(x, phase, 2),
        lambda x: ops.place_phase(x, phase, 2),
        lambda x: ops.align_phase(x, phase, 2, (1, 1), (1, 1)),
        lambda x: ops.circular_shift(x, (1, 1)),
        lambda x: ops.pad(x, (1, 1), (1, 1), "circular"),
    ):
        assert copied(x).dtype == dtype
        assert torch.equal(copied(x).to(torch.complex64).real, copied(floats))
