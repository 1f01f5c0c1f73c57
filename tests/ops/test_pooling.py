import math

import pytest
import torch

from maps import DTYPES, laid_out, random_map
from shiftproof import nn, ops


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("sizes", [(7,), (7, 7), (1, 1), (50, 14), (3, 4, 5)])
def test_no_order_of_the_pixels_changes_the_mean(device, sizes, dtype, channels_last):
    # Magnitudes from 1e-3 to 1e3, where the order of an ordinary sum shows.
    x = random_map(3, 5, *sizes) * 10 ** random_map(3, 5, *sizes, seed=1).clamp(-3, 3)
    x = laid_out(x.to(device, dtype), channels_last)
    order = torch.randperm(math.prod(sizes), generator=torch.Generator().manual_seed(0))
    mixed = laid_out(x.flatten(2)[..., order].view_as(x), channels_last)
    assert torch.equal(ops.global_mean(mixed), ops.global_mean(x))
    assert torch.equal(nn.GlobalMean()(mixed), nn.GlobalMean()(x))


def test_control_the_ordinary_mean_depends_on_the_order():
    x = random_map(64, 8, 7, 7)
    assert not torch.equal(torch.roll(x, (2, 3), (2, 3)).mean((2, 3)), x.mean((2, 3)))


@pytest.mark.parametrize("dtype", DTYPES)
def test_it_is_the_mean(dtype):
    x = random_map(3, 5, 6, 7, dtype=dtype)
    expected = x.double().mean((2, 3)).to(dtype)
    torch.testing.assert_close(ops.global_mean(x), expected)


@pytest.mark.parametrize("value", [0.0, math.inf, -math.inf, math.nan])
def test_values_that_cannot_be_scaled_give_what_the_ordinary_mean_gives(value):
    x = torch.zeros(1, 1, 2, 2)
    x[0, 0, 1, 0] = value
    torch.testing.assert_close(ops.global_mean(x), x.mean((2, 3)), equal_nan=True)


@pytest.mark.parametrize("scale", [1e-38, 1e-30, 1e30, 1e38])
def test_extreme_magnitudes_keep_their_mean(scale):
    x = random_map(2, 3, 7, 7).clamp(-2, 2) * scale
    torch.testing.assert_close(ops.global_mean(x), x.double().mean((2, 3)).float())


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")  # by forward mode itself
def test_gradients():
    x = random_map(2, 3, 3, 2, dtype=torch.float64).requires_grad_()
    # The rounding is a staircase far below what a difference quotient can see.
    assert torch.autograd.gradcheck(ops.global_mean, x)
    assert torch.autograd.gradgradcheck(ops.global_mean, x)
    (grad,) = torch.autograd.grad(ops.global_mean(x).sum(), x)
    assert torch.equal(grad, torch.full_like(x, 1 / 6))
    _, moved = torch.func.jvp(ops.global_mean, (x.detach(),), (torch.ones_like(x),))
    torch.testing.assert_close(moved, torch.ones_like(moved))


def test_a_compiled_mean_is_the_same():
    x = random_map(2, 3, 7, 7)
    compiled = torch.compile(nn.GlobalMean(), fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(x), ops.global_mean(x))


def test_a_tensor_without_pixels_is_refused():
    with pytest.raises(ValueError, match="global_mean: input must be"):
        ops.global_mean(torch.ones(2, 3))
