"""Checkpoints: written whole or not at all, and read without running code from the file."""

import contextlib
import importlib.metadata
import os
import pickle
import random
import shutil
import sys
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from shiftproof.extras import require
from shiftproof.files import find_damage, replacing

SCHEMA = 1
"""Version of the layout; readers refuse a newer one."""

_ATOMS = (type(None), bool, int, float, complex, str, bytes, Tensor, nn.Parameter)
_CONTAINERS = (list, tuple, dict, OrderedDict)
_LONGEST_INT = 8 * 255
"""Bits of an integer beyond which the safe reader gives up."""


def _check_safe(value: object, path: str) -> None:
    # Exact types: a NumPy float is a float to isinstance, and a named tuple a tuple, yet each needs
    # its class to be read again.
    if type(value) not in (*_ATOMS, *_CONTAINERS):
        raise TypeError(
            "save_checkpoint: a checkpoint must be made of tensors, plain numbers, strings, lists, "
            f"tuples and dicts, got {type(value).__module__}.{type(value).__qualname__} at {path}; "
            "convert it first"
        )
    if isinstance(value, int) and value.bit_length() >= _LONGEST_INT:
        raise TypeError(
            f"save_checkpoint: an integer must have fewer than {_LONGEST_INT} bits, got "
            f"{value.bit_length()} at {path}; save it as a string"
        )
    if isinstance(value, dict):
        for key, item in value.items():
            _check_safe(key, f"a key of {path}")
            _check_safe(item, f"{path}[{key!r}]")
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            _check_safe(item, f"{path}[{index}]")
    # Attributes are saved too: those of a tensor, and the layer versions of a state_dict.
    for name, item in getattr(value, "__dict__", {}).items():
        _check_safe(item, f"{path}.{name}")


def save_checkpoint(path: str | os.PathLike[str], state: Mapping[str, Any]) -> None:
    """Write a checkpoint so that a reader finds the old one or the new one, never a part.

    The file is an ordinary ``torch.save`` file with the entries of ``state`` at its top level, and
    two more: ``schema`` and ``versions``.

    Args:
        path: File to write, replaced whole; its folder must exist.
        state: Tensors, numbers, strings, bytes, booleans and ``None`` in lists, tuples and dicts.

    Raises:
        TypeError: If the state holds anything else; nothing is written.
        ValueError: If the state has an entry named ``schema`` or ``versions``; nothing is written.
    """
    reserved = {"schema", "versions"} & set(state)
    if reserved:
        raise ValueError(
            "save_checkpoint: the entries schema and versions must be left to the file, got "
            f"{', '.join(sorted(reserved))}; rename them"
        )
    state = dict(state)
    _check_safe(state, "state")
    versions = {
        "python": ".".join(map(str, sys.version_info[:3])),
        "torch": str(torch.__version__),
    }
    # Absent where the package runs from its sources without being installed.
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        versions["shiftproof"] = importlib.metadata.version("shiftproof")
    with replacing(path) as file:
        torch.save({"schema": SCHEMA, "versions": versions, **state}, file)


def load_checkpoint(
    path: str | os.PathLike[str], *, map_location: str | torch.device = "cpu"
) -> dict[str, Any]:
    """Read a checkpoint that ``save_checkpoint`` wrote; no code from the file is run.

    Args:
        path: The file.
        map_location: Device on which the tensors are placed.

    Returns:
        What was saved, with ``schema`` and ``versions``.

    Raises:
        RuntimeError: If the file is missing, damaged, not a checkpoint of this project,
            holds Python objects, or was written by a newer version of the layout.
    """
    if not Path(path).is_file():
        raise RuntimeError(
            f"load_checkpoint: the checkpoint must be a file, got {path}, which is "
            f"{'a folder' if Path(path).is_dir() else 'missing'}; check the path"
        )
    damage = find_damage(path)
    if damage is not None:
        raise RuntimeError(
            f"load_checkpoint: the file must be a complete checkpoint, got {path}, which is "
            f"{damage}; use an earlier checkpoint"
        )
    try:
        data = torch.load(path, map_location=map_location, weights_only=True)
    except pickle.UnpicklingError as error:
        raise RuntimeError(
            f"load_checkpoint: the file must hold tensors and plain values alone, got {path} with "
            "other Python objects, which could run code; save it again without them"
        ) from error
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise RuntimeError(
            f"load_checkpoint: the file must be a readable checkpoint, got {path} ({reason}); "
            "use an earlier checkpoint"
        ) from error
    if not isinstance(data, dict) or not isinstance(data.get("schema"), int):
        raise RuntimeError(
            f"load_checkpoint: the file must be a checkpoint of a training run, got {path}; "
            "load weights alone as weights"
        )
    if data["schema"] > SCHEMA:
        raise RuntimeError(
            f"load_checkpoint: schema must be at most {SCHEMA}, got {data['schema']} in {path}; "
            "update shiftproof"
        )
    return data


