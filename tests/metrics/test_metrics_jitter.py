import pytest
import torch

from shiftproof.metrics import flip_rate, jitter


def test_jitter_is_the_mean_total_variation_distance() -> None:
    p = torch.rand(5, 3, 7, generator=torch.Generator().manual_seed(0)).softmax(-1)
    expected = [
        sum(float((p[t + 1, n] - p[t, n]).abs().sum()) / 2 for t in range(4)) / 4 for n in range(3)
    ]
    torch.testing.assert_close(jitter(p), torch.tensor(expected))
    assert jitter(p[:1].expand(4, -1, -1)).tolist() == [0, 0, 0]


def test_flips_are_counted_per_hundred_frames() -> None:
    scores = torch.eye(3)[torch.tensor([[0, 1], [0, 2], [1, 2], [0, 2], [0, 2]])]
    assert flip_rate(scores).tolist() == [50.0, 25.0]


@pytest.mark.parametrize("function", [jitter, flip_rate])
def test_one_frame_is_refused(function) -> None:
    with pytest.raises(ValueError, match="frames must be two or more"):
        function(torch.zeros(1, 3, 10))
