import copy
import pickle

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import shiftproof
from shiftproof.motion import LockedCrop, VideoLock, estimate_motion
from shiftproof.nn import GridLock1d, GridLock2d, WholePixels
from shiftproof.ops.resample import resample
from shiftproof.ops.torus import fold


def scene(seed: int, size: tuple[int, int] = (260, 320)) -> Tensor:
    """Coarse and fine texture with corners, smooth enough to be read between pixels."""
    generator = torch.Generator().manual_seed(seed)
    total = torch.zeros(1, 3, *size)
    for cells, weight in ((6, 1.0), (20, 1.0), (70, 0.7)):
        coarse = torch.rand(1, 3, cells, cells * size[1] // size[0], generator=generator)
        total += weight * F.interpolate(coarse, size, mode="bicubic", align_corners=True)
    return (total - total.min()) / (total.max() - total.min())


def seen(photograph: Tensor, places: Tensor, size: int = 160) -> Tensor:
    """What a camera at these places sees, ``(T, 3, size, size)``."""
    x = photograph.expand(len(places), -1, -1, -1)
    corners = places + (torch.tensor(photograph.shape[2:]) - size) / 2
    return resample(x, corners, (1.0, 1.0), (size, size), "bicubic")


def pan(step: tuple[float, float], count: int) -> Tensor:
    """Places of a camera that moves evenly."""
    return torch.arange(count)[:, None] * torch.tensor([step])


def slip(offset: Tensor, places: Tensor, stride: int = 32) -> Tensor:
    """How far the grid lies from where it was in the scene, ``(T,)`` pixels."""
    moved = offset + places
    return fold(moved - moved[0], stride).norm(dim=1)


@pytest.mark.parametrize("stride", [32, 24, 8, 1])
@pytest.mark.parametrize("step", [(0.0, 0.25), (0.3, -0.37), (1.0, 0.0), (-4.0, 7.5), (0.0, 15.8)])
def test_the_motion_is_found_to_a_fraction_of_a_pixel(step, stride) -> None:
    frames = torch.cat([seen(scene(seed), pan(step, 2)) for seed in range(3)])
    motion, agreement = estimate_motion(frames[::2], frames[1::2], stride)
    # The camera moves by the step, and so the content by its opposite.
    assert fold(motion + torch.tensor(step), stride).norm(dim=1).max() < 0.1
    assert motion.abs().max() <= stride / 2
    assert agreement.min() > 0.8
    if stride > 1:  # control
        assert fold(motion - torch.tensor(step), stride).norm(dim=1).min() > 0.2


def test_motion_is_known_modulo_the_stride() -> None:
    frames = seen(scene(0), torch.tensor([[0.0, 0.0], [0.0, 20.0], [0.0, -12.0]]))
    motion = estimate_motion(frames[[0, 0]], frames[1:], 32).motion
    torch.testing.assert_close(motion, torch.tensor([[0.0, 12.0]] * 2), rtol=0, atol=0.15)
    motion = estimate_motion(frames[:1], frames[1:2], (32, 16)).motion
    torch.testing.assert_close(motion, torch.tensor([[0.0, -4.0]]), rtol=0, atol=0.15)


def test_scenes_that_differ_do_not_agree() -> None:
    frames = torch.cat([seen(scene(seed), torch.zeros(1, 2)) for seed in range(8)])
    agreement = estimate_motion(frames[:-1], frames[1:], 32).agreement
    assert agreement.max() < 0.3


def test_the_same_frame_and_no_content_do_not_move() -> None:
    frame = seen(scene(0), torch.zeros(1, 2))
    motion, agreement = estimate_motion(frame, frame, 32)
    torch.testing.assert_close(motion, torch.zeros(1, 2), rtol=0, atol=1e-3)
    assert float(agreement) == pytest.approx(1, abs=1e-4)
    for empty in (torch.zeros_like(frame), torch.full_like(frame, float("nan"))):
        motion, agreement = estimate_motion(empty, empty, 32)
        assert (motion.tolist(), agreement.tolist()) == ([[0, 0]], [0])


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_frames_of_other_dtypes(dtype) -> None:
    frames = seen(scene(0), pan((0.0, 3.0), 2)).to(dtype)
    motion = estimate_motion(frames[:1], frames[1:], 32).motion
    assert (motion.double() - torch.tensor([[0.0, -3.0]])).norm() < 0.1


def test_what_an_estimate_refuses() -> None:
    x = torch.rand(2, 3, 40, 40)
    with pytest.raises(ValueError, match=r"estimate_motion: frames must be \(N, C, H, W\), both"):
        estimate_motion(x, x[..., 1:], 8)
    with pytest.raises(ValueError, match="both of one shape"):
        estimate_motion(x[0], x[0], 8)
    with pytest.raises(ValueError, match="estimate_motion: stride"):
        estimate_motion(x, x, 0)


LOCKS = {
    "LockedCrop": lambda: LockedCrop(128, 32, resize_size=160),
    "GridLock2d": lambda: GridLock2d(32, margin=32),
    "GridLock2d without margin": lambda: GridLock2d(32),
}


@pytest.mark.parametrize("name", LOCKS)
@pytest.mark.parametrize("step", [(0.0, 0.25), (0.3, -0.37), (2.0, 1.0), (0.0, 5.0)])
def test_the_grid_stays_with_the_scene(name, step) -> None:
    places = pan(step, 12)
    for seed in range(3):
        frames = seen(scene(seed), places)
        lock = LOCKS[name]()
        offset = VideoLock(lock).offset(frames)
        assert torch.equal(offset[0], lock.offset(frames[:1])[0])
        assert slip(offset, places).max() < 0.25
        assert offset.abs().max() <= 17.01


def test_windows_are_those_of_the_lock_at_the_offset() -> None:
    frames = seen(scene(0), pan((0.0, 1.0), 4))
    for made in LOCKS.values():
        lock = made()
        video, twin = VideoLock(lock), VideoLock(lock)
        offset = twin.offset(frames)
        windows = video(frames)
        assert torch.equal(windows, lock(frames, offset))
        assert torch.equal(windows, twin(frames, offset))
        # An offset that is given is used, and the stream does not go on.
        assert torch.equal(video.offset(frames[-1:]), twin.offset(frames[-1:]))


def test_one_by_one_is_as_all_at_once() -> None:
    frames = torch.cat([seen(scene(s), pan((0.5, 1.0), 4)) for s in range(2)])
    video = VideoLock(LockedCrop(128, 32, resize_size=160))
    together = VideoLock(video.lock).offset(frames)
    apart = torch.cat([video.offset(frame) for frame in frames])
    torch.testing.assert_close(together, apart, rtol=0, atol=1e-3)


def test_a_still_camera_holds_still_in_noise() -> None:
    generator = torch.Generator().manual_seed(0)
    held, free = [], []
    for seed in range(3):
        frames = seen(scene(seed), torch.zeros(12, 2))
        frames = frames + 4 / 255 * torch.randn(frames.shape, generator=generator)
        lock = LockedCrop(128, 32, resize_size=160)
        held.append(VideoLock(lock).offset(frames).diff(dim=0).norm(dim=1))
        free.append(lock.offset(frames).diff(dim=0).norm(dim=1))
    assert torch.cat(held).max() < 0.15
    assert torch.cat(free).max() > 1  # control: by the content alone it moves


@pytest.mark.parametrize("name", LOCKS)
def test_a_cut_lets_go_at_the_next_frame(name) -> None:
    lock = LOCKS[name]()
    for seed in range(4):
        before = seen(scene(seed), pan((0.0, 1.0), 5))
        after = seen(scene(seed + 1), pan((1.0, 0.0), 3))
        video = VideoLock(lock)
        offset = video.offset(torch.cat([before, after]))
        placed = lock.offset(after[:1])
        torch.testing.assert_close(offset[5:6], placed, rtol=0, atol=1e-3)
        assert slip(offset[5:], pan((1.0, 0.0), 3)).max() < 0.1
        # Control: without a cut the content of a frame does not place it anew.
        assert slip(offset[:5], pan((0.0, 1.0), 5)).max() < 0.1


def test_where_nothing_agrees_nothing_moves() -> None:
    noise = torch.rand(6, 3, 160, 160, generator=torch.Generator().manual_seed(0))
    lock = GridLock2d(32)
    assert lock.offset(noise).diff(dim=0).norm(dim=1).max() > 1  # control
    offset = VideoLock(lock).offset(noise)
    assert torch.equal(offset, offset[:1].expand(6, 2))


def test_what_enters_does_not_move_the_grid() -> None:
    photograph = scene(0)
    photograph[..., 250:] = photograph[..., 250:].lt(0.5).float()  # stronger corners
    places = pan((0.0, 3.0), 24) - torch.tensor([0.0, 75.0])
    frames = seen(photograph, places)
    lock = GridLock2d(32, margin=32)
    assert slip(VideoLock(lock).offset(frames), places).max() < 0.3
    assert slip(lock.offset(frames), places).max() > 1  # control


def test_a_window_at_half_a_stride_does_not_go_back_and_forth() -> None:
    shake = torch.tensor([0.4, -0.4]).repeat(8)
    lock = GridLock2d(32, margin=32)
    first = lock.offset(seen(scene(0), torch.zeros(1, 2)))[0]
    # A camera that brings the window to half a stride, and shakes there.
    way = float(first[1]) - 16.0
    slow = torch.linspace(0, way, 8)
    along = torch.cat([slow, way + shake])
    places = torch.stack([torch.zeros_like(along), along], 1)
    offset = VideoLock(lock).offset(seen(scene(0), places))
    assert slip(offset, places).max() < 0.15
    assert int((offset.diff(dim=0).abs() > 16).sum()) <= 1
    folded = fold(offset, 32)
    assert int((folded.diff(dim=0).abs() > 16).sum()) > 5  # control


def test_room_lets_the_window_follow_further() -> None:
    places = pan((0.0, -2.0), 24)
    frames = seen(scene(0), places, 192)
    tight = VideoLock(GridLock2d(32, margin=32)).offset(frames)
    wide = VideoLock(GridLock2d(32, margin=64)).offset(frames)
    assert tight.abs().max() <= 17
    assert 20 < wide.abs().max() <= 24
    crop = VideoLock(LockedCrop(128, 32, resize_size=192)).offset(frames)
    assert 20 < crop.abs().max() <= 24
    assert slip(crop, places).max() < 0.15


def test_far_windows_show_what_is_there() -> None:
    frame = seen(scene(0), torch.zeros(1, 2), 224)
    crop = LockedCrop(128, 32, resize_size=224)
    for moved in (24, 32):
        window = crop(frame, torch.tensor([[0.0, moved]]))
        expected = frame[..., 48:176, 48 + moved : 176 + moved]
        torch.testing.assert_close(window, expected, rtol=0, atol=1e-4)


def test_reset_forgets_the_stream() -> None:
    frames = seen(scene(0), pan((0.0, 3.0), 6))
    lock = GridLock2d(32, margin=32)
    video = VideoLock(lock)
    video.offset(frames)
    placed = lock.offset(frames[-1:])
    assert not torch.equal(copy.deepcopy(video).offset(frames[-1:]), placed)  # control
    video.reset()
    assert torch.equal(video.offset(frames[-1:]), placed)


def test_copies_go_on_by_themselves() -> None:
    frames = seen(scene(0), pan((0.0, 1.0), 6))
    video = VideoLock(LockedCrop(128, 32, resize_size=160))
    video.offset(frames[:3])
    twins = [copy.deepcopy(video), pickle.loads(pickle.dumps(video))]
    expected = video.offset(frames[3:])
    for twin in twins:
        assert torch.equal(twin.offset(frames[3:]), expected)
    assert list(video.state_dict()) == []
    assert list(VideoLock(GridLock2d(32)).state_dict()) == []


def test_images_and_bytes() -> None:
    image = pytest.importorskip("PIL.Image")
    frames = (255 * seen(scene(0), pan((0.0, 1.0), 3))).round().clamp(0, 255).to(torch.uint8)
    video = VideoLock(LockedCrop(128, 32, resize_size=160))
    expected = VideoLock(video.lock)(frames)
    for frame, window in zip(frames, expected, strict=True):
        found = video(image.fromarray(frame.permute(1, 2, 0).numpy()))
        apart = torch.from_numpy(np.array(found)).permute(2, 0, 1).int() - window.int()
        assert apart.abs().max() <= 1


def test_as_the_lock_of_a_model() -> None:
    class Map(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = torch.nn.Conv2d(3, 2, 3, 8, 1)

        def forward(self, x: Tensor) -> Tensor:
            return F.interpolate(self.conv(x), x.shape[2:])

    frames = seen(scene(0), pan((0.0, 1.0), 6))
    for interpolation in (None, WholePixels()):
        locked = shiftproof.lock_grid(Map(), frames[:1], interpolation=interpolation)
        followed = VideoLock(locked.lock).offset(frames)
        expected = copy.deepcopy(locked)
        expected.lock.offset = lambda x, offset=followed: offset
        locked.lock = VideoLock(locked.lock)
        maps = torch.cat([locked(frame) for frame in frames.split(1)])
        torch.testing.assert_close(maps, expected(frames), rtol=0, atol=0.02)
        free = shiftproof.lock_grid(Map(), frames[:1], interpolation=interpolation)
        assert not torch.equal(maps[-1:], free(frames[-1:]))  # control


def test_sizes_of_a_stream() -> None:
    video = VideoLock(GridLock2d(16))
    video(torch.rand(1, 3, 96, 96))
    with pytest.raises(
        ValueError, match=r"must have one size, got 96x128 after 96x96 pixels; call"
    ):
        video(torch.rand(1, 3, 96, 128))
    video.reset()
    assert video(torch.rand(1, 3, 96, 128)).shape == (1, 3, 96, 128)


def test_what_a_video_lock_refuses() -> None:
    for wrong in (GridLock1d(8), torch.nn.Identity(), None):
        with pytest.raises(TypeError, match="VideoLock: lock must be a LockedCrop or a GridLock2d"):
            VideoLock(wrong)
    video = VideoLock(LockedCrop(64, 16))
    with pytest.raises(ValueError, match="make one VideoLock for each stream"):
        video(torch.rand(2, 2, 3, 96, 96))
    with pytest.raises(TypeError, match="must be a PIL image or a tensor"):
        video([1])
    with pytest.raises(ValueError, match="add the batch axis"):
        VideoLock(GridLock2d(16))(torch.rand(3, 96, 96))


@pytest.mark.filterwarnings("ignore:`torch.jit.trace")
@pytest.mark.parametrize("record", [torch.export.export, torch.jit.trace])
def test_a_program_cannot_hold_a_stream(record) -> None:
    with pytest.raises(RuntimeError, match="must stay outside of exported programs"):
        record(VideoLock(GridLock2d(16)), (torch.rand(1, 3, 96, 96),))
