import dataclasses
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from training_runs import (
    ALONE,
    CONFIG,
    Broken,
    fit,
    five_layers,
    images,
    linear,
    same_tensors,
    trainer,
)

from shiftproof.data.examples import ImageDataset
from shiftproof.metrics import rate
from shiftproof.training import Evaluation, RunFiles, loop
from shiftproof.training.checkpoint import load_checkpoint
from shiftproof.training.config import describe

STILL = 1e-30
"""A learning rate that moves no weight."""

SUMMATION = {"rtol": 1e-5, "atol": 1e-7}
"""Float32 sums of some twenty images in another order."""


@dataclass(frozen=True)
class Rates:
    """A schedule that is written out."""

    values: tuple[float, ...]

    def lr(self, base, epoch):
        return self.values[epoch]


def plain(**changes):
    return dataclasses.replace(CONFIG, **{"epochs": 1, "amp": "off", **changes})


def everything(data):
    return data.images.float() / 255, data.labels


def num_trained(result):
    return round(result.images_per_second * result.seconds)


def test_it_learns(tmp_path):
    made, reached_the_end = fit(tmp_path, plain(epochs=12, lr=0.01))
    first, *_, last = made.progress.history
    assert reached_the_end
    assert last.train_loss < first.train_loss
    assert last.val_loss < first.val_loss
    assert last.val_rates["top-1"].value > 0.8
    assert [result.epoch for result in made.progress.history] == list(range(12))
    assert all(result.consistency.protocol == "circular" for result in made.progress.history)


def test_the_numbers_of_an_epoch_are_means_over_images(tmp_path):
    train, val, model = images(augment=False), images(10, seed=1, augment=False), linear()
    made, _ = fit(tmp_path, plain(lr=STILL, weight_decay=0.0), train=train, val=val, model=model)
    (result,) = made.progress.history
    for data, loss in ((train, result.train_loss), (val, result.val_loss)):
        pixels, labels = everything(data)
        assert loss == pytest.approx(F.cross_entropy(model(pixels), labels).item(), rel=1e-6)
    pixels, labels = everything(train)
    assert result.train_top1 == pytest.approx((model(pixels).argmax(1) == labels).double().mean())
    assert (result.lr, num_trained(result)) == (STILL, 22)


@pytest.mark.parametrize(
    ("count", "batch_size", "accumulate"),
    [(22, 22, 1), (22, 11, 2), (22, 30, 1), (23, 16, 2), (7, 4, 3)],
    ids=["one batch", "two halves", "incomplete", "uneven halves", "uneven thirds"],
)
def test_a_step_follows_the_gradient_of_the_mean_over_its_images(
    tmp_path, count, batch_size, accumulate
):
    train, model = images(count, augment=False), linear()
    expected = linear()
    pixels, labels = everything(train)
    F.cross_entropy(expected(pixels), labels).backward()
    moved = [p - 0.05 * p.grad for p in expected.parameters()]
    config = plain(batch_size=batch_size, accumulate=accumulate, weight_decay=0.0)
    fit(tmp_path, config, train=train, model=model)
    for actual, wanted, start in zip(model.parameters(), moved, linear().parameters(), strict=True):
        torch.testing.assert_close(actual, wanted, **SUMMATION)
        assert not torch.allclose(actual, start, **SUMMATION)


@pytest.mark.parametrize(
    ("count", "accumulate", "trained"),
    [(22, 1, 22), (21, 1, 20), (20, 2, 20), (19, 2, 16), (3, 2, 3)],
)
def test_remainders_are_trained_on_down_to_two_images_per_batch(
    tmp_path, count, accumulate, trained
):
    made, _ = fit(tmp_path, plain(accumulate=accumulate), train=images(count))
    assert num_trained(made.progress.history[0]) == trained


