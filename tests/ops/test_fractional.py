import cmath
import math

import numpy as np
import pytest
import torch
from hypothesis import given

from maps import cases, random_map
from shiftproof import ops

METHODS = ["fft", "bilinear"]
FRACTIONS = torch.tensor([[0.25, -1.5], [3.125, 0.0]], dtype=torch.float64)


def slow_fft(row, d):
    """The trigonometric polynomial through the pixels of a row, at places further left by d."""
    n = len(row)
    found = []
    for place in range(n):
        total = 0
        for k in range(-(n - 1) // 2 if n % 2 else 1 - n // 2, (n - 1) // 2 + 1):
            weight = sum(row[i] * cmath.exp(-2j * math.pi * k * i / n) for i in range(n)) / n
            total += weight * cmath.exp(2j * math.pi * k * (place - d) / n)
        if n % 2 == 0:
            alternating = sum(row[i] * (-1) ** i for i in range(n)) / n
            total += alternating * math.cos(math.pi * (place - d))
        found.append(complex(total).real)
    return np.array(found)


def slow_linear(row, d):
    n, found = len(row), []
    for place in range(n):
        before = math.floor(place - d)
        weight = place - d - before
        found.append((1 - weight) * row[before % n] + weight * row[(before + 1) % n])
    return np.array(found)


def slow_shift(x, shifts, method):
    rows = slow_fft if method == "fft" else slow_linear
    x = x.detach().double().numpy().copy()
    for n, shift in enumerate(shifts):
        for axis, d in enumerate(shift):
            x[n] = np.apply_along_axis(rows, axis + 1, x[n], float(d))
    return torch.from_numpy(x)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("sizes", [(6, 5), (4, 8), (1, 2), (7, 3)])
def test_against_the_definition(sizes, method):
    x = random_map(2, 3, *sizes, dtype=torch.float64)
    expected = slow_shift(x, FRACTIONS.tolist(), method)
    torch.testing.assert_close(ops.fractional_shift(x, FRACTIONS, method), expected)
    assert not torch.allclose(ops.fractional_shift(x, FRACTIONS + 0.1, method), expected)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("sizes", [(9,), (4, 3, 6)])
def test_in_one_and_three_dimensions(sizes, method):
    x = random_map(1, 2, *sizes, dtype=torch.float64)
    shift = (0.3, -0.6, 2.5)[: len(sizes)]
    found = ops.fractional_shift(x, shift, method)
    torch.testing.assert_close(found, slow_shift(x, [shift], method))
    each = torch.tensor([shift], dtype=torch.float64)
    assert torch.equal(found, ops.fractional_shift(x, each, method))


@given(cases())
def test_whole_shifts_are_circular_shifts(case):
    for method in METHODS:
        for shift in (case.shift, case.shift.double(), case.shift.to(torch.float32)):
            assert torch.equal(ops.fractional_shift(case.x, shift, method), case.moved)


@given(cases(dtypes=(torch.float64,)))
def test_whole_shifts_exchange_with_fractions(case):
    fraction = torch.linspace(-1.3, 2.1, case.x.ndim - 2)
    for method in METHODS:
        first = ops.fractional_shift(case.moved, tuple(fraction.tolist()), method)
        moved = ops.fractional_shift(case.x, tuple(fraction.tolist()), method)
        then = ops.circular_shift(moved, case.shift)
        if method == "bilinear":
            assert torch.equal(first, then)
        else:
            torch.testing.assert_close(first, then)


@pytest.mark.parametrize("size", [5, 6])
def test_shifts_by_fft_add_and_keep_the_norm_below_the_highest_frequency(size):
    x = random_map(2, 3, size, size, dtype=torch.float64)
    alternating = torch.tensor([1.0, -1.0]).double().repeat(3)[:size]
    if size % 2 == 0:  # without the frequency that cannot be shifted
        for axis in (-1, -2):
            wave = alternating if axis == -1 else alternating[:, None]
            x = x - wave * (x * wave).mean(axis, keepdim=True)
    there = ops.fractional_shift(x, (0.4, -2.3))
    torch.testing.assert_close(there.square().sum(), x.square().sum())
    torch.testing.assert_close(ops.fractional_shift(there, (-0.4, 2.3)), x)
    torch.testing.assert_close(
        ops.fractional_shift(there, (0.5, 0.1)), ops.fractional_shift(x, (0.9, -2.2))
    )


def test_control_the_highest_frequency_of_an_even_size_is_lost_at_half_a_pixel():
    wave = torch.tensor([1.0, -1.0]).double().repeat(4).reshape(1, 1, 8)
    for d in (0.0, 0.25, 0.5, 1.0, 1.75):
        expected = math.cos(math.pi * d) * wave
        torch.testing.assert_close(ops.fractional_shift(wave, (d,)), expected)
    there = ops.fractional_shift(wave, (0.5,))
    assert not torch.allclose(ops.fractional_shift(there, (-0.5,)), wave)


def test_control_linear_interpolation_softens():
    x = random_map(1, 1, 7, 7, dtype=torch.float64)
    there = ops.fractional_shift(x, (0.5, 0.5), "bilinear")
    assert there.square().sum() < 0.8 * x.square().sum()
    assert not torch.allclose(ops.fractional_shift(there, (-0.5, -0.5), "bilinear"), x)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_dtypes(dtype, method):
    x = random_map(2, 3, 8, 5, dtype=dtype)
    found = ops.fractional_shift(x, FRACTIONS, method)
    assert found.dtype == dtype
    wide = ops.fractional_shift(x.double(), FRACTIONS, method)
    tolerance = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 2e-2}[dtype]
    torch.testing.assert_close(found.double(), wide, rtol=tolerance, atol=tolerance)


