import threading

import pytest
import torch
import torch.nn.functional as F

from shiftproof import motion, nn
from shiftproof.motion.pans import Pan

LOCKS = {1: nn.GridLock1d, 2: nn.GridLock2d, 3: nn.GridLock3d}


def texture(size: int = 240, num: int = 1, dims: int = 2) -> torch.Tensor:
    """Soft random texture, as a camera sees it."""
    generator = torch.Generator().manual_seed(3)
    x = torch.rand(num, 3, *[size // 4] * dims, generator=generator)
    mode = {1: "linear", 2: "bicubic", 3: "trilinear"}[dims]
    return F.interpolate(x, [size] * dims, mode=mode, align_corners=True)


def windows(x: torch.Tensor, size: int, starts: range) -> torch.Tensor:
    return torch.cat([x[..., 20 : 20 + size, s : s + size] for s in starts])


@pytest.mark.parametrize("stride", [2, 8, 16, 32])
def test_the_offset_moves_against_the_camera(stride: int) -> None:
    x = windows(texture(), 128, range(20, 36))
    offset = nn.grid.grid_offset(x, stride)
    assert (offset.abs() <= stride / 2).all()
    moved = (offset[1:] - offset[:-1] + torch.tensor([0.0, 1.0]) + stride / 2) % stride
    slips = (moved - stride / 2).norm(dim=1)
    assert (slips < 0.5).sum() >= len(slips) - 2
    assert slips.median() < 0.05


@pytest.mark.parametrize("stride", [4, 8, 16, 32])
def test_the_offset_follows_fractions(stride: int) -> None:
    frames = Pan((0.0, 0.25), 7, 128, scale=1.0).frames(texture(164)[0])
    offset = nn.grid.grid_offset(frames, stride)
    moved = (offset[1:] - offset[:-1] + torch.tensor([0.0, 0.25]) + stride / 2) % stride
    assert (moved - stride / 2).norm(dim=1).median() < 0.03


def test_control_without_a_taper_the_choice_stays_with_the_frame() -> None:
    x = windows(texture(), 128, range(20, 36))

    def slips(taper: str) -> torch.Tensor:
        offset = motion.locate_grid(x, 2, nn.Energy(), taper=taper).offset
        moved = (offset[1:] - offset[:-1] + torch.tensor([0.0, 1.0]) + 1) % 2
        return (moved - 1).norm(dim=1)

    assert slips("hann").sum() < slips("none").sum()


@pytest.mark.parametrize("selector", [nn.LargestNorm(), nn.FirstPhase(), nn.Tapered()])
def test_selectors_of_whole_pixels_serve_too(selector) -> None:
    x = texture(64)
    offset, gap = motion.locate_grid(x, 4, selector)
    assert offset.shape == (1, 2)
    assert 0 <= gap.item() <= 1
    if isinstance(selector, nn.FirstPhase):
        assert offset.tolist() == [[0, 0]]
    moved = motion.locate_grid(x, 4, selector, origin=(1.0, 0.0)).offset
    torch.testing.assert_close((moved - offset + 2) % 4 - 2, torch.tensor([[-1.0, 0.0]]))


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("margin", [0, 8])
def test_content_stands_on_the_grid_behind_the_lock(dims: int, margin: int) -> None:
    lock = LOCKS[dims](8, margin=margin)
    x = texture(48, 2, dims)
    y = lock(x)
    assert y.shape == (2, 3, *[48 - margin] * dims)
    offset = lock.offset(x)
    assert offset.shape == (2, dims)
    assert (offset.abs() <= 4).all()
    blob = torch.ones(())
    for place in (25.3, 21.6, 22.1)[:dims]:
        blob = blob[..., None] * torch.exp(-(torch.arange(64.0) - place - 8).square() / 12)
    locked = lock(blob[None, None])
    assert motion.locate_grid(locked, 8).offset.abs().max() < 0.25
    assert motion.locate_grid(blob[None, None], 8).offset.abs().max() > 1  # control


def test_with_a_margin_a_whole_shift_of_the_camera_gives_the_same_window() -> None:
    x = texture()
    lock = nn.GridLock2d(8, margin=32)
    first, second = (x[..., 20:180, s : s + 160] for s in (20, 28))
    kept = lock(first)[..., 8:], lock(second)[..., :-8]
    same = (kept[0] - kept[1]).abs().mean()
    other = first[..., 16:-16, 24:-16] - x[..., 20:180, 23:183][..., 16:-16, 16:-24]
    assert same < other.abs().mean() / 10  # what a camera that moves by 3 changes


def test_whole_pixels_copy() -> None:
    lock = nn.GridLock2d(8, interpolation=nn.WholePixels(), margin=8)
    x = texture(64)
    row, column = (4 + (lock.offset(x)[0] + 0.5).floor().long()).tolist()
    assert torch.equal(lock(x), x[..., row : row + 56, column : column + 56])


@pytest.mark.parametrize("mode", ["reflect", "replicate", "zeros", "circular"])
def test_edges_and_an_offset_that_is_given(mode) -> None:
    x = texture(32)
    lock = nn.GridLock2d(8, padding_mode=mode, interpolation=nn.WholePixels())
    moved = lock(x, torch.tensor([[2.0, -3.0]]))
    assert torch.equal(moved[..., :-2, 3:], x[..., 2:, :-3])
    corner = {"reflect": x[..., 2, 3], "replicate": x[..., 2, 0], "circular": x[..., 2, -3]}
    torch.testing.assert_close(moved[..., 0, 0], corner.get(mode, torch.zeros(1, 3)))


def test_where_nothing_is_seen_nothing_moves() -> None:
    x = torch.full((1, 3, 32, 32), 0.4)
    lock = nn.GridLock2d(8)
    assert lock.offset(x).tolist() == [[0, 0]]
    assert torch.equal(lock(x), x)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_dtypes(dtype) -> None:
    x = texture(48, 2)
    lock = nn.GridLock2d(8)
    assert lock(x.to(dtype)).dtype == dtype
    torch.testing.assert_close(lock(x.to(dtype)).float(), lock(x), rtol=0, atol=0.05)
    torch.testing.assert_close(lock.offset(x.to(dtype)).float(), lock.offset(x), rtol=0, atol=0.1)


def test_autocast_does_not_move_the_place() -> None:
    x = texture(48, 2)
    lock = nn.GridLock2d(8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        offset = lock.offset(x)
    assert torch.equal(offset, lock.offset(x))


def test_the_gradient_flows_to_the_image_and_not_through_the_offset() -> None:
    x = texture(32).requires_grad_()
    lock = nn.GridLock2d(8)
    lock(x).square().sum().backward()
    assert x.grad.abs().sum() > 0
    assert not lock.offset(x).requires_grad


@pytest.mark.slow
def test_compiles_and_exports() -> None:
    x = texture(48, 2)
    lock = nn.GridLock2d(8)
    torch._dynamo.reset()
    compiled = torch.compile(lock, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), lock(x))
    batch = torch.export.Dim("batch", min=2, max=64)
    program = torch.export.export(lock, (x,), dynamic_shapes=({0: batch},))
    more = texture(48, 5)
    torch.testing.assert_close(program.module()(more), lock(more))


@pytest.mark.slow
def test_exports_with_open_sizes() -> None:
    auto = torch.export.Dim.AUTO
    x = texture(96, 2)
    lock = nn.GridLock2d(16)
    program = torch.export.export(lock, (x,), dynamic_shapes=({0: auto, 2: auto, 3: auto},))
    more = texture(120, 3)[..., :100]
    torch.testing.assert_close(program.module()(more), lock(more))


@pytest.mark.slow
def test_runs_in_onnx(tmp_path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    auto = torch.export.Dim.AUTO
    lock = nn.GridLock2d(16).eval()
    path = tmp_path / "lock.onnx"
    shapes = ({0: auto, 2: auto, 3: auto},)
    x = texture(96, 2)
    torch.onnx.export(lock, (x,), dynamo=True, verbose=False, dynamic_shapes=shapes).save(path)
    session = onnxruntime.InferenceSession(path)
    for images in (x, texture(120, 3)[..., :100], texture(64)):
        (found,) = session.run(None, {session.get_inputs()[0].name: images.numpy()})
        torch.testing.assert_close(torch.from_numpy(found), lock(images), rtol=0, atol=1e-3)


def test_whole_numbers_are_rounded_and_nan_moves_nothing() -> None:
    x = texture(64)
    lock = nn.GridLock2d(8)
    offset = lock.offset(x)
    found = lock((255 * x).round().clamp(0, 255).to(torch.uint8), offset)
    assert found.dtype == torch.uint8
    expected = lock(x.clamp(0, 1), offset).clamp(0, 1)
    assert ((found.float() / 255) - expected).abs().max() < 3 / 255
    assert lock.offset(torch.full_like(x, torch.nan)).tolist() == [[0, 0]]
    assert lock(x[:0]).shape == (0, 3, 64, 64)


def test_threads_share_a_lock() -> None:
    lock = nn.GridLock2d(8)
    inputs = [texture(48 + 8 * i) for i in range(4)]
    expected = [lock(x) for x in inputs]
    wrong = []

    def work(index: int) -> None:
        wrong.extend(1 for _ in range(10) if not torch.equal(lock(inputs[index]), expected[index]))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"margin": 7}, "margin must be an even number"),
        ({"margin": (8, 8, 8)}, "margin must be an even number"),
        ({"padding_mode": "mirror"}, "padding_mode must be one of reflect"),
        ({"margin": 7}, "or the next even number"),
        ({"margin": 8.0}, "margin must be an even number"),
        ({"stride": 0}, "stride"),
    ],
)
def test_what_a_lock_refuses(options, message) -> None:
    with pytest.raises(ValueError, match=message):
        nn.GridLock2d(**{"stride": 8, **options})


