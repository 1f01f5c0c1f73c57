import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from front_runs import command, flags, load, start
from PIL import Image

from shiftproof.nn import LargestValue
from shiftproof.recipes import imagenet
from shiftproof.results import load_result
from shiftproof.training.schedule import Cosine, Step

MAIN = load("imagenet_exps")

PUBLISHED = {
    "--data": None,
    "-a --arch": "resnet18_aps1",
    "--apspool_criterion": "l2",
    "--pool_only": False,
    "-j --workers": 4,
    "-ep --epochs": 90,
    "--start-epoch": 0,
    "-b --batch-size": 256,
    "--lr --learning-rate": 0.1,
    "--lr_step": 30,
    "--cos_lr": False,
    "--momentum": 0.9,
    "--wd --weight-decay": 1e-4,
    "-p --print-freq": 100,
    "--pretrained": False,
    "--resume": None,
    "-e --evaluate": False,
    "--evaluate-save": False,
    "--world-size": -1,
    "--rank": -1,
    "--dist-backend": "nccl",
    "--seed": None,
    "--gpu": None,
    "--multiprocessing-distributed": False,
    "--circular_data_aug": False,
    "--epochs-shift": 1,
    "-ba --batch-accum": 1,
    "--embed": False,
    "--val-debug": False,
    "--weights": None,
    "--save_weights": None,
    "--wandb": False,
}

OURS = {
    *("--dist-url", "--out-dir", "--nproc-per-node", "--max-restarts", "--amp", "--compile"),
    "--eval-batch-size",
}
"""Flags whose published default is not known, and our own."""


def configured(*arguments, processes=1):
    return MAIN.configure(MAIN.parser().parse_args(arguments), processes)


