import shutil
import urllib.error
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from front_runs import flags, load, start
from PIL import Image

from shiftproof.nn import SmallestNorm
from shiftproof.results import load_result
from shiftproof.training.schedule import MultiStep, Step

MAIN = load("cifar10_exps")

PUBLISHED = {
    "--results_root_path": Path("results"),
    "--model_folder": "",
    "--device_id": "0",
    "--seed_num": None,
    "--cudnn_deterministic": False,
    "--resume": False,
    "--dataset": "cifar10",
    "--batch_size": 256,
    "--base_center_crop": 32,
    "--data_augmentation_flag": False,
    "--train_split": 0.9,
    "--pin_memory_flag": True,
    "--num_workers": 4,
    "--max_shift": 3,
    "--validate_consistency": False,
    "-a --arch": "resnet18",
    "--conv_pad_type": "circular",
    "--filter_size": 1,
    "--lr": 0.1,
    "--momentum": 0.9,
    "--weight_decay": 5e-4,
    "--step_size_lr": 100,
    "--scheduler_milestones": [100, 150],
    "--scheduler_type": "StepLR",
    "--gamma": 0.1,
    "--scheduler_flag": False,
    "--num_epochs": 250,
    "--start_epoch": 0,
    "--evaluate_only": False,
    "--evaluate_on_flips": False,
    "--evaluate_on_erase": False,
    "--random_erase_patch": 3,
    "--apspool_criterion": "l2",
}

OURS = {"--dataset_path", "--print-freq", "--amp", "--compile", "--eval_batch_size"}
"""Flags whose published default is not known, and our own."""