def check_model(
    data: Mapping[str, Any], model: Mapping[str, Any], path: str | os.PathLike[str]
) -> None:
    """Refuse a checkpoint of another network.

    Networks of different placement share their state_dict, so that loading alone would not notice.

    Args:
        data: The checkpoint.
        model: Description of the network at hand, as in a configuration.
        path: Where the checkpoint came from, for the error message.

    Raises:
        ValueError: If the checkpoint is not of a training run, or of one with another network.
    """
    theirs = data.get("config", {}).get("model")
    if theirs is None or "model" not in data:
        raise ValueError(
            f"load_checkpoint: the checkpoint must be one of a training run, got {path}; "
            "load weights alone as weights"
        )
    changed = [
        f"model {key} {theirs.get(key)!r}, now {value!r}"
        for key, value in model.items()
        if theirs.get(key) != value
    ]
    if changed:
        raise ValueError(
            f"load_checkpoint: the network must be the one that was trained, got "
            f"{'; '.join(changed)} in {path}; pass the same network and options"
        )


def copy_checkpoint(source: str | os.PathLike[str], target: str | os.PathLike[str]) -> None:
    """Copy a checkpoint so that a reader of the target finds the old one or the new one.

    Args:
        source: Checkpoint to copy.
        target: File to write, replaced whole; its folder must exist.
    """
    with Path(source).open("rb") as original, replacing(target) as file:
        shutil.copyfileobj(original, file)


def rng_state() -> dict[str, Any]:
    """Take down the state of every global random number generator of this process.

    Returns:
        Plain values and tensors, fit for a checkpoint: ``torch``, ``cuda`` (one per device, empty
        where CUDA was not used), ``python``, and ``numpy`` if something has imported it.
    """
    # Asking for the state of an unused CUDA would start it, at hundreds of MB on the device.
    cuda_is_in_use: Callable[[], bool] = torch.cuda.is_initialized
    cuda = torch.cuda.get_rng_state_all() if cuda_is_in_use() else []
    state = {"torch": torch.get_rng_state(), "cuda": cuda, "python": random.getstate()}
    numpy = sys.modules.get("numpy")
    if numpy is not None:
        name, key, position, has_gauss, gauss = numpy.random.get_state()
        state["numpy"] = (name, key.tolist(), int(position), int(has_gauss), float(gauss))
    return state


def restore_rng_state(state: Mapping[str, Any]) -> None:
    """Put every global random number generator back to where it was.

    CUDA devices that this machine lacks are passed over.

    Args:
        state: What ``rng_state`` returned, possibly through a checkpoint.

    Raises:
        RuntimeError: If the state tells of NumPy and NumPy is not installed.
    """
    torch.set_rng_state(state["torch"].cpu())
    if state["cuda"] and torch.cuda.is_available():
        for index, generator in enumerate(state["cuda"][: torch.cuda.device_count()]):
            torch.cuda.set_rng_state(generator.cpu(), index)
    random.setstate(state["python"])
    if "numpy" in state:
        numpy = require("numpy", extra="train")
        numpy.random.set_state(state["numpy"])