def test_a_lock_takes_modules_and_images_larger_than_its_margin() -> None:
    with pytest.raises(TypeError, match="selector must be a module, got 'corner'"):
        nn.GridLock2d(8, "corner")
    with pytest.raises(ValueError, match="images must be larger than the margin"):
        nn.GridLock2d(8, margin=8)(texture(8))


def test_what_a_kernel_refuses() -> None:
    with pytest.raises(ValueError, match="taps must be even"):
        nn.BandLimited(5)


def test_another_number_of_axes_is_refused() -> None:
    with pytest.raises(ValueError, match="add the batch axis, or take GridLock1d"):
        nn.GridLock2d(8)(torch.zeros(3, 32, 32))
    with pytest.raises(ValueError, match="larger than what is shown"):
        nn.GridLock2d(32)(torch.rand(1, 3, 16, 16))


def test_the_edge_of_the_frame_is_no_content() -> None:
    class Wrapped(nn.CornerStrength):
        """The control: smoothed around the circle, the edge is a row of corners."""

        def salience(self, x, *, pitch=1.0, wraps=False):
            return super().salience(x, pitch=pitch, wraps=True)

    def kept(selector) -> int:
        count = 0
        for seed in range(4):
            x = torch.rand(1, 3, 12, 12, generator=torch.Generator().manual_seed(seed))
            soft = F.interpolate(x, (256, 256), mode="bicubic", align_corners=True)
            offset = nn.grid.grid_offset(windows(soft, 144, range(40, 56)), 16, selector)
            moved = (offset[1:] - offset[:-1] + torch.tensor([0.0, 1.0]) + 8) % 16 - 8
            count += int((moved.norm(dim=1) < 0.5).sum())
        return count

    assert kept(nn.CornerStrength()) >= 0.9 * 60
    assert kept(Wrapped()) < 0.5 * 60
