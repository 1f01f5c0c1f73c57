"""``shiftproof eval`` gives the numbers of the two command lines for the same checkpoint."""

import functools
import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from front_runs import load, start
from PIL import Image

import shiftproof
from shiftproof import cli
from shiftproof.data.plan import EvalPlan
from shiftproof.recipes import cifar10, imagenet
from shiftproof.recipes.command import run_command
from shiftproof.results import load_result
from threads import one_thread

COUNT = 9


def evaluated(folder, *arguments):
    """The one result of the command, in this process."""
    parsed = cli.parser().parse_args(["eval", *map(str, arguments), "--out", str(folder)])
    with one_thread():
        assert run_command(functools.partial(parsed.run, parsed)) == 0
    (path,) = folder.glob("*.json")
    return load_result(path)


def draw(root, splits, size):
    """Waves of many lengths, on which a strided network changes its mind."""
    source = np.random.default_rng(0)
    for split in splits:
        for name in ("cat", "dog"):
            (root / split / name).mkdir(parents=True)
            for number in range(COUNT):
                coarse = source.integers(0, 256, [n // 4 for n in size] + [3], dtype=np.uint8)
                image = Image.fromarray(coarse).resize(size[::-1], Image.Resampling.NEAREST)
                image.save(root / split / name / f"{number}.png")
    return root


@torch.no_grad()
def lively(model, images):
    """Weights with which the classes of images vary, and only between the first two."""
    model.train()
    for _ in range(30):
        model(images)
    model.eval()
    logits = model(images)
    model.fc.bias -= logits.mean(0)
    model.fc.bias[2:] -= 1e4
    assert 0 < int(model(images).argmax(1).sum()) < len(images)
    return model


def batch_of(dataset):
    (batch,) = EvalPlan(len(dataset), 999)
    return dataset[batch].images


def assert_same(found, front, stage):
    names = [name for name in front.rates if name.startswith(stage)]
    assert len(names) == 3
    for name in names:
        rate = found.rates[name.removeprefix(stage)]
        assert rate == front.rates[name]
        assert rate.n == 2 * COUNT
    assert found.values["loss"] == pytest.approx(front.values[f"{stage}loss"], rel=1e-6)
    successes = [front.rates[name].successes for name in names if "top-5" not in name]
    assert all(0 < count < 2 * COUNT for count in successes), successes


def in_two_processes(arguments):
    run = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    line = [*run, "-m", "shiftproof.cli", "eval", *map(str, arguments), "--json", "--device", "cpu"]
    done = subprocess.run(line, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    (result,) = json.loads(done.stdout)["results"]
    return result


@pytest.fixture(scope="module")
def imagenet_run(tmp_path_factory):
    """A folder, the arguments of the command, and what the front found."""
    root = tmp_path_factory.mktemp("imagenet")
    data, weights = draw(root / "data", ("train", "val"), (72, 96)), root / "weights.pt"
    with pytest.MonkeyPatch.context() as patch, one_thread():
        patch.setattr(torch.cuda, "is_available", lambda: False)
        patch.setattr(imagenet, "RESIZE", 72)
        patch.setattr(imagenet, "CROP", 64)
        _, val = imagenet.open_imagenet(data, train=False, resize=72, crop=64)
        torch.manual_seed(0)
        model = lively(shiftproof.create_model("resnet18"), batch_of(val))
        torch.save({"state_dict": model.state_dict(), "epoch": 3}, weights)
        front = ["--arch", "resnet18", "--seed", 5, "--data", data, "-j", 0, "--weights", weights]
        options = ["-e", "--out-dir", root / "front", "--eval-batch-size", 4]
        assert start(load("imagenet_exps"), *front, *options) == 0
    arguments = [
        *("resnet18", "--weights", weights, "--data", data, "--size", 64, "--resize", 72),
        *("--protocol", "aps-imagenet", "--batch-size", 4, "--seed", 5, "--workers", 0),
        *("--classes", "sorted"),
    ]
    return root, arguments, load_result(root / "front" / "evaluate_result.json")


def test_the_numbers_of_the_imagenet_front(imagenet_run):
    root, arguments, front = imagenet_run
    found = evaluated(root / "eval", *arguments)
    assert_same(found, front, "val ")
    assert found.num_parameters == front.num_parameters
    # Control: another seed draws other shifts, and other batches share them.
    for number, option in enumerate((("--seed", 6), ("--batch-size", 9))):
        other = evaluated(root / f"other {number}", *arguments, *option)
        name = "consistency (aps-imagenet)"
        assert other.rates["top-1"] == found.rates["top-1"]
        assert other.rates[name] != found.rates[name]


@pytest.mark.slow
def test_the_numbers_of_the_imagenet_front_in_two_processes(imagenet_run):
    root, arguments, front = imagenet_run
    result = in_two_processes([*arguments, "--out", root / "two"])
    assert_same(load_result(root / "two" / "resnet18.json"), front, "val ")
    assert result["rates"]["top-1"]["n"] == 2 * COUNT


@pytest.fixture(scope="module")
def cifar_run(tmp_path_factory):
    """The same of the CIFAR front."""
    root = tmp_path_factory.mktemp("cifar")
    data = draw(root / "data", ("train", "test"), (32, 32))
    front = [
        *("--arch", "resnet20", "--seed_num", 5, "--device_id", "cpu", "--validate_consistency"),
        *("--results_root_path", root, "--model_folder", "run", "--dataset_path", data),
        *("--num_epochs", 1, "--batch_size", 6, "--eval_batch_size", 4),
    ]
    with pytest.MonkeyPatch.context() as patch, one_thread():
        patch.setattr(torch.cuda, "is_available", lambda: False)
        assert start(load("cifar10_exps"), *front) == 0
        best = root / "run" / "models" / "model_and_optim_best_checkpoint.pt"
        checkpoint = torch.load(best, weights_only=False)
        model = shiftproof.create_model("cifar_resnet20")
        model.load_state_dict(checkpoint["model"])
        test = cifar10.load_cifar10(data, train=False)
        transform = cifar10._NORMALIZE
        checkpoint["model"] = lively(model, batch_of(test.with_transform(transform))).state_dict()
        torch.save(checkpoint, best)
        assert start(load("cifar10_exps"), *front, "--evaluate_only") == 0
    arguments = [
        *("cifar_resnet20", "--weights", best, "--data", data, "--workers", 0),
        *("--protocol", "aps-cifar-test", "--batch-size", 4, "--seed", 5, "--classes", "sorted"),
    ]
    return root, arguments, load_result(root / "run" / "evaluate_only_result.json")


def test_the_numbers_of_the_cifar_front(cifar_run):
    root, arguments, front = cifar_run
    found = evaluated(root / "eval", *arguments)
    assert_same(found, front, "test ")
    assert found.num_parameters == front.num_parameters
    other = evaluated(root / "other", *arguments, "--seed", 6)
    assert other.rates["top-1"] == found.rates["top-1"]
    assert other.rates != found.rates


@pytest.mark.slow
def test_the_numbers_of_the_cifar_front_in_two_processes(cifar_run):
    root, arguments, front = cifar_run
    in_two_processes([*arguments, "--out", root / "two"])
    assert_same(load_result(root / "two" / "cifar_resnet20.json"), front, "test ")