def test_a_large_shift_keeps_its_fraction():
    x = random_map(1, 1, 9, dtype=torch.float32)
    far = torch.tensor([[9e8 + 0.25]], dtype=torch.float64)
    torch.testing.assert_close(ops.fractional_shift(x, far), ops.fractional_shift(x, (0.25,)))


def test_just_below_a_whole_pixel_is_that_pixel():
    x = random_map(1, 1, 8)
    for d in (-1e-12, 1e-12):
        found = ops.fractional_shift(x, torch.tensor([[d]], dtype=torch.float64))
        torch.testing.assert_close(found, x)


@pytest.mark.parametrize("method", METHODS)
def test_the_gradient_by_the_shift(method):
    x = random_map(2, 2, 6, 5, dtype=torch.float64)
    shift = FRACTIONS.clone()
    shift[1, 1] = 0.7
    shift.requires_grad_()
    assert torch.autograd.gradcheck(lambda d: ops.fractional_shift(x, d, method), shift)


def test_unknown_method():
    with pytest.raises(ValueError, match="fractional_shift: method must be one of fft, bilinear"):
        ops.fractional_shift(torch.zeros(1, 1, 4), (0.5,), "bicubic")


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.bool, torch.complex64])
def test_images_must_be_real_floats(dtype):
    with pytest.raises(TypeError, match=r"floating-point dtype of 16 bits or more, .*x\.float\(\)"):
        ops.fractional_shift(torch.zeros(1, 1, 4, dtype=dtype), (0.5,))


@pytest.mark.parametrize("shift", [(0.5,), (1.0, 2.0, 3.0), torch.zeros(3, 2), torch.tensor(0.5)])
def test_a_shift_has_one_value_per_axis(shift):
    with pytest.raises(ValueError, match="fractional_shift: shift must have one value per spatial"):
        ops.fractional_shift(torch.zeros(2, 1, 4, 4), shift)


@pytest.mark.parametrize("shift", [True, None, "12", torch.ones(2, dtype=torch.bool), (True, 0.5)])
def test_a_shift_is_made_of_numbers(shift):
    with pytest.raises(TypeError, match="fractional_shift: shift must be made of numbers"):
        ops.fractional_shift(torch.zeros(2, 1, 4, 4), shift)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_shift_is_finite(value):
    with pytest.raises(ValueError, match="fractional_shift: shift must be finite"):
        ops.fractional_shift(torch.zeros(2, 1, 4, 4), (value, 0.0))