@pytest.fixture(autouse=True)
def no_cuda(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def small_images(monkeypatch):
    monkeypatch.setattr(imagenet, "RESIZE", 72)
    monkeypatch.setattr(imagenet, "CROP", 64)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    root = tmp_path_factory.mktemp("images")
    source = np.random.default_rng(0)
    for split in ("train", "val"):
        for name in ("n01440764", "n01443537"):
            folder = root / split / name
            folder.mkdir(parents=True)
            for number in range(2):
                pixels = source.integers(0, 256, (72, 96, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{number}.JPEG")
    return root


def test_flags_and_defaults_are_the_published_ones():
    ours = {" ".join(spellings): default for spellings, default in flags(MAIN).items()}
    assert {name: ours.get(name, "missing") for name in PUBLISHED} == PUBLISHED
    assert set(ours) - set(PUBLISHED) == OURS


def test_a_bare_command_is_the_papers_recipe():
    config = configured("--data", "x", "--seed", "0")
    train = config.train
    assert (train.model.name, train.model.num_classes) == ("resnet18_aps1", 1000)
    assert (train.model.options, train.epochs, train.batch_size) == ({}, 90, 256)
    assert train.eval_batch_size == 256
    assert (train.lr, train.momentum, train.weight_decay) == (0.1, 0.9, 1e-4)
    assert (train.schedule, train.accumulate, train.seed) == (Step(30), 1, 0)
    assert (config.workers, config.print_every) == (4, 100)
    assert (imagenet.RESIZE, imagenet.CROP) == (256, 224)


def test_flags_reach_the_configuration():
    config = configured(
        *("--arch", "resnet50_aps3"),
        *("--apspool_criterion", "non_abs_max"),
        "--cos_lr",
        *("-ep", "7"),
        *("-b", "8"),
        *("-ba", "2"),
        *("--learning-rate", "0.2"),
        *("--weight-decay", "0"),
        *("--resume", "a.tar", "--seed", "0"),
        *("--start-epoch", "2"),
        "--circular_data_aug",
        "--val-debug",
        *("--weights", "w.pt"),
        "--pretrained",
        "-e",
        *("-j", "1"),
        *("-p", "5"),
        *("--eval-batch-size", "100"),
        "--embed",
        "--wandb",
        *("--out-dir", "o"),
        processes=2,
    )
    train = config.train
    assert isinstance(train.model.options["selector"], LargestValue)
    assert (train.schedule, train.epochs) == (Cosine(7), 7)
    assert (train.batch_size, train.accumulate, config.processes_per_node) == (8, 2, 2)
    assert train.eval_batch_size == 100
    assert (train.lr, train.weight_decay) == (0.2, 0.0)
    assert (config.resume, config.weights, config.start_epoch) == (Path("a.tar"), Path("w.pt"), 2)
    assert config.circular_augment
    assert config.train_on_val
    assert config.pretrained
    assert config.evaluate_only
    assert config.embed
    assert config.wandb
    assert (config.workers, config.print_every) == (1, 5)
    assert config.files.folder == Path("o")


def test_both_spellings_mean_the_same():
    for short, long, value in (
        ("-a", "--arch", "resnet34"),
        ("-ep", "--epochs", "7"),
        ("-b", "--batch-size", "8"),
        ("-ba", "--batch-accum", "2"),
        ("-j", "--workers", "0"),
        ("-p", "--print-freq", "3"),
        ("--lr", "--learning-rate", "0.3"),
        ("--wd", "--weight-decay", "0.3"),
    ):
        parse = MAIN.parser().parse_args
        assert parse([short, value]) == parse([long, value]) != parse([])


def test_the_papers_commands_train_and_evaluate(tmp_path, dataset, small_images, capsys):
    common = ["--arch", "resnet18_aps1", "--seed", 0, "--data", dataset, "-b", 2, "-j", 0]
    one = tmp_path / "one"
    assert start(MAIN, "--out-dir", one, *common, "-ep", 1) == 0
    output, errors = capsys.readouterr()
    assert errors == ""
    assert output.startswith("resnet18_aps1 on 1 process(es), 2 images per step, seed 0\n")
    assert "val consistency (aps-imagenet): 100.00 % (n=4 in 1 batch" in output
    trained = load_result(one / "result.json")
    # By the paper's second command; without CUDA that is one process, and one line tells so.
    best = one / "model_best.pth.tar"
    distributed = [
        *("--dist-url", "tcp://127.0.0.1:29533", "--dist-backend", "nccl"),
        *("--multiprocessing-distributed", "--world-size", 1, "--rank", 0),
    ]
    assert start(MAIN, "--out-dir", one, *common, "--resume", best, "-e", *distributed) == 0
    assert capsys.readouterr().err == (
        "warning: no CUDA device was found for 'cuda', computing on the CPU\n"
    )
    assert load_result(one / "evaluate_result.json").rates == trained.rates
    assert start(MAIN, "--out-dir", one, *common) == 1
    assert capsys.readouterr().err.startswith("error: --out-dir: a new run must not replace")


def test_hidden_folders_are_left_out_and_named(tmp_path, dataset, small_images, capsys):
    data = shutil.copytree(dataset, tmp_path / "images")
    hidden = data / "train" / ".ipynb_checkpoints"
    shutil.copytree(next((data / "train").iterdir()), hidden)
    common = ["--arch", "resnet18_aps1", "--seed", 0, "-b", 2, "-j", 0, "-ep", 1]
    assert start(MAIN, "--out-dir", tmp_path / "hidden", *common, "--data", data) == 0
    errors = capsys.readouterr().err
    assert errors == f"warning: hidden files and folders are left out: {hidden}\n"


def test_weights_are_written_and_read_and_validation_inputs_saved(
    tmp_path, dataset, small_images, capsys
):
    path = tmp_path / "weights.pt"
    assert start(MAIN, "--arch", "resnet18_lpf3", "--seed", 1, "--save_weights", path) == 0
    state = torch.load(path, weights_only=True)
    assert len(state) == 122
    loaded = configured("--arch", "resnet18_lpf3", "--seed", "2", "--weights", str(path))
    assert torch.equal(imagenet.build_model(loaded).conv1.weight, state["conv1.weight"])
    out = tmp_path / "inputs"
    assert start(MAIN, "--data", dataset, "--out-dir", out, "--evaluate-save", "-j", 0) == 0
    assert capsys.readouterr() == (f"wrote 4 images to {out}\n", "")
    assert sorted(file.name for file in out.iterdir()) == [f"0000{n}.png" for n in range(4)]


def test_pool_only_tells_what_it_costs(capsys):
    assert configured("--pool_only").train.model.options == {"pool_only": True}
    assert capsys.readouterr().err == (
        "warning: --pool_only: the strided stem makes this network not shift invariant\n"
    )
    configured("--pool_only", "--arch", "resnet18_lpf3")
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--arch", "resnet18_apz1"], "create_model: name must be a registered model, got"),
        (["--pretrained"], "--pretrained: torchvision has weights for the plain and _pa networks"),
        (["--data", "nowhere"], "open_imagenet: the data set must have a folder train, got nowh"),
        (["--data", "nowhere", "-e"], "open_imagenet: the data set must have a folder val"),
        (["--weights", "nowhere.pt"], "read_state_dict: weights must be a file, got nowhere.pt"),
        (["--resume", "nowhere.tar"], "load_checkpoint: the checkpoint must be a file, got nowh"),
        (["-e", "--resume", "nowhere.tar"], "load_checkpoint: the checkpoint must be a file"),
        (["-b", "0"], "train: batch_size must be at least 1, got 0"),
        (["--eval-batch-size", "0"], "train: eval_batch_size must be at least 1, got 0"),
        (["-ba", "0"], "train: accumulate must be at least 1, got 0"),
        (["--lr", "0"], "train: lr must be positive, got 0.0"),
        (["--lr_step", "0"], "Step: every must be at least 1 epoch, got 0"),
        (["--seed", "-1"], "train: seed must be in"),
        (["--arch", "resnet18", "--apspool_criterion", "l1"], "--apspool_criterion: the network"),
        (["--arch", "resnet18", "--pool_only"], "--pool_only: the network must be an _aps"),
    ],
)
def test_bad_values_are_one_line(
    tmp_path, dataset, small_images, monkeypatch, capsys, arguments, message
):
    monkeypatch.chdir(tmp_path)
    assert start(MAIN, "--data", dataset, "--out-dir", "out", *arguments) == 1
    output, errors = capsys.readouterr()
    assert output == ""
    assert errors.startswith(f"error: {message}")
    assert errors.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_the_data_set_must_be_named(capsys):
    assert start(MAIN) == 1
    assert capsys.readouterr().err.startswith("error: --data: the data set must be named")


def test_an_indivisible_image_size_is_one_line(tmp_path, dataset, monkeypatch, capsys):
    monkeypatch.setattr(imagenet, "CROP", 112)
    assert start(MAIN, "--data", dataset, "--out-dir", tmp_path / "out") == 1
    assert capsys.readouterr().err == (
        "error: image size: height and width must be multiples of 32, got 112x112: layer4 would "
        "see 7x7; use 96x96 or 128x128\n"
    )
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.parametrize("starter", ["multiprocessing", "torchrun"])
def test_two_processes_train_and_evaluate(tmp_path, dataset, starter):
    options = ["--out-dir", tmp_path, "--seed", "0", "--data", dataset, "-b", "2", "-ep", "1"]
    line = command("imagenet_exps", *options, "-j", "0", "--dist-backend", "gloo")
    if starter == "torchrun":
        run = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
        line = [line[0], *run, *line[1:]]
    else:
        line += ["--multiprocessing-distributed", "--nproc-per-node", "2"]
        line += ["--world-size", "1", "--rank", "0", "--dist-url", "tcp://127.0.0.1:29534"]
    done = subprocess.run(line, capture_output=True, text=True, timeout=600, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "resnet18_aps1 on 2 process(es), 2 images per step, seed 0" in done.stdout
    result = load_result(tmp_path / "result.json")
    assert result.rates["val consistency (aps-imagenet)"].n == 4
    assert result.rates["val consistency (aps-imagenet)"].value == 1.0
