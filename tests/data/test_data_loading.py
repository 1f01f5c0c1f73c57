import os

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset

from shiftproof.data.examples import Examples
from shiftproof.data.image_folder import ImageFiles, imagenet_transform
from shiftproof.data.in_memory import ImageTensors
from shiftproof.data.loading import make_loader
from shiftproof.data.plan import Batch, EvalPlan, TrainPlan
from shiftproof.data.transforms import CircularAugment

CPU = torch.device("cpu")


@pytest.fixture
def photographs(tmp_path) -> ImageFiles:
    draw = np.random.default_rng(0)
    for name in ("ant", "bee"):
        (tmp_path / name).mkdir()
        for number in range(5):
            image = Image.fromarray(draw.integers(0, 256, (20, 24, 3), dtype=np.uint8))
            image.save(tmp_path / name / f"{number}.jpg")
    (tmp_path / "bee" / "3.jpg").write_bytes(b"broken")
    transform = imagenet_transform(True, resize=16, crop=12)
    return ImageFiles(tmp_path, transform, batch_transform=CircularAugment(3))


def assert_same(first: list[Examples], second: list[Examples]) -> None:
    assert len(first) == len(second)
    for a, b in zip(first, second, strict=True):
        assert torch.equal(a.images, b.images)
        assert torch.equal(a.labels, b.labels)
        assert torch.equal(a.indices, b.indices)
        assert a.unreadable == b.unreadable


def test_workers_change_nothing_even_after_a_resume(photographs):
    plan = TrainPlan(len(photographs), 2, seed=1)
    alone = make_loader(photographs, plan, workers=0, device=CPU)
    shared = make_loader(photographs, plan, workers=2, device=CPU)
    plan.set_epoch(0)
    first = list(alone)
    assert_same(list(shared), first)
    assert sum(len(examples.unreadable) for examples in first) == 1
    # The workers are kept, and see what the plan was told in this process.
    plan.set_epoch(1)
    second = list(alone)
    assert any(not torch.equal(a.images, b.images) for a, b in zip(first, second, strict=True))
    plan.set_epoch(1, start_step=2)
    assert len(shared) == 3
    assert_same(list(shared), second[2:])


def test_two_ranks_load_what_one_accumulating_rank_loads(photographs):
    def loaded(rank: int, world_size: int, accumulate: int) -> list[Examples]:
        plan = TrainPlan(
            len(photographs), 2, seed=1, rank=rank, world_size=world_size, accumulate=accumulate
        )
        return list(make_loader(photographs, plan, workers=0, device=CPU))

    pairs = zip(loaded(0, 2, 1), loaded(1, 2, 1), strict=True)
    assert_same([examples for pair in pairs for examples in pair], loaded(0, 1, 2))


def test_loading_leaves_the_global_generator_alone(photographs):
    before = torch.get_rng_state()
    for workers in (0, 1):
        list(make_loader(photographs, EvalPlan(10, 4), workers=workers, device=CPU))
    assert torch.equal(torch.get_rng_state(), before)


def test_data_in_memory_needs_no_workers():
    data = ImageTensors(
        torch.zeros(5, 1, 4, 4, dtype=torch.uint8), torch.zeros(5, dtype=torch.int64), ("a",)
    )
    loader = make_loader(data, EvalPlan(5, 2), workers=4, device=CPU)
    assert loader.num_workers == 0
    assert [examples.indices.tolist() for examples in loader] == [[0, 1], [2, 3], [4]]


def test_workers_are_at_most_the_processors_and_pinning_needs_cuda(photographs):
    loader = make_loader(photographs, EvalPlan(10, 4), workers=10_000, device=CPU)
    assert 1 <= loader.num_workers <= (os.cpu_count() or 1)
    assert not loader.pin_memory
    cuda = torch.device("cuda")
    assert make_loader(photographs, EvalPlan(10, 4), workers=0, device=cuda).pin_memory
    options = {"workers": 0, "device": cuda, "pin_memory": False}
    assert not make_loader(photographs, EvalPlan(10, 4), **options).pin_memory


class ProcessGroups(Dataset[Examples]):
    """Shows in the labels which process group answered."""

    def __getitem__(self, batch: Batch) -> Examples:
        group = torch.tensor([os.getpgrp()])
        return Examples(torch.zeros(1, 1, 1, 1), group, torch.tensor(batch.indices))


def test_ctrl_c_does_not_reach_the_workers():
    groups = {
        workers: next(
            iter(make_loader(ProcessGroups(), EvalPlan(1, 1), workers=workers, device=CPU))
        ).labels.item()
        for workers in (0, 1)
    }
    assert groups[0] == os.getpgrp() != groups[1]


def test_a_negative_number_of_workers_is_refused(photographs):
    with pytest.raises(ValueError, match="make_loader: workers must be at least 0, got -1"):
        make_loader(photographs, EvalPlan(10, 4), workers=-1, device=CPU)
