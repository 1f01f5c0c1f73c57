import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from shiftproof.analysis.circular import interpolate, mean_over
from shiftproof.conversion import convert

X = torch.randn(2, 3, 6, 8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("dims", [(2, 3), (3,), (1,), (1, 2, 3)])
@pytest.mark.parametrize("keepdim", [False, True])
def test_mean_over_is_the_mean_in_any_order(dims: tuple[int, ...], keepdim: bool) -> None:
    mean = mean_over(X, dims, keepdim)
    torch.testing.assert_close(mean, X.mean(dims, keepdim))
    for dim in dims:
        order = torch.randperm(X.shape[dim])
        assert torch.equal(mean_over(X.index_select(dim, order), dims, keepdim), mean)


def test_mean_in_another_order_is_the_control() -> None:
    wide = torch.randn(8, 64, 31, 33)
    assert not torch.equal(wide.roll((5, 7), (2, 3)).mean((2, 3)), wide.mean((2, 3)))


@pytest.mark.parametrize(("mode", "reach"), [("bilinear", 1), ("bicubic", 2), ("nearest", 0)])
def test_interpolation_moves_with_the_map(mode: str, reach: int) -> None:
    x = X.double()
    larger = interpolate(x, reach, (2, 3), mode)
    assert larger.shape == (2, 3, 12, 24)
    for shift in ((1, 0), (0, 1), (5, 3)):
        moved = interpolate(x.roll(shift, (2, 3)), reach, (2, 3), mode)
        expected = larger.roll((2 * shift[0], 3 * shift[1]), (2, 3))
        torch.testing.assert_close(moved, expected, rtol=0, atol=1e-12)
    inside = (..., slice(2 * reach, 12 - 2 * reach), slice(3 * reach, 24 - 3 * reach))
    original = F.interpolate(x, scale_factor=(2.0, 3.0), mode=mode)
    torch.testing.assert_close(larger[inside], original[inside], rtol=0, atol=1e-12)
    if reach:
        assert not torch.allclose(larger, original)  # the control: borders differ


TRANSPOSED = [
    (kernel, stride, padding, extra, dilation)
    for kernel, stride, padding, extra, dilation in itertools.product(
        (2, 3, 4, 5), (1, 2, 3), (0, 1), (0, 1), (1, 2)
    )
    if extra < max(stride, dilation)  # torch refuses others
]


@pytest.mark.parametrize(("kernel", "stride", "padding", "extra", "dilation"), TRANSPOSED)
def test_transposed_convolution_moves_with_the_map(
    kernel: int, stride: int, padding: int, extra: int, dilation: int
) -> None:
    x = torch.randn(1, 3, 16, 20, dtype=torch.float64)
    layer = nn.ConvTranspose2d(3, 4, kernel, stride, padding, extra, dilation=dilation)
    model = nn.Sequential(nn.Conv2d(3, 3, 1), layer).double().eval()
    conversion = convert(model, x, allow_shape_change=True)
    if conversion.summary.alignments:
        assert dilation * (kernel - 1) + 1 < stride
        return
    converted = conversion.model
    with torch.no_grad():
        before = converted(x)
        assert before.shape[2:] == (16 * stride, 20 * stride)
        for dy, dx in ((1, 0), (2, 5)):
            after = converted(x.roll((dy, dx), (2, 3)))
            expected = before.roll((dy * stride, dx * stride), (2, 3))
            torch.testing.assert_close(after, expected, rtol=0, atol=1e-12)
        original = model(x)
        reach = dilation * (kernel - 1) + padding
        rows, columns = (
            slice(reach, min(size * stride, length) - reach)
            for size, length in zip((16, 20), original.shape[2:], strict=True)
        )
        inside = (..., rows, columns)
        torch.testing.assert_close(before[inside], original[inside], rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    "layer",
    [
        nn.AdaptiveAvgPool2d((3, 4)),
        nn.AdaptiveMaxPool2d(2),
        nn.AdaptiveAvgPool2d((None, 1)),
        nn.Upsample(scale_factor=0.5, mode="bilinear"),
        nn.Upsample(scale_factor=0.5, mode="area"),
    ],
)
def test_coarser_maps_are_aligned_by_their_cells(layer: nn.Module) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), layer, nn.AdaptiveAvgPool2d(1)).double()
    model = nn.Sequential(model[0], layer, nn.ReLU(), model[2])
    conversion = convert(model, X)
    assert not any(alignment.full for alignment in conversion.summary.alignments)
    with torch.no_grad():
        before = conversion.model(X.double())
        for shift in ((1, 0), (0, 1), (3, 5)):
            after = conversion.model(X.double().roll(shift, (2, 3)))
            torch.testing.assert_close(after, before, rtol=0, atol=1e-12)
