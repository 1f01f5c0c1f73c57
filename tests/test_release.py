"""What a user installs: the wheel, with torch alone, in an empty environment."""

import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

pytestmark = pytest.mark.release


def call(*command, folder):
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "PYTEST"))}
    done = subprocess.run(
        list(map(str, command)), cwd=folder, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dist")
    call(sys.executable, "-m", "build", "--outdir", folder, ROOT, folder=ROOT)
    return folder


@pytest.fixture(scope="module")
def environment(built, tmp_path_factory):
    folder = tmp_path_factory.mktemp("environment")
    call(sys.executable, "-m", "venv", folder / "venv", folder=folder)
    python = folder / "venv" / "bin" / "python"
    call(python, "-m", "pip", "install", "--quiet", *built.glob("*.whl"), folder=folder)
    return python


def test_the_archives_hold_the_package_and_its_licence(built):
    (wheel,) = built.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    sources = {path.relative_to(ROOT / "src").as_posix() for path in (ROOT / "src").rglob("*.py")}
    assets = {f"shiftproof/report/assets/{name}" for name in ("page.html", "page.css", "page.js")}
    assert assets <= set(names)
    assert sources <= set(names)
    assert "shiftproof/py.typed" in names
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert len(list(built.glob("*.tar.gz"))) == 1


def test_the_example_of_the_readme_runs(environment, tmp_path):
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    example = re.search(r"## In ten lines\n\n```python\n(.*?)```", readme, re.DOTALL)[1]
    output = call(environment, "-c", example, folder=tmp_path).splitlines()
    assert output == ["tensor(0.)", "torch.Size([1, 16, 16, 16])"]


def test_the_command_tells_what_it_can_do(environment, tmp_path):
    command = environment.with_name("shiftproof")
    assert "certify" in call(command, "--help", folder=tmp_path)
    listed = call(command, "list", folder=tmp_path)
    assert "resnet18_aps3" in listed
