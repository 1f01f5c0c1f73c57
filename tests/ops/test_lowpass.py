import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import reference
from maps import DTYPES, cases, distinct_map, laid_out, random_map, whole_map
from shiftproof import ops
from shiftproof.ops.padding import PADDING_MODES

SIZES = {1: (7,), 2: (4, 5), 3: (2, 3, 4)}


def assert_close(actual, expected):
    scale = np.abs(expected).max()
    tolerance = scale * reference.TOLERANCES[actual.dtype]
    np.testing.assert_allclose(reference.as_numpy(actual), expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("num_dims", [1, 2, 3])
@pytest.mark.parametrize("kernel_size", range(1, 8))
def test_a_binomial_kernel_is_an_outer_product_of_sum_one(kernel_size, num_dims):
    kernel = ops.binomial_kernel(kernel_size, num_dims, dtype=torch.float64)
    row = torch.tensor([math.comb(kernel_size - 1, tap) for tap in range(kernel_size)])
    assert kernel.shape == (kernel_size,) * num_dims
    assert kernel.sum() == 1
    assert torch.equal(kernel.flatten()[:kernel_size] / kernel.flatten()[0], row.double())
    assert torch.equal(kernel, kernel.transpose(0, -1).flip(0))


@pytest.mark.parametrize("padding_mode", PADDING_MODES)
@pytest.mark.parametrize("num_dims", [1, 2, 3])
@pytest.mark.parametrize("kernel_size", [1, 2, 3, 4, 7])
def test_lowpass_and_its_gradient_match_the_reference(kernel_size, num_dims, padding_mode):
    kernel = ops.binomial_kernel(kernel_size, num_dims)
    for dtype, stride in zip(DTYPES, (1, 2, 3, 1), strict=True):
        x = random_map(2, 2, *SIZES[num_dims], dtype=dtype).requires_grad_()
        y = ops.lowpass(x, kernel, padding_mode, stride)
        setting = (kernel.numpy(), padding_mode, (stride,) * num_dims)
        assert y.dtype == dtype
        assert_close(y, reference.lowpass(reference.as_numpy(x), *setting))
        grad = random_map(*y.shape, seed=1, dtype=dtype)
        (actual,) = torch.autograd.grad(y, x, grad)
        sizes = SIZES[num_dims]
        expected = reference.lowpass_gradient(reference.as_numpy(grad), *setting, sizes)
        assert_close(actual, expected)


@given(cases(fill=whole_map, dtypes=[torch.float64, torch.float32]), st.integers(1, 6))
def test_lowpass_is_exactly_equivariant_where_its_sums_are_exact(device, case, kernel_size):
    case = case.to(device)
    kernel = ops.binomial_kernel(kernel_size, case.x.ndim - 2)
    filtered = ops.lowpass(case.x, kernel)
    assert torch.equal(ops.lowpass(case.moved, kernel), ops.circular_shift(filtered, case.shift))


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("kernel_size", [3, 6])
def test_lowpass_is_bitwise_equivariant_on_cpu(kernel_size, channels_last):
    kernel, shift = ops.binomial_kernel(kernel_size), (3, 5)
    for dtype in DTYPES:
        for width in (6, 7, 12):
            x = laid_out(random_map(2, 3, 8, width, dtype=dtype), channels_last)
            moved = ops.lowpass(ops.circular_shift(x, shift), kernel)
            assert torch.equal(moved, ops.circular_shift(ops.lowpass(x, kernel), shift))


@pytest.mark.parametrize("padding_mode", ["zeros", "reflect"])
def test_control_other_paddings_are_not_equivariant(padding_mode):
    x, kernel = distinct_map(1, 1, 6, 6), ops.binomial_kernel(3, dtype=torch.float64)
    moved = ops.lowpass(ops.circular_shift(x, (1, 2)), kernel, padding_mode)
    expected = ops.circular_shift(ops.lowpass(x, kernel, padding_mode), (1, 2))
    assert (moved - expected).abs().max() > 1


def test_control_a_stride_is_not_equivariant():
    x, kernel = distinct_map(1, 1, 6, 6), ops.binomial_kernel(3, dtype=torch.float64)
    kept, other = (
        ops.lowpass(ops.circular_shift(x, (dy, 0)), kernel, stride=2).flatten().sort().values
        for dy in (0, 1)
    )
    assert (kept - other).abs().max() > 1


@pytest.mark.parametrize("padding_mode", PADDING_MODES)
def test_a_constant_passes_unless_zeros_surround_it(padding_mode):
    x = torch.full((1, 2, 5, 6), 3.0)
    filtered = ops.lowpass(x, ops.binomial_kernel(3), padding_mode)
    assert torch.equal(filtered, x) == (padding_mode != "zeros")


@pytest.mark.parametrize("kernel_size", [0, -1])
def test_a_kernel_has_a_tap(kernel_size):
    with pytest.raises(ValueError, match="binomial_kernel: kernel_size must be at least 1"):
        ops.binomial_kernel(kernel_size)


def test_a_padding_mode_is_known():
    message = "lowpass: padding_mode must be one of circular, zeros, reflect, got 'replicate'"
    with pytest.raises(ValueError, match=message):
        ops.lowpass(torch.zeros(1, 1, 4, 4), ops.binomial_kernel(3), "replicate")


def test_a_kernel_has_one_axis_per_spatial_axis():
    with pytest.raises(ValueError, match="lowpass: kernel must have one axis per spatial axis, 1"):
        ops.lowpass(torch.zeros(1, 1, 4), ops.binomial_kernel(3))
