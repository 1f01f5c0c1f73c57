"""Rules of the code base that no linter knows."""

import inspect
import json
import re
import subprocess
import sys
import types
from pathlib import Path

import pytest

from shiftproof import nn, ops

ROOT = Path(__file__).parents[1]

SOURCES = sorted((ROOT / "src").rglob("*.py"))

PUBLIC = [
    pytest.param(getattr(package, name), id=f"{package.__name__}.{name}")
    for package in (ops, nn)
    for name in package.__all__
]

ON_MAPS = [
    param
    for param in PUBLIC
    if (inspect.isclass(param.values[0]) and not param.id.endswith(("1d", "3d")))
    or next(iter(inspect.signature(param.values[0]).parameters)) in ("x", "y", "components")
]

IMPORT = """
import json, sys
import torch
before = set(sys.modules)
import shiftproof
print(json.dumps(sorted({name.split(".")[0] for name in set(sys.modules) - before})))
"""


def test_importing_the_package_imports_torch_and_nothing_heavier(tmp_path):
    command = [sys.executable, "-B", "-W", "error", "-c", IMPORT]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    imported = set(json.loads(run.stdout)) - sys.stdlib_module_names
    assert imported <= {"shiftproof", "torch"}
    assert run.stderr == ""
    assert not list(tmp_path.iterdir())


def test_the_oldest_versions_are_those_that_were_tested():
    """``make test-oldest`` runs the suite with them; raise both together."""
    declared = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    oldest = (ROOT / "Makefile").read_text(encoding="utf-8")
    for package, version in re.findall(r"([a-z]+)==([\d.]+)", oldest):
        assert f'"{package}>={version.removesuffix(".0")}"' in declared


def test_files_are_small():
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in SOURCES}
    assert {path: length for path, length in lengths.items() if length > 400} == {}


def test_files_and_folders_are_named_for_what_they_hold():
    vague = {"utils", "common", "helpers", "misc"}
    parts = {part for path in SOURCES for part in path.relative_to(ROOT).with_suffix("").parts}
    assert not parts & vague


@pytest.mark.parametrize("package", [ops, nn], ids=lambda package: package.__name__)
def test_every_public_name_is_exported_in_order(package):
    names = {
        name
        for name, value in vars(package).items()
        if not name.startswith("_") and not isinstance(value, types.ModuleType)
    }
    assert package.__all__ == sorted(names)


@pytest.mark.parametrize("public", PUBLIC)
def test_public_names_are_documented(public):
    assert inspect.getdoc(public)


@pytest.mark.parametrize("public", ON_MAPS)
def test_equivariance_is_stated_and_names_an_existing_test(public):
    section = re.search(
        r"^Equivariance:\n((?: +.*\n?|\n)+)", inspect.getdoc(public) or "", re.MULTILINE
    )
    assert section, "the docstring has no section Equivariance"
    tests = re.findall(r"``(tests/\S+\.py)``", section[1])
    assert tests
    assert all((ROOT / test).is_file() for test in tests)
