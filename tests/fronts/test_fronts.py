"""What both command lines have in common."""

import re
import subprocess

import pytest
from front_runs import ROOT, command, flags, load

from shiftproof.recipes import cifar10, imagenet

FRONTS = {"cifar10_exps": cifar10, "imagenet_exps": imagenet}


@pytest.mark.parametrize("folder", FRONTS)
def test_supported_architectures_are_those_of_the_registry(folder):
    listed = (ROOT / folder / "supported_architectures.txt").read_text(encoding="utf-8")
    assert listed == "\n".join(FRONTS[folder].supported_architectures()) + "\n"


@pytest.mark.parametrize("folder", FRONTS)
def test_help_names_every_flag_and_gives_an_example(folder):
    done = subprocess.run(
        command(folder, "--help"), capture_output=True, text=True, check=True, timeout=120
    )
    assert done.stderr == ""
    named = set(re.findall(r"(?<![\w-])--?[a-z][\w-]*", done.stdout))
    assert {flag for spellings in flags(load(folder)) for flag in spellings} <= named
    _, _, example = done.stdout.partition("example:\n")
    assert example.startswith("  python3 main.py --")


@pytest.mark.parametrize("folder", FRONTS)
def test_the_example_is_a_valid_command(folder):
    module = load(folder)
    text = module.EXAMPLE.partition("differences")[0].replace("\\\n", " ")
    commands = re.findall(r"python3 main\.py (.*)", text)
    assert commands
    for line in commands:
        assert module.parser().parse_args(line.split()).arch.startswith("resnet18_aps")


@pytest.mark.parametrize("folder", FRONTS)
def test_an_unknown_architecture_is_one_line_on_the_terminal(folder, tmp_path):
    done = subprocess.run(
        command(folder, "--arch", "resnet17", *(("--data", "x") if folder[0] == "i" else ())),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert re.fullmatch(r"error: .*'resnet17'.*\n", done.stderr)
    assert not list(tmp_path.iterdir())
