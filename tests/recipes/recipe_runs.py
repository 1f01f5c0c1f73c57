"""Folders of a few small images, and finished runs that a test may change."""

import dataclasses
import shutil

import numpy as np
import torch
from PIL import Image

from shiftproof.training.distributed import Process
from threads import one_thread

ALONE = Process(0, 0, 1, torch.device("cpu"))


def alone(run, *arguments):
    """What a recipe finds in one process."""
    with one_thread():
        return run(*arguments)


def write_images(root, counts, *, size=32, suffix="png", classes=("cat", "dog")):
    """Write ``root/<split>/<class>/<number>.<suffix>``, brighter in each further class."""
    source = np.random.default_rng(0)
    for split, count in counts.items():
        for label, name in enumerate(classes):
            folder = root / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                noise = source.integers(0, 128, (size, size, 3), dtype=np.uint8)
                Image.fromarray(noise + 100 * label).save(folder / f"{number}.{suffix}")
    return root


def copied(finished, root):
    """Copy a run ``(config, result)`` to ``root / "run"``; its configuration there."""
    config, result = finished
    shutil.copytree(config.files.folder, root / "run")
    files = dataclasses.replace(config.files, folder=root / "run")
    return dataclasses.replace(config, files=files), result


def names(folder):
    return {path.name for path in folder.iterdir()}
