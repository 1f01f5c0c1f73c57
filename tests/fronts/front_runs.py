"""The two command lines, run in this process."""

import functools
import importlib.util
import sys
from pathlib import Path

from shiftproof.recipes.command import run_command
from threads import one_thread

ROOT = Path(__file__).parents[2]


def load(folder):
    """Import ``<folder>/main.py`` by its path."""
    path = ROOT / folder / "main.py"
    spec = importlib.util.spec_from_file_location(f"{folder}_main", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def start(module, *arguments):
    """Do what the script does with these arguments; returns its exit status."""
    with one_thread():
        return run_command(functools.partial(module.run, [str(argument) for argument in arguments]))


def flags(module):
    """The command line as data: flags in all their spellings, and their default."""
    return {
        tuple(action.option_strings): action.default
        for action in module.parser()._actions
        if action.dest != "help"
    }


def command(folder, *arguments):
    """The command for another process."""
    return [sys.executable, ROOT / folder / "main.py", *arguments]
