import dataclasses
import json

import numpy as np
import pytest
import torch
from recipe_runs import ALONE, alone, copied, names, write_images

from shiftproof.data.transforms import (
    CenterCrop,
    CircularAugment,
    EraseSquare,
    FlipBothAxes,
    RandomCrop,
    RandomHorizontalFlip,
)
from shiftproof.recipes.cifar10 import (
    Cifar10Config,
    cifar10_files,
    model_name,
    run_cifar10,
    supported_architectures,
)
from shiftproof.results import load_result
from shiftproof.training import ModelConfig, TrainConfig
from shiftproof.training.checkpoint import load_checkpoint

FILES = {
    "config_dict.txt",
    "epochs.csv",
    "log.jsonl",
    "models",
    "result.json",
    "tensorboard",
    "test_set_results.txt",
    "train_loss.npy",
    "train_top1.npy",
    "train_val_epoch_status.txt",
    "val_consistency.npy",
    "val_loss.npy",
    "val_top1.npy",
    "val_top5.npy",
}

CHECKPOINTS = {"model_and_optim_checkpoint.pt", "model_and_optim_best_checkpoint.pt"}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return write_images(tmp_path_factory.mktemp("images"), {"train": 6, "test": 2})


@pytest.fixture(scope="module")
def configure(dataset):
    def make(root, folder="run", *, model="cifar_resnet20_aps1", epochs=1, **changes):
        train = TrainConfig(ModelConfig(model, num_classes=10), epochs, batch_size=5, seed=0)
        changes = {"measure_consistency": True, **changes}
        return Cifar10Config(train, cifar10_files(root, folder), dataset, **changes)

    return make


@pytest.fixture(scope="module")
def finished(tmp_path_factory, configure):
    """A run of one epoch: its configuration and what it found.  Tests must not write into it."""
    config = configure(tmp_path_factory.mktemp("results"))
    return config, run(config)


def run(config):
    return alone(run_cifar10, config, ALONE)


def test_architectures_are_the_cifar_trunks_in_each_placement():
    known = supported_architectures()
    assert known[:4] == ["resnet20", "resnet20_lpf", "resnet20_aps", "resnet20_pa"]
    assert {"resnet56_aps", "resnet18", "resnet50_lpf"} <= set(known)
    for name in known:
        assert model_name(name, 1).startswith(f"cifar_{name}")


def test_names_carry_the_size_of_the_filter():
    assert model_name("resnet18", 1) == "cifar_resnet18"
    assert model_name("resnet18_lpf", 1) == "cifar_resnet18_lpf1"
    assert model_name("resnet18_aps", 7) == "cifar_resnet18_aps7"
    assert model_name("resnet20_pa", 1) == "cifar_resnet20_pa"


@pytest.mark.parametrize("arch", ["resnet21", "resnet18_aps3", "cifar_resnet18", ""])
def test_an_unknown_architecture_is_an_error(arch):
    message = rf"--arch: the architecture must be one of resnet20, .*, got '{arch}'; the size of"
    with pytest.raises(ValueError, match=message):
        model_name(arch, 1)


@pytest.mark.parametrize(
    ("arch", "size"),
    [
        *(("resnet18_aps", size) for size in (-1, 0, 8, 10)),
        ("resnet18_lpf", 8),
        ("resnet18", 8),
    ],
)
def test_a_filter_of_another_size_is_an_error(arch, size):
    with pytest.raises(ValueError, match=rf"--filter_size: the size must be 1 to 7, got {size};"):
        model_name(arch, size)


@pytest.mark.parametrize("arch", ["resnet18", "resnet18_pa"])
def test_a_filter_for_a_network_without_one_is_ignored_with_a_warning(arch, capsys):
    assert model_name(arch, 3) == f"cifar_{arch}"
    warning = f"warning: --filter_size: {arch} has no filter, 3 is ignored\n"
    assert capsys.readouterr().err == warning


