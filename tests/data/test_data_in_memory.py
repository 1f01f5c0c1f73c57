import pickle

import pytest
import torch
from torch import Tensor

from shiftproof.data.digits import load_digits
from shiftproof.data.examples import Examples
from shiftproof.data.in_memory import ImageTensors
from shiftproof.data.plan import Batch
from shiftproof.data.transforms import CircularAugment, Compose, Normalize


def some_images() -> ImageTensors:
    images = torch.arange(5 * 3 * 4 * 4).remainder(256).to(torch.uint8).view(5, 3, 4, 4)
    return ImageTensors(images, torch.tensor([0, 1, 2, 1, 0]), ("a", "b", "c"))


def test_a_batch_is_indexed_and_brought_to_the_unit_interval():
    data = some_images()
    examples = data[Batch((3, 0), seed=1, step_size=2)]
    assert torch.equal(examples.images, data.images[[3, 0]] / 255)
    assert (examples.images.dtype, examples.labels.dtype) == (torch.float32, torch.int64)
    assert examples.labels.tolist() == [1, 0]
    assert examples.indices.tolist() == [3, 0]
    assert (len(data), len(examples), examples.unreadable) == (5, 2, ())


def test_the_transform_is_seeded_by_the_batch():
    data = some_images().with_transform(Compose((Normalize(), CircularAugment(2))))
    first = data[Batch((0, 1), seed=4, step_size=2)].images
    assert torch.equal(data[Batch((0, 1), seed=4, step_size=2)].images, first)
    others = [data[Batch((0, 1), seed=s, step_size=2)].images for s in range(5, 10)]
    assert any(not torch.equal(other, first) for other in others)


def test_with_transform_shares_memory_and_subset_copies():
    data = some_images()
    assert data.with_transform(Normalize((0.5,))).images is data.images
    part = data.subset([4, 2])
    assert torch.equal(part.images, data.images[[4, 2]])
    assert part.labels.tolist() == [0, 2]
    assert part.classes == data.classes
    assert torch.equal(data.subset(torch.tensor([4, 2])).images, part.images)


def test_bad_tensors_are_refused():
    images, labels = torch.zeros(2, 3, 4, 4, dtype=torch.uint8), torch.tensor([0, 1])
    with pytest.raises(TypeError, match=r"must be uint8 and labels int64, got torch\.float32"):
        ImageTensors(images.float(), labels, ("a", "b"))
    with pytest.raises(TypeError, match=r"got torch\.uint8 and torch\.int32"):
        ImageTensors(images, labels.int(), ("a", "b"))
    with pytest.raises(ValueError, match=r"must be \(N, C, H, W\) with labels \(N,\)"):
        ImageTensors(images[0], labels, ("a", "b"))
    with pytest.raises(ValueError, match=r"got \(2, 3, 4, 4\) and \(1,\)"):
        ImageTensors(images, labels[:1], ("a", "b"))
    with pytest.raises(ValueError, match=r"labels must be in \[0, 1\), got 1"):
        ImageTensors(images, labels, ("a",))


def test_examples_travel_between_processes():
    examples = Examples(torch.rand(2, 3, 4, 4), torch.tensor([0, 1]), torch.tensor([5, 6]), ("x",))
    copy = pickle.loads(pickle.dumps(examples))
    assert torch.equal(copy.images, examples.images)
    assert torch.equal(copy.indices, examples.indices)
    assert copy.unreadable == ("x",)


def test_pin_memory_pins_every_tensor(monkeypatch):
    # Page-locked memory needs an accelerator; what matters here is which tensors are asked for.
    def marked(tensor: Tensor) -> Tensor:
        return tensor + 100

    monkeypatch.setattr(Tensor, "pin_memory", marked)
    examples = Examples(torch.zeros(1, 3, 2, 2), torch.tensor([1]), torch.tensor([2]), ("x",))
    pinned = examples.pin_memory()
    assert pinned.images.unique().tolist() == [100.0]
    assert (pinned.labels.item(), pinned.indices.item(), pinned.unreadable) == (101, 102, ("x",))


def test_digits_are_split_once_with_the_same_share_of_each():
    train, test = load_digits(train=True, size=8), load_digits(train=False, size=8)
    assert train.images.shape == (1397, 1, 8, 8)
    assert test.images.shape == (400, 1, 8, 8)
    counts = [torch.bincount(part.labels, minlength=10) for part in (train, test)]
    share = counts[1] / (counts[0] + counts[1])
    assert bool(((share - 400 / 1797).abs() < 0.005).all())
    assert int(train.images.max()) == 255
    assert torch.equal(load_digits(train=False, size=8).images, test.images)


def test_digits_are_real_and_enlarged_bilinearly():
    from sklearn.datasets import load_digits as raw_digits

    raw = torch.from_numpy(raw_digits().images)
    both = torch.cat([load_digits(train=t, size=8).images for t in (True, False)])
    expected = (raw / 16 * 255).round().to(torch.uint8)
    assert torch.equal(both.flatten(1).sum(1).sort()[0], expected.flatten(1).sum(1).sort()[0])
    small, large = load_digits(train=False, size=8), load_digits(train=False)
    assert large.images.shape == (400, 1, 32, 32)
    middle = large.images.float().unfold(2, 4, 4).unfold(3, 4, 4)[..., 1:3, 1:3].mean((-2, -1))
    correlation = torch.corrcoef(torch.stack([middle.flatten(), small.images.float().flatten()]))
    assert correlation[0, 1] > 0.98


def test_digits_refuse_a_size_below_one():
    with pytest.raises(ValueError, match="load_digits: size must be at least 1, got 0"):
        load_digits(train=True, size=0)