FILES = {
    "accuracy.png",
    "config_dict.txt",
    "consistency.png",
    "epochs.csv",
    "log.jsonl",
    "loss.png",
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


def configured(*arguments):
    return MAIN.configure(MAIN.parser().parse_args(arguments))


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    root = tmp_path_factory.mktemp("images")
    source = np.random.default_rng(0)
    for split, count in (("train", 5), ("test", 1)):
        for name in ("cat", "dog"):
            folder = root / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = source.integers(0, 256, (32, 32, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{number}.png")
    return root


@pytest.fixture
def no_cuda(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


def test_flags_and_defaults_are_the_published_ones():
    ours = {" ".join(spellings): default for spellings, default in flags(MAIN).items()}
    assert {name: ours.get(name, "missing") for name in PUBLISHED} == PUBLISHED
    assert set(ours) - set(PUBLISHED) == OURS


def test_a_bare_command_is_the_papers_recipe():
    config = configured("--seed_num", "0")
    train = config.train
    assert (train.model.name, train.model.num_classes) == ("cifar_resnet18", 10)
    assert train.model.options == {"padding_mode": "circular"}
    assert (train.epochs, train.batch_size, train.seed) == (250, 256, 0)
    assert (train.lr, train.momentum, train.weight_decay) == (0.1, 0.9, 5e-4)
    assert train.schedule == Step(100, 0.1)
    assert (config.augment, config.measure_consistency, config.pin_memory) == (False, False, True)
    assert (config.erase_test, config.flip_test, config.max_shift) == (None, False, 3)


def test_flags_reach_the_configuration():
    config = configured(
        *("--arch", "resnet20_aps"),
        *("--filter_size", "3"),
        *("--conv_pad_type", "zeros"),
        *("--apspool_criterion", "l1_min"),
        *("--scheduler_type", "MultiStepLR"),
        *("--scheduler_milestones", "2", "4"),
        *("--gamma", "0.5"),
        *("--max_shift", "2"),
        "--validate_consistency",
        "--data_augmentation_flag",
        "--pin_memory_flag",
        "--evaluate_on_flips",
        "--evaluate_on_erase",
        *("--random_erase_patch", "5"),
        *("--results_root_path", "out"),
        *("--model_folder", "a"),
        *("--num_epochs", "7"),
        *("--start_epoch", "2"),
        *("--base_center_crop", "28"),
        *("--train_split", "0.8"),
        *("--eval_batch_size", "100"),
    )
    train = config.train
    assert train.model.name == "cifar_resnet20_aps3"
    assert train.model.options["padding_mode"] == "zeros"
    assert isinstance(train.model.options["selector"], SmallestNorm)
    assert train.schedule == MultiStep((2, 4), 0.5)
    assert (train.epochs, train.eval_batch_size, config.start_epoch) == (7, 100, 2)
    assert (config.conv_pad_type, config.max_shift, config.center_crop) == ("zeros", 2, 28)
    assert (config.augment, config.measure_consistency, config.pin_memory) == (True, True, False)
    assert (config.erase_test, config.flip_test, config.train_split) == (5, True, 0.8)
    assert config.files.folder == Path("out/a")


def test_without_a_seed_one_is_drawn():
    seeds = {configured().train.seed for _ in range(4)}
    assert len(seeds) > 1


def test_the_papers_command_trains_on_the_cpu_with_one_warning(tmp_path, dataset, no_cuda, capsys):
    command = [
        *("--arch", "resnet20_aps", "--filter_size", 3, "--validate_consistency"),
        *("--seed_num", 0, "--device_id", 0, "--model_folder", "run"),
        *("--results_root_path", tmp_path, "--dataset_path", dataset),
        *("--num_epochs", 1, "--batch_size", 5),
    ]
    assert start(MAIN, *command) == 0
    output, errors = capsys.readouterr()
    assert errors == "warning: no CUDA device was found for '0', computing on the CPU\n"
    assert "test consistency (aps-cifar-test): 100.00 % (n=2 in 1 batch" in output
    assert {path.name for path in (tmp_path / "run").iterdir()} == FILES
    assert load_result(tmp_path / "run" / "result.json").model == "cifar_resnet20_aps3"
    # Again: refused, gone on with, and evaluated.
    assert start(MAIN, *command) == 1
    assert capsys.readouterr().err.splitlines()[1].startswith("error: --model_folder: a new run")
    assert start(MAIN, *command, "--resume") == 0
    before = (tmp_path / "run" / "result.json").read_bytes()
    assert start(MAIN, *command, "--evaluate_only", "--evaluate_on_flips") == 0
    assert (tmp_path / "run" / "result.json").read_bytes() == before


def test_hidden_folders_are_left_out_and_named_in_one_line(tmp_path, dataset, no_cuda, capsys):
    dataset = shutil.copytree(dataset, tmp_path / "images")
    for split in ("train", "test"):
        hidden = dataset / split / ".ipynb_checkpoints"
        shutil.copytree(next((dataset / split).iterdir()), hidden)
    arguments = ("--arch", "resnet20_aps", "--filter_size", 3, "--num_epochs", 1, "--batch_size", 5)
    folders = ("--results_root_path", tmp_path, "--model_folder", "run", "--dataset_path", dataset)
    assert start(MAIN, *arguments, *folders) == 0
    warnings = [line for line in capsys.readouterr().err.splitlines() if "hidden" in line]
    names = f"{dataset / 'train' / hidden.name}, {hidden}"
    assert warnings == [f"warning: hidden files and folders are left out: {names}"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--arch", "resnet20_apz"], "--arch: the architecture must be one of resnet20, "),
        (["--arch", "resnet20_aps", "--filter_size", "8"], "--filter_size: "),
        (["--arch", "resnet20_aps", "--base_center_crop", "30"], "image size: height and width"),
        (["--batch_size", "0"], "train: batch_size must be at least 1, got 0"),
        (["--lr", "-1"], "train: lr must be positive, got -1.0"),
        (["--seed_num", "-3"], "train: seed must be in"),
        (["--gamma", "2"], "MultiStep: gamma must be in (0, 1], got 2.0"),
        (["--step_size_lr", "0"], "Step: every must be at least 1 epoch, got 0"),
        (["--scheduler_milestones", "5", "2"], "MultiStep: milestones must increase"),
        (["--train_split", "1.5"], "--train_split: "),
        (["--evaluate_only"], "--evaluate_only: there must be a trained network"),
        (["--device_id", "tpu"], "pick_device: the device must be cpu or the index"),
        (["--evaluate_on_erase", "--random_erase_patch", "0"], "EraseSquare: patch must be"),
        (["--apspool_criterion", "l1"], "--apspool_criterion: the network must be an _aps"),
    ],
)
def test_bad_values_are_one_line(tmp_path, dataset, capsys, arguments, message):
    folders = ["--results_root_path", tmp_path / "out", "--dataset_path", dataset]
    assert start(MAIN, "--device_id", "cpu", "--arch", "resnet18", *folders, *arguments) == 1
    output, errors = capsys.readouterr()
    assert output == ""
    assert errors.startswith(f"error: {message}")
    assert errors.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_missing_folder_is_one_line(tmp_path, dataset, capsys, split):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / split).symlink_to(dataset / split)
    arguments = ["--arch", "resnet20", "--dataset_path", tmp_path / "images"]
    assert start(MAIN, "--device_id", "cpu", "--results_root_path", tmp_path / "o", *arguments) == 1
    errors = capsys.readouterr().err
    assert errors.startswith("error: load_cifar10: the folder must exist, got ")
    assert errors.count("\n") == 1


def test_a_data_set_that_cannot_be_downloaded_is_one_line(tmp_path, monkeypatch, capsys):
    def no_network(*_, **__):
        raise urllib.error.URLError("no network")

    monkeypatch.setattr(torchvision.datasets.cifar, "download_and_extract_archive", no_network)
    folders = ["--results_root_path", tmp_path / "out", "--dataset_path", tmp_path / "nowhere"]
    assert start(MAIN, "--device_id", "cpu", "--arch", "resnet20", *folders) == 1
    errors = capsys.readouterr().err
    assert errors.startswith("error: load_cifar10: the data set must be there or be downloaded")
    assert errors.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_deterministic_kernels_are_asked_of_cudnn(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", False)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    arguments = ["--cudnn_deterministic", "--evaluate_only", "--device_id", "cpu"]
    assert start(MAIN, *arguments, "--results_root_path", tmp_path) == 1
    assert torch.backends.cudnn.deterministic
    assert not torch.backends.cudnn.benchmark
