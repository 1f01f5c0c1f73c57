import contextlib
import dataclasses
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from training_runs import ALONE, Broken, five_layers, same_tensors
from training_runs import images as noise

from shiftproof.data.in_memory import ImageTensors
from shiftproof.metrics import protocol
from shiftproof.training import evaluate
from shiftproof.training.unreadable import Unreadable
from threads import one_thread

NUM_CLASSES = 7

# The first pixel tells the class that the network sees, the last one the class of the mirror image.
SEEN = (0, 1, 2, 3, 4, 5, 6, 0, 1, 2)
MIRRORED = (0, 1, 2, 3, 4, 5, 6, 1, 1, 1)
LABELS = (0, 1, 2, 3, 4, 5, 6, 6, 6, 6)

# Logits are 1 for the class that is seen and 0 for the others: of classes that are equal, the
# first ones come first, so that the label 6 is not among the best five.
RIGHT, WRONG = (-math.log(math.exp(x) / (math.e + NUM_CLASSES - 1)) for x in (1, 0))


def known_images():
    pixels = torch.zeros(len(SEEN), 1, 1, 4, dtype=torch.uint8)
    pixels[:, 0, 0, 0] = torch.tensor(SEEN)
    pixels[:, 0, 0, -1] = torch.tensor(MIRRORED)
    return ImageTensors(pixels, torch.tensor(LABELS), tuple("abcdefg"))


class ReadsFirstPixel(nn.Module):
    def __init__(self):
        super().__init__()
        self.calls = []

    def forward(self, x):
        state = (self.training, torch.is_grad_enabled(), torch.is_autocast_enabled("cpu"), x.dtype)
        self.calls.append((len(x), *state))
        return F.one_hot((255 * x[:, 0, 0, 0]).round().long(), NUM_CLASSES).float()


@dataclasses.dataclass(frozen=True)
class Mirror:
    """The images and their mirror images."""

    name: str = "mirror"

    def views(self, images, generator):
        return images, images.flip(-1)


def measure(model, dataset=None, **options):
    options = {"process": ALONE, "batch_size": 4, "seed": 0, **options}
    with one_thread():
        return evaluate(model, known_images() if dataset is None else dataset, **options)


@pytest.mark.parametrize("batch_size", [1, 3, 4, 10, 11])
def test_known_answers(batch_size):
    found = measure(ReadsFirstPixel(), batch_size=batch_size, consistency=Mirror())
    assert {name: (r.successes, r.n) for name, r in found.rates.items()} == {
        "top-1": (7, 10),
        "top-5": (7, 10),
        "consistency (mirror)": (8, 10),
    }
    assert found.loss == pytest.approx((7 * RIGHT + 3 * WRONG) / 10, rel=1e-6)


def test_the_mean_of_batch_means_stands_beside_the_mean_over_images():
    found = measure(ReadsFirstPixel(), consistency=Mirror()).rates["consistency (mirror)"]
    assert found.value == 0.8
    assert found.batch_mean == pytest.approx((4 / 4 + 3 / 4 + 1 / 2) / 3)


@pytest.mark.parametrize("training", [True, False])
def test_the_network_runs_in_evaluation_mode_in_float32_and_is_put_back(training):
    model = ReadsFirstPixel().train(training)
    measure(model)
    assert model.training == training
    assert model.calls == [(n, False, False, False, torch.float32) for n in (4, 4, 2)]


class Fails(nn.Module):
    def forward(self, x):
        raise ValueError("broken")


@pytest.mark.parametrize("last", [ReadsFirstPixel(), Fails()])
def test_each_module_gets_its_own_mode_back(last):
    model = nn.Sequential(nn.BatchNorm2d(1), nn.Dropout(0.5), nn.ReLU(), last)
    model[0].eval()
    with contextlib.suppress(ValueError):
        measure(model)
    assert [module.training for module in model] == [False, True, True, True]
    assert model.training


def test_nothing_of_the_network_changes():
    model = five_layers()
    before = [value.clone() for value in model.state_dict().values()]
    measure(model, noise())
    assert same_tensors(model.state_dict().values(), before)


def test_images_that_a_protocol_compares_with_are_run_once():
    model = ReadsFirstPixel()
    measure(model, consistency=protocol("aps-cifar-val", max_shift=1))
    assert len(model.calls) == 2 * 3
    model.calls.clear()
    measure(model, consistency=protocol("aps-cifar-test", max_shift=1))
    assert len(model.calls) == 3 * 3


def test_shifts_follow_from_the_seed():
    model, dataset = five_layers(), noise(60)
    found = [
        measure(model, dataset, seed=seed, consistency=protocol("circular")) for seed in (0, 0, 1)
    ]
    assert found[0] == found[1]
    assert found[0] != found[2]


@pytest.mark.parametrize("after", [0, 2])
def test_a_pass_that_is_stopped_measures_nothing(after):
    model = ReadsFirstPixel()
    assert measure(model, should_stop=lambda: len(model.calls) >= after) is None
    assert len(model.calls) == after
    assert model.training


def test_unreadable_images_do_not_count(capsys):
    unreadable = Unreadable(len(SEEN))
    dataset = Broken(known_images(), {7})
    found = measure(ReadsFirstPixel(), dataset, unreadable=unreadable, consistency=Mirror())
    assert {name: (r.successes, r.n) for name, r in found.rates.items()} == {
        "top-1": (7, 9),
        "top-5": (7, 9),
        "consistency (mirror)": (8, 9),
    }
    assert found.loss == pytest.approx((7 * RIGHT + 2 * WRONG) / 9, rel=1e-6)
    assert unreadable.over_all_processes() == ("7.png",)
    assert capsys.readouterr().err == "warning: cannot read 7.png; it is left out (1 so far)\n"


def test_a_batch_without_a_readable_image_is_passed_over():
    found = measure(ReadsFirstPixel(), Broken(known_images(), {4, 5, 6, 7}))
    assert (found.rates["top-1"].successes, found.rates["top-1"].n) == (4, 6)


def test_a_loss_that_is_not_a_number_is_reported_as_one():
    found = measure(nn.Sequential(nn.Flatten(), nn.Linear(4, 7), Undefined()))
    assert math.isnan(found.loss)
    assert found.rates["top-1"].successes == 0


class Undefined(nn.Module):
    def forward(self, x):
        return x * math.nan


def test_a_limit_is_one_in_a_hundred():
    unreadable = Unreadable(101)
    unreadable.note(["b", "a"])
    unreadable.note(["a"])
    assert unreadable.over_all_processes() == ("a", "b")
    with pytest.raises(RuntimeError, match="at most 2 images may be unreadable, got 3: b, a, c"):
        unreadable.note(["c"])