@pytest.mark.parametrize(
    ("padding", "augment", "shift", "val", "test"),
    [
        ("circular", False, None, "aps-cifar-val", "aps-cifar-test"),
        ("circular", True, CircularAugment(3), "aps-cifar-val", "aps-cifar-test"),
        ("zeros", False, None, "aps-cifar-crop", "aps-cifar-crop"),
        ("zeros", True, RandomCrop(3), "aps-cifar-crop", "aps-cifar-crop"),
    ],
)
def test_the_padding_decides_augmentation_and_protocols(
    tmp_path, configure, padding, augment, shift, val, test
):
    config = configure(tmp_path, conv_pad_type=padding, augment=augment)
    first, *shifts, last = config.train_transform().steps
    assert first == RandomHorizontalFlip()
    assert shifts == ([] if shift is None else [shift])
    assert config.val_transform().steps == (last,)
    assert (config.val_protocol, config.test_protocol) == (val, test)


def test_test_images_are_turned_and_erased_on_request(tmp_path, configure):
    config = configure(tmp_path, flip_test=True, erase_test=5, center_crop=28)
    assert config.val_transform().steps[0] == CenterCrop(28)
    assert config.train_transform().steps[0] == CenterCrop(28)
    val, *others = config.test_transform().steps
    assert val == config.val_transform()
    assert others == [FlipBothAxes(), EraseSquare(5)]
    plain = configure(tmp_path)
    assert plain.test_transform().steps == (plain.val_transform(),)


def test_a_run_leaves_its_files(finished):
    config, result = finished
    folder = config.files.folder
    assert names(folder) == FILES
    assert names(folder / "models") == CHECKPOINTS
    assert load_result(folder / "result.json") == result
    assert np.load(folder / "val_loss.npy").tolist() == [result.history[0].val_loss]
    assert json.loads((folder / "config_dict.txt").read_text())["max_shift"] == 3
    assert len((folder / "train_val_epoch_status.txt").read_text().splitlines()) == 1
    torch.load(folder / "models" / "model_and_optim_checkpoint.pt", weights_only=True)


def test_a_run_measures_accuracy_and_consistency_of_validation_and_test(finished):
    config, result = finished
    assert {name: rate.n for name, rate in result.rates.items()} == {
        **dict.fromkeys(("test top-1", "test top-5", "test consistency (aps-cifar-test)"), 4),
        **dict.fromkeys(("val top-1", "val top-5", "val consistency (aps-cifar-val)"), 1),
    }
    assert result.rates["test consistency (aps-cifar-test)"].value == 1.0
    assert (result.model, result.epochs) == ("cifar_resnet20_aps1", 1)
    assert set(result.values) == {"test loss", "seconds per epoch"}
    shown = (config.files.folder / "test_set_results.txt").read_text()
    assert (
        "test consistency (aps-cifar-test): 100.00 % (n=4 in 1 batch that shares its shift" in shown
    )
    assert "which gives no interval; mean of batch means 100.00)" in shown


def test_evaluate_only_tests_the_best_checkpoint_and_keeps_the_record(tmp_path, finished):
    config, result = copied(finished, tmp_path)
    kept = {name: (tmp_path / "run" / name) for name in FILES - {"models", "tensorboard"}}
    before = {name: path.read_bytes() for name, path in kept.items()}
    again = run(dataclasses.replace(config, evaluate_only=True))
    assert {name: path.read_bytes() for name, path in kept.items()} == before
    assert names(tmp_path / "run") - FILES == {
        "evaluate_only_result.json",
        "evaluate_only_results.txt",
    }
    tested = {name: rate for name, rate in result.rates.items() if name.startswith("test")}
    assert again.rates == tested
    assert (again.epochs, again.values) == (0, {"test loss": result.values["test loss"]})


