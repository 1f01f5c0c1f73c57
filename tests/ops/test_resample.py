import pytest
import torch
import torch.nn.functional as F

from shiftproof.ops.resample import extended, kernel_weights, read_between, resample


def smooth_images(size: int = 48, num: int = 2) -> torch.Tensor:
    coarse = torch.rand(num, 3, 9, 9, generator=torch.Generator().manual_seed(0))
    return F.interpolate(coarse.double(), (size, size), mode="bicubic", align_corners=True)


def between(x: torch.Tensor, start, size, taps: int = 16, cutoff: float = 0.9, mode="reflect"):
    start = torch.as_tensor(start, dtype=x.dtype).expand(len(x), x.ndim - 2)
    return read_between(
        x, start, size, taps=taps, cutoff=cutoff, reach=[4] * (x.ndim - 2), padding_mode=mode
    )


def test_weights_sum_to_one_and_a_pixel_is_itself() -> None:
    fraction = torch.linspace(0, 0.99, 7, dtype=torch.float64)
    weights = kernel_weights(fraction, 16, 0.9)
    torch.testing.assert_close(weights.sum(-1), torch.ones(7, dtype=torch.float64))
    assert weights[0].tolist() == [0.0] * 7 + [1.0] + [0.0] * 8
    assert kernel_weights(torch.tensor(0.25), 2, 0).tolist() == [0.75, 0.25]


def test_the_kernel_hardly_answers_the_highest_frequency() -> None:
    alternating = torch.tensor([1.0, -1.0]).repeat(8).double()
    fraction = torch.linspace(0.01, 0.99, 50, dtype=torch.float64)
    assert (kernel_weights(fraction, 16, 0.9) @ alternating).abs().max() < 0.31
    linear = kernel_weights(fraction, 2, 0) @ torch.tensor([1.0, -1.0]).double()
    assert linear.abs().max() > 0.9  # control


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_whole_starts_copy_pixels(dims: int) -> None:
    x = torch.rand(2, 3, *[24] * dims, generator=torch.Generator().manual_seed(0))
    found = between(x, [3.0] * dims, [12] * dims)
    expected = x
    for axis in range(dims):
        expected = expected.narrow(2 + axis, 3, 12)
    assert torch.equal(found, expected)


def test_there_and_back_of_a_smooth_image() -> None:
    x = smooth_images()
    moved = between(x, [[0.3, -1.6], [2.5, 0.75]], (48, 48))
    back = between(moved, [[-0.3, 1.6], [-2.5, -0.75]], (48, 48))
    inner = (..., slice(12, -12), slice(12, -12))
    torch.testing.assert_close(back[inner], x[inner], rtol=0, atol=2e-3)


def test_batched_starts_equal_single_ones() -> None:
    x = smooth_images()
    starts = torch.tensor([[0.3, -1.6], [2.5, 0.75]])
    together = between(x, starts, (40, 40))
    alone = torch.cat([between(x[i : i + 1], starts[i : i + 1], (40, 40)) for i in (0, 1)])
    torch.testing.assert_close(together, alone)


@pytest.mark.parametrize("mode", ["reflect", "replicate", "zeros", "circular"])
def test_edges(mode) -> None:
    x = torch.arange(6.0).reshape(1, 1, 6)
    first = {"reflect": 2.0, "replicate": 0.0, "zeros": 0.0, "circular": 4.0}
    assert extended(x, (2,), mode)[0, 0, 0] == first[mode]


def test_an_image_without_room_is_refused() -> None:
    with pytest.raises(ValueError, match="larger than what is shown beyond its edge"):
        extended(torch.zeros(1, 1, 4, 4), (4, 4), "reflect")


@pytest.mark.parametrize("kernel", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size", [(20, 30), (97, 61)])
def test_the_whole_image_is_what_torch_makes_of_it(kernel, size) -> None:
    x = torch.rand(2, 3, 64, 48, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    step = (64 / size[0], 48 / size[1])
    found = resample(x, torch.zeros(2, 2), step, size, kernel)
    expected = F.interpolate(x, size, mode=kernel, antialias=True)
    inner = (..., slice(8, -8), slice(8, -8))  # torch cuts kernels off at the edge
    torch.testing.assert_close(found[inner], expected[inner], rtol=0, atol=1e-6)


def test_a_window_moves_with_its_start() -> None:
    x = smooth_images(64)
    found = resample(x, torch.tensor([[8.0, 8.0], [8.0, 8.0]]), (2.0, 2.0), (16, 16), "bicubic")
    other = resample(x, torch.tensor([[10.0, 8.0], [8.0, 10.0]]), (2.0, 2.0), (16, 16), "bicubic")
    torch.testing.assert_close(other[0, :, :-1], found[0, :, 1:])
    torch.testing.assert_close(other[1, ..., :-1], found[1, ..., 1:])


def test_an_unknown_kernel_is_refused() -> None:
    with pytest.raises(ValueError, match="kernel must be one of bilinear, bicubic"):
        resample(torch.zeros(1, 1, 4, 4), torch.zeros(1, 2), (1.0, 1.0), (2, 2), "nearest")
