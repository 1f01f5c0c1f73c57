import pytest
import torch
import torch.nn.functional as F

from shiftproof.motion.pans import STEPS, Pan, frames_that_fit


def photograph() -> torch.Tensor:
    coarse = torch.rand(1, 3, 30, 40, generator=torch.Generator().manual_seed(0))
    return F.interpolate(coarse, (300, 400), mode="bicubic", align_corners=True)[0].clamp(0, 1)


def test_frames_move_by_the_step() -> None:
    pan = Pan((0.0, 1.0), 5, size=64, scale=1.0, room=8)
    frames = pan.frames(photograph())
    assert frames.shape == (5, 3, 64, 64)
    apart = (frames[1, :, :, :-1] - frames[0, :, :, 1:]).abs()
    assert apart.max() <= 1.01 / 255
    assert (frames[1] - frames[0]).abs().max() > 5 / 255  # control


def test_fractions_add_up() -> None:
    frames = Pan((0.25, 0.0), 5, size=64, scale=1.0, room=8).frames(photograph())
    apart = (frames[4, :, :-1] - frames[0, :, 1:]).abs()
    assert apart.max() <= 1.01 / 255


def test_noise_is_of_the_sensor() -> None:
    pan = Pan((0.0, 0.0), 3, size=64, noise=2.0)
    frames = pan.frames(photograph(), torch.Generator().manual_seed(0))
    assert 255 * (frames[1] - frames[0]).std() == pytest.approx(2 * 2**0.5, rel=0.05)


@pytest.mark.parametrize("step", [(0.0, 0.0), (1.0, 1.0)])
def test_both_axes_alike(step) -> None:
    frames = Pan(step, 3, size=64, scale=1.0, room=8).frames(photograph()[:, :, 50:350])
    count = int(step[0])
    end = 64 - count
    apart = (frames[1, :, :end, :end] - frames[0, :, count:, count:]).abs()
    assert apart.max() <= 1.01 / 255


def test_frames_must_fit() -> None:
    with pytest.raises(ValueError, match="the frames must fit into the photograph"):
        Pan((0.0, 8.0), 9)
    for step in STEPS:
        Pan(step, frames_that_fit(step, 36, 9))