@pytest.mark.parametrize("change", [{"flip_test": True}, {"erase_test": 12}])
def test_other_test_images_give_another_loss(tmp_path, finished, change):
    config, result = copied(finished, tmp_path)
    again = run(dataclasses.replace(config, evaluate_only=True, **change))
    assert again.values["test loss"] != result.values["test loss"]


def test_resume_goes_on_where_the_run_stopped(tmp_path, finished, configure):
    copied(finished, tmp_path)
    longer = configure(tmp_path, epochs=2, resume=True)
    resumed = run(longer)
    whole = run(configure(tmp_path, "whole", epochs=2))
    assert [epoch.train_loss for epoch in resumed.history] == [
        epoch.train_loss for epoch in whole.history
    ]
    assert resumed.rates == whole.rates
    states = (load_checkpoint(tmp_path / f / longer.files.last)["model"] for f in ("run", "whole"))
    assert all(torch.equal(*pair) for pair in zip(*(s.values() for s in states), strict=True))


def test_resume_without_a_checkpoint_warns_and_starts(tmp_path, configure, capsys):
    result = run(configure(tmp_path, resume=True, measure_consistency=False))
    assert result.epochs == 1
    assert "val consistency (aps-cifar-val)" not in result.rates
    assert capsys.readouterr().err == (
        f"warning: --resume: there is no checkpoint {tmp_path}/run/models/"
        "model_and_optim_checkpoint.pt yet, starting from the beginning\n"
    )


def test_a_new_run_does_not_replace_another(tmp_path, finished):
    config, _ = copied(finished, tmp_path)
    with pytest.raises(ValueError, match="--model_folder: a new run must not replace another"):
        run(config)


@pytest.mark.parametrize(
    ("changes", "kind", "message"),
    [
        ({"evaluate_only": True}, RuntimeError, "--evaluate_only: there must be a trained network"),
        ({"train_split": 1.0}, ValueError, "--train_split: the share must leave images .* 1.0 of"),
        ({"train_split": 0.01}, ValueError, "--train_split: the share must leave images"),
        ({"center_crop": 30}, ValueError, "multiples of 4, got 30x30: layer3 would see 15x15; use"),
        ({"center_crop": 36}, ValueError, "size must be at most the images' 32x32, got 36"),
        ({"center_crop": 0}, ValueError, "size must be at least 1, got 0"),
        ({"erase_test": 40}, ValueError, "images must be at least 44 pixels high and wide"),
        ({"max_shift": 0}, ValueError, "max_shift must be at least 1, got 0"),
        ({"augment": True, "max_shift": 0, "measure_consistency": False}, ValueError, "max_shift"),
    ],
)
def test_what_does_not_fit_is_found_before_anything_is_written(
    tmp_path, configure, changes, kind, message
):
    with pytest.raises(kind, match=message):
        run(configure(tmp_path, **changes))
    assert not (tmp_path / "run").exists()


def test_unreadable_images_are_named_and_counted(tmp_path, configure, capsys):
    root = write_images(tmp_path / "images", {"train": 3, "test": 2})
    broken = [root / "train" / "cat" / "1.png", root / "test" / "dog" / "0.png"]
    for path in broken:
        path.write_text("not an image")
    config = configure(tmp_path, measure_consistency=False)
    config = dataclasses.replace(config, dataset_path=root, train_split=0.8)
    result = run(config)
    assert result.unreadable == tuple(map(str, broken))
    assert capsys.readouterr().err == "".join(
        f"warning: cannot read {path}; it is left out\n" for path in broken
    )


def test_another_criterion_and_padding_are_recorded(tmp_path, configure):
    config = configure(tmp_path, model="cifar_resnet20", conv_pad_type="zeros", augment=True)
    options = {"padding_mode": "zeros"}
    model = dataclasses.replace(config.train.model, options=options)
    config = dataclasses.replace(config, train=dataclasses.replace(config.train, model=model))
    result = run(config)
    assert result.config["train"]["model"]["options"] == options
    assert "test consistency (aps-cifar-crop)" in result.rates
