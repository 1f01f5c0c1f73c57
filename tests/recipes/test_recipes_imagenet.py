import dataclasses
import sys
import urllib.error

import pytest
import torch
import torchvision
from PIL import Image
from recipe_runs import ALONE, alone, copied, names, write_images

from shiftproof import create_model
from shiftproof.extras import require
from shiftproof.models.weights import save_weights
from shiftproof.recipes import imagenet
from shiftproof.recipes.imagenet import (
    ImagenetConfig,
    build_model,
    imagenet_files,
    run_imagenet,
    save_validation_inputs,
    supported_architectures,
)
from shiftproof.results import load_result
from shiftproof.training import ModelConfig, TrainConfig
from shiftproof.training.checkpoint import load_checkpoint

FILES = {
    "checkpoint.pth.tar",
    "checkpoint_000.pth.tar",
    "epochs.csv",
    "evaluate_result_final.txt",
    "log.jsonl",
    "model_best.pth.tar",
    "result.json",
    "tensorboard",
    "train_log.txt",
    "val_log.txt",
}


@pytest.fixture(autouse=True, scope="module")
def small_images():
    """Nothing of the recipe depends on the size of the images, but its time does."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(imagenet, "RESIZE", 36)
        patch.setattr(imagenet, "CROP", 32)
        yield


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    root = tmp_path_factory.mktemp("images")
    return write_images(root, {"train": 3, "val": 2}, size=40, suffix="jpg")


@pytest.fixture(scope="module")
def configure(dataset):
    def make(root, folder="run", *, model="cifar_resnet20_aps1", num_classes=10, **changes):
        train = TrainConfig(ModelConfig(model, num_classes), epochs=1, batch_size=3, seed=0)
        changes = {"data": dataset, "workers": 0, **changes}
        return ImagenetConfig(train, imagenet_files(root / folder), **changes)

    return make


@pytest.fixture(scope="module")
def finished(tmp_path_factory, configure):
    """A run of one epoch: its configuration and what it found.  Tests must not write into it."""
    config = configure(tmp_path_factory.mktemp("results"))
    return config, run(config)


def run(config):
    return alone(run_imagenet, ALONE, config)


def test_architectures_are_the_imagenet_trunks_in_each_placement():
    known = supported_architectures()
    paper = [f"resnet18_{kind}{size}" for kind in ("lpf", "aps") for size in range(1, 6)]
    assert {*paper, "resnet18", "resnet18_pa", "resnet50_aps3", "resnet152"} <= set(known)
    assert not [name for name in known if name.startswith("cifar_")]


def test_a_run_leaves_its_files_and_evaluates_its_best_checkpoint(finished):
    config, result = finished
    folder = config.files.folder
    assert names(folder) == FILES
    assert load_result(folder / "result.json") == result
    assert {name: rate.n for name, rate in result.rates.items()} == dict.fromkeys(
        ("val top-1", "val top-5", "val consistency (aps-imagenet)"), 4
    )
    assert result.rates["val consistency (aps-imagenet)"].value == 1.0
    assert result.values["images per step"] == 3
    assert result.rates["val top-1"] == result.history[0].val_rates["top-1"]
    for name in ("train_log.txt", "val_log.txt"):
        assert (folder / name).read_text().startswith("epoch 0  ")
    shown = (folder / "evaluate_result_final.txt").read_text()
    assert "val consistency (aps-imagenet): 100.00 % (n=4 in 1 batch that shares its shift" in shown


def test_a_second_run_does_not_replace_the_first(tmp_path, finished):
    config, _ = copied(finished, tmp_path)
    with pytest.raises(ValueError, match=r"--out-dir: a new run must not replace another, got"):
        run(config)


def test_resume_goes_on_where_the_run_stopped(tmp_path, finished, configure):
    config, _ = copied(finished, tmp_path)
    longer = dataclasses.replace(config.train, epochs=2)
    last = config.files.path(config.files.last)
    resumed = run(dataclasses.replace(config, train=longer, resume=last))
    whole = run(dataclasses.replace(configure(tmp_path, "whole"), train=longer))
    assert [e.train_loss for e in resumed.history] == [e.train_loss for e in whole.history]
    assert resumed.rates == whole.rates


def test_evaluation_needs_no_training_images_and_keeps_the_record(tmp_path, finished, dataset):
    config, result = copied(finished, tmp_path)
    data = tmp_path / "images"
    data.mkdir()
    (data / "val").symlink_to(dataset / "val")
    kept = FILES - {"tensorboard", "evaluate_result_final.txt"}
    before = {name: (tmp_path / "run" / name).read_bytes() for name in kept}
    best = config.files.path(config.files.best)
    evaluation = dataclasses.replace(config, data=data, evaluate_only=True, resume=best)
    again = run(evaluation)
    assert {name: (tmp_path / "run" / name).read_bytes() for name in kept} == before
    assert names(tmp_path / "run") == FILES | {"evaluate_result.json"}
    assert again.rates == result.rates
    assert (again.epochs, again.history) == (0, ())
    # Control: without the checkpoint it is the network before training.
    assert run(dataclasses.replace(evaluation, resume=None)).values != again.values


def test_a_class_that_training_does_not_know_is_an_error(tmp_path, configure):
    root = write_images(tmp_path / "images", {"train": 1}, size=40)
    write_images(root, {"val": 1}, size=40, classes=("cat", "emu"))
    for evaluate_only in (False, True):
        with pytest.raises(ValueError, match=r"one of the 2 of training, got emu in .*val; remove"):
            run(configure(tmp_path, data=root, evaluate_only=evaluate_only))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("changes", "kind", "message"),
    [
        (
            {"num_classes": 1},
            ValueError,
            "got 2 classes in .* for 1 logits",
        ),
        ({"model": "resnet17"}, ValueError, "got 'resnet17'; did you mean resnet18"),
        ({"pretrained": True, "model": "resnet18_aps1"}, ValueError, "got resnet18_aps1; use resn"),
        ({"pretrained": True, "model": "resnet18_lpf3"}, ValueError, "--pretrained: torchvision"),
    ],
)
def test_what_does_not_fit_is_found_before_anything_is_written(
    tmp_path, configure, changes, kind, message
):
    with pytest.raises(kind, match=message):
        run(configure(tmp_path, **changes))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("missing", ["train", "val"])
def test_a_missing_folder_is_an_error(tmp_path, configure, missing):
    there = {"train": "val", "val": "train"}[missing]
    root = write_images(tmp_path / "images", {there: 1}, size=40)
    with pytest.raises(RuntimeError, match=rf"must have a folder {missing}, got .* without it"):
        run(configure(tmp_path, data=root))
    assert not (tmp_path / "run").exists()


def test_an_indivisible_size_is_an_error(tmp_path, configure, monkeypatch):
    monkeypatch.setattr(imagenet, "CROP", 30)
    with pytest.raises(
        ValueError, match="multiples of 4, got 30x30: layer3 would see 15x15; use 28x28 or 32x32"
    ):
        run(configure(tmp_path))
    assert not (tmp_path / "run").exists()


def test_pretrained_weights_that_cannot_be_downloaded_are_an_error(
    tmp_path, configure, monkeypatch
):
    def no_network(*_, **__):
        raise urllib.error.URLError("no network")

    monkeypatch.setattr(torchvision.models.ResNet18_Weights, "get_state_dict", no_network)
    for model in ("resnet18", "resnet18_pa"):
        config = configure(tmp_path, model=model, num_classes=1000, pretrained=True)
        with pytest.raises(RuntimeError, match=r"must be downloaded once, got .*no network"):
            build_model(config)


@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_weights_are_written_and_read(tmp_path, configure, suffix):
    path = tmp_path / f"weights.{suffix}"
    torch.manual_seed(7)
    model = create_model("cifar_resnet20_aps1", num_classes=10)
    save_weights(model, path)
    loaded = build_model(configure(tmp_path, weights=path)).state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in model.state_dict().items())
    fresh = build_model(configure(tmp_path)).state_dict()
    assert not torch.equal(fresh["conv1.weight"], loaded["conv1.weight"])


def test_the_seed_decides_the_initial_weights(tmp_path, configure):
    config = configure(tmp_path)
    other = dataclasses.replace(config, train=dataclasses.replace(config.train, seed=1))
    first, again, third = (build_model(c).conv1.weight for c in (config, config, other))
    assert torch.equal(first, again)
    assert not torch.equal(first, third)


def test_validation_inputs_are_written_as_the_network_sees_them(tmp_path, configure, dataset):
    assert save_validation_inputs(configure(tmp_path)) == 4
    assert names(tmp_path / "run") == {f"{number:05d}.png" for number in range(4)}
    with Image.open(tmp_path / "run" / "00002.png") as image:
        assert image.size == (32, 32)
        assert min(image.getextrema()[0]) > 60, "the second class is the brighter one"


def test_validation_inputs_that_cannot_be_read_leave_a_gap(tmp_path, configure, capsys):
    root = write_images(tmp_path / "images", {"val": 2}, size=40)
    (root / "val" / "cat" / "1.png").write_text("not an image")
    assert save_validation_inputs(configure(tmp_path, data=root)) == 3
    assert names(tmp_path / "run") == {"00000.png", "00002.png", "00003.png"}
    assert "cannot read" in capsys.readouterr().err


def test_a_set_up_can_be_tried_out_on_the_validation_images(tmp_path, configure):
    root = write_images(tmp_path / "images", {"val": 3}, size=40)
    result = run(configure(tmp_path, data=root, train_on_val=True))
    (epoch,) = result.history
    assert round(epoch.images_per_second * epoch.seconds) == 6


def test_training_batches_are_shifted_on_request(tmp_path, configure):
    shifted = run(configure(tmp_path, "shifted", circular_augment=True)).history[0].train_loss
    assert shifted != run(configure(tmp_path, "still")).history[0].train_loss


def test_unreadable_images_are_counted(tmp_path, configure, capsys):
    root = write_images(tmp_path / "images", {"train": 3, "val": 1}, size=40)
    broken = root / "train" / "dog" / "1.png"
    broken.write_text("not an image")
    result = run(configure(tmp_path, data=root))
    assert result.unreadable == (str(broken),)
    assert capsys.readouterr().err.count("\n") == 1


def test_a_prompt_opens_before_an_evaluation(tmp_path, configure, monkeypatch):
    opened = []
    monkeypatch.setitem(sys.modules, "IPython", None)
    code = require("code", extra="train")
    monkeypatch.setattr(code, "interact", lambda banner, local: opened.append(local["model"]))
    run(configure(tmp_path, evaluate_only=True, embed=True))
    assert [type(model).__name__ for model in opened] == ["ResNet"]


def test_the_tenth_epochs_are_kept(finished):
    config, _ = finished
    kept = load_checkpoint(config.files.folder / "checkpoint_000.pth.tar")
    assert (kept["epoch"], len(kept["history"])) == (1, 1)