def ends_at_one_pixel():
    """A network whose batch norm sees one value per channel and image."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, 2), nn.AdaptiveAvgPool2d(1), nn.BatchNorm2d(4), nn.Flatten()
    )


@pytest.mark.parametrize(
    ("count", "batch_size", "accumulate"), [(17, 8, 1), (5, 2, 1), (25, 8, 3), (10, 3, 3)]
)
def test_the_last_batch_is_large_enough_for_batch_norm(tmp_path, count, batch_size, accumulate):
    config = plain(batch_size=batch_size, accumulate=accumulate, epochs=2)
    _, reached_the_end = fit(tmp_path, config, train=images(count), model=ends_at_one_pixel())
    assert reached_the_end


@pytest.mark.parametrize(
    ("train", "batch_size"),
    [(images(4), 1), (images(1), 8), (Broken(images(200), range(1, 3)), 3)],
    ids=["asked for", "all there is", "the others are unreadable"],
)
def test_one_image_that_batch_norm_cannot_learn_from_is_an_error(tmp_path, train, batch_size):
    class InOrder(ImageDataset):
        def __len__(self):
            return len(train)

        def __getitem__(self, batch):
            indices = tuple(range(len(batch.indices)))
            return train[dataclasses.replace(batch, indices=indices)]

    config = plain(batch_size=batch_size, accumulate=1)
    match = rf"train: batch norm must have .* got 1 image in a batch of {min(batch_size, 3)} and a"
    match = match.replace("3", "1") if len(train) == 1 else match
    with (
        trainer(tmp_path, config, train=InOrder(), model=ends_at_one_pixel()) as made,
        pytest.raises(ValueError, match=match),
    ):
        made.fit()


def test_frozen_batch_norm_stays_frozen(tmp_path):
    frozen, model = five_layers(), five_layers()
    frozen[1].eval()
    before = {name: value.clone() for name, value in frozen[1].state_dict().items()}
    fit(tmp_path, plain(epochs=2), model=frozen)
    fit(tmp_path, plain(epochs=2), model=model)
    assert torch.equal(frozen[1].running_mean, before["running_mean"])
    assert frozen[1].num_batches_tracked == 0
    assert not torch.equal(model[1].running_mean, before["running_mean"])
    assert [module.training for module in frozen] == [True, False, True, True, True]


def test_a_network_handed_over_in_evaluation_mode_trains_whole(tmp_path):
    made, _ = fit(tmp_path, plain(), model=five_layers().eval())
    assert all(module.training for module in made.model.modules())
    assert made.model[1].num_batches_tracked > 0


def test_dropout_that_is_switched_off_stays_off(tmp_path):
    model = five_layers()
    model[2].eval()
    seen = []
    model[2].register_forward_hook(lambda module, x, y: seen.append(torch.equal(x[0], y)))
    fit(tmp_path, plain(), model=model)
    assert all(seen)


def test_nothing_of_the_group_outlives_the_training(tmp_path):
    made, _ = fit(tmp_path, plain())
    assert made.wrapped is made.model


def test_the_first_epoch_may_be_a_later_one(tmp_path):
    config = plain(epochs=3, schedule=Rates((0.3, 0.2, 0.1)))
    made, _ = fit(tmp_path, config, start_epoch=2)
    assert [(result.epoch, result.lr) for result in made.progress.history] == [(2, 0.1)]


def test_the_last_good_checkpoint_survives_a_loss_that_is_not_finite(tmp_path):
    config = plain(epochs=3, schedule=Rates((0.05, 1e38, 0.05)))
    with trainer(tmp_path, config, model=linear()) as made:
        message = (
            r"got step [56] \(epoch 2\) at learning rate 1e\+38, where the loss is (nan|inf); "
            rf"lower the learning rate and resume from {tmp_path / 'checkpoint.pt'}$"
        )
        with pytest.raises(RuntimeError, match=message):
            made.fit()
    saved = load_checkpoint(tmp_path / "checkpoint.pt")
    assert (saved["epoch"], saved["step"], len(saved["history"])) == (1, 0, 1)
    assert all(value.isfinite().all() for value in saved["model"].values())
    resumed, reached_the_end = fit(
        tmp_path, plain(epochs=3), model=linear(), resume=tmp_path / "checkpoint.pt"
    )
    assert reached_the_end
    assert len(resumed.progress.history) == 3


def test_a_first_epoch_that_diverges_leaves_no_checkpoint_to_speak_of(tmp_path):
    with (
        trainer(tmp_path, plain(lr=1e38), model=linear()) as made,
        pytest.raises(RuntimeError, match=r"\(epoch 1\) at .*; lower the learning rate$"),
    ):
        made.fit()
    assert not list(tmp_path.glob("*.pt"))


def test_weights_that_are_not_finite_are_not_saved(tmp_path):
    # The only step of the epoch starts from a finite loss and ends beyond float32.
    config = plain(lr=1e38, weight_decay=1e6, batch_size=11)
    with (
        trainer(tmp_path, config, model=linear()) as made,
        pytest.raises(RuntimeError, match=r"at learning rate 1e\+38, where a weight is not fin"),
    ):
        made.fit()
    assert not list(tmp_path.glob("*.pt"))


def test_the_best_checkpoint_is_the_first_of_the_best_validation_accuracy(tmp_path, monkeypatch):
    correct = iter((3, 6, 5, 6))

    def measured(*_, **__):
        rates = {"top-1": rate("top-1", next(correct), 10), "top-5": rate("top-5", 10, 10)}
        return Evaluation(1.0, rates)

    monkeypatch.setattr(loop, "evaluate", measured)
    fit(tmp_path, plain(epochs=4))
    saved = load_checkpoint(tmp_path / "best.pt")
    assert [result["epoch"] for result in saved["history"]] == [0, 1]


def test_files_of_a_run(tmp_path):
    files = RunFiles(
        tmp_path, last="last.tar", best="best.tar", numbered="at_{epoch:03d}.tar", numbered_every=2
    )
    seen = []
    made, _ = fit(tmp_path, plain(epochs=4), files=files, on_epoch=lambda h: seen.append(len(h)))
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"last.tar", "best.tar", "at_000.tar", "at_002.tar", "log.jsonl"}
    assert [load_checkpoint(tmp_path / f"at_00{n}.tar")["epoch"] for n in (0, 2)] == [1, 3]
    assert seen == [1, 2, 3, 4]
    # Read by torch itself, without running code from the file.
    saved = torch.load(tmp_path / "last.tar", weights_only=True)
    assert saved["config"] == describe(made.config)
    assert same_tensors(saved["model"].values(), made.model.state_dict().values())


@pytest.mark.parametrize("channels_last", [True, False])
def test_images_and_weights_have_the_memory_format_asked_for(tmp_path, channels_last):
    seen = set()

    def look(module, arguments):
        seen.add(arguments[0].is_contiguous(memory_format=torch.channels_last))

    with trainer(tmp_path, plain(channels_last=channels_last)) as made:
        made.model.register_forward_pre_hook(look)
        made.fit()
        weight = made.model[0].weight
    assert seen == {channels_last}
    assert weight.is_contiguous(memory_format=torch.channels_last) == channels_last


def test_unreadable_images_are_named_once_and_left_out(tmp_path, capsys):
    train = Broken(images(augment=False), {3})
    model = linear()
    config = plain(epochs=2, lr=STILL, weight_decay=0.0)
    made, _ = fit(tmp_path, config, train=train, model=model)
    assert made.unreadable.over_all_processes() == ("3.png",)
    assert capsys.readouterr().err == "warning: cannot read 3.png; it is left out (1 so far)\n"
    pixels, labels = everything(train.data)
    kept = torch.arange(22) != 3
    expected = F.cross_entropy(model(pixels[kept]), labels[kept]).item()
    for result in made.progress.history:
        assert num_trained(result) == 21
        assert result.train_loss == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("split", ["train", "val"])
def test_too_many_unreadable_images_are_an_error(tmp_path, split):
    data = {"train": images(), "val": images(10, seed=1)}
    data[split] = Broken(data[split], {1, 5})
    with (
        trainer(tmp_path, plain(), **data) as made,
        pytest.raises(RuntimeError, match=r"at most 1 images may be unreadable, got 2: .\.png"),
    ):
        made.fit()


def test_a_batch_without_a_readable_image_is_an_error(tmp_path):
    with (
        trainer(tmp_path, plain(batch_size=1), train=Broken(images(), {3})) as made,
        pytest.raises(RuntimeError, match=r"each batch must hold a readable image, got none in 3"),
    ):
        made.fit()


def test_processes_must_divide_the_batch(tmp_path):
    with pytest.raises(ValueError, match=r"batch_size must be a positive multiple of the 3 proc"):
        loop.Trainer(
            CONFIG,
            linear(),
            images(),
            images(),
            process=ALONE,
            files=RunFiles(tmp_path),
            journal=None,
            processes_per_node=3,
        )
