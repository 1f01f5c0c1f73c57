"""Reading weights: files, torchvision's, and the checkpoints of the published code."""

import argparse
import contextlib
import datetime as dt
import os
import pathlib
import re
import types
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.torch_version import TorchVersion

from shiftproof.extras import require
from shiftproof.files import find_damage, replacing

_ROW_MAJOR = torch.contiguous_format
_SUFFIXES = (".safetensors", ".pt", ".pth", ".tar", ".bin")


def _harmless() -> list[Any]:
    """Types beside torch's own that checkpoints hold and that do nothing when they are read."""
    allowed: list[Any] = [argparse.Namespace, types.SimpleNamespace, TorchVersion]
    allowed += [dt.datetime, dt.date, dt.timedelta]
    allowed += [
        (pathlib.PurePath, f"{module}.{name}")
        for module in ("pathlib", "pathlib._local")
        for name in ("PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath")
    ]
    with contextlib.suppress(RuntimeError):  # without NumPy the file is refused by name
        numpy = require("numpy", extra="train")
        scalar, reconstruct = (x.__reduce__()[0] for x in (numpy.float64(0), numpy.zeros(0)))
        allowed += [numpy.dtype, numpy.ndarray]
        allowed += [type(numpy.dtype(kind)) for kind in "?bBhHiIlLqQefdFDSU"]
        for package in ("numpy.core", "numpy._core"):  # NumPy 1 and 2
            allowed += [(scalar, f"{package}.multiarray.scalar")]
            allowed += [(reconstruct, f"{package}.multiarray._reconstruct")]
    return allowed


def _refusal(error: Exception) -> str:
    """Why torch or safetensors did not read a file, and the way out."""
    text = str(error) or type(error).__name__
    if found := re.search(r"GLOBAL (\S+)", text):
        name = found[1]
        is_own = "nn.modules" in name or not name.startswith(("torch.", "numpy.", "builtins."))
        return (
            f"it holds an object of {name}, which could run code; "
            f"{'' if is_own else 'load it where you trust it and '}save model.state_dict() alone"
        )
    if "TorchScript" in text:
        return "it is a TorchScript archive; save the state_dict of the module it was made from"
    lines = text.rpartition("WeightsUnpickler error:")[2].splitlines()
    reason = next((line.strip() for line in lines if line.strip()), text)
    return f"{reason}; save the plain state_dict"


def _read(path: Path) -> Any:
    """Everything in a file, without running code from it."""
    if path.suffix == ".safetensors":
        return require("safetensors.torch", extra="train").load_file(path)
    with torch.serialization.safe_globals(_harmless()):
        return torch.load(path, map_location="cpu", weights_only=True)


def _is_state_dict(content: object) -> bool:
    return (
        isinstance(content, Mapping)
        and bool(content)
        and all(isinstance(name, str) for name in content)
        and all(isinstance(value, Tensor) for value in content.values())
    )


def _state_dicts(content: object, key: str = "") -> dict[str, Mapping[str, Tensor]]:
    """All state_dicts in a checkpoint, by where they are."""
    if _is_state_dict(content):
        return {key: cast("Mapping[str, Tensor]", content)}
    if not isinstance(content, Mapping):
        return {}
    found: dict[str, Mapping[str, Tensor]] = {}
    for name, value in content.items():
        if isinstance(name, str):  # an optimiser counts its tensors
            found |= _state_dicts(value, f"{key}.{name}" if key else name)
    return found


def read_state_dict(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """Read the state_dict in a file, whether alone or inside a checkpoint.

    Beside tensors and plain values, a checkpoint may hold NumPy's numbers and arrays, the options
    of ``argparse``, paths and dates; no code from the file is run.

    Args:
        path: A ``.safetensors`` file, or one written by ``torch.save`` that holds a state_dict or a
            dictionary with one.  Of several, the one under ``"model"`` or ``"state_dict"`` is read.

    Returns:
        The tensors by name.

    Raises:
        RuntimeError: If the file is missing, damaged or cannot be read without running code from
            it; the message names the type that could.
        ValueError: If it holds no state_dict, or several.
    """
    path = Path(path)
    if not path.is_file():
        raise RuntimeError(f"read_state_dict: weights must be a file, got {path}; check the path")
    if zipfile.is_zipfile(path) and (damage := find_damage(path)) is not None:
        raise RuntimeError(
            f"read_state_dict: the file must be as it was written, got {path}, which is {damage}; "
            "get it once more"
        )
    try:
        content = _read(path)
    except Exception as error:
        raise RuntimeError(
            f"read_state_dict: weights must load without running code, got {path}: "
            f"{_refusal(error)}"
        ) from error
    found = _state_dicts(content)
    usual: list[str] = [key for key in ("model", "state_dict") if key in found]
    candidates = usual[:1] or list(found)
    if len(candidates) != 1:
        held = f"{len(found)} of them ({', '.join(found)})" if found else type(content).__name__
        raise ValueError(
            f"read_state_dict: the file must hold a state_dict, got {held} in "
            f"{path}; save model.state_dict()"
        )
    return dict(found[candidates[0]])


def _without_prefixes(state: Mapping[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    """The state_dict, then without the first part that all names share, without two parts, ..."""
    names = list(state)
    while True:
        yield dict(zip(names, state.values(), strict=True))
        heads = {name.partition(".")[0] for name in names}
        if len(heads) != 1 or not all("." in name for name in names):
            return
        names = [name.partition(".")[2] for name in names]


def _misfits(state: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> list[str]:
    # Torchvision's first weights are older than batch norm's counter of batches.
    problems = [
        f"missing {name}"
        for name in expected
        if name not in state and not name.endswith(".num_batches_tracked")
    ]
    problems += [f"unexpected {name}" for name in state if name not in expected]
    problems += [
        f"{name} is {tuple(state[name].shape)}, not {tuple(value.shape)}"
        for name, value in expected.items()
        if name in state and state[name].shape != value.shape
    ]
    return problems


def _load(
    model: nn.Module,
    state: Mapping[str, Tensor],
    source: str,
    rename: Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]] = dict,
) -> None:
    """Load a state_dict strictly, or change nothing and name what does not fit.

    What all names begin with, ``module.`` of parallel wrappers or ``_orig_mod.`` of compiled
    networks, is taken off where the rest fits better.
    """
    expected = model.state_dict()
    tied: dict[int, list[str]] = {}
    for name, value in model.state_dict(keep_vars=True).items():
        tied.setdefault(id(value), []).append(name)
    candidates = []
    for shortened in _without_prefixes(state):
        candidate = dict(rename(shortened))
        for names in tied.values():  # a file may hold them under one name
            present = [candidate[name] for name in names if name in candidate]
            candidate |= {name: present[0] for name in names if len(present) == 1}
        candidates.append((_misfits(candidate, expected), candidate))
    problems, fitting = min(candidates, key=lambda candidate: len(candidate[0]))
    if problems:
        shown = ", ".join(problems[:3]) + (f" and {len(problems) - 3} more" * (len(problems) > 3))
        raise ValueError(
            f"load_weights: the weights must fit the network name for name, got {shown} in "
            f"{source}; build the network they were trained in, with the same num_classes"
        )
    # Without the version that a state_dict may carry, torch too forgives a missing counter.
    model.load_state_dict(fitting, strict=True)


def load_weights(
    model: nn.Module, weights: str | os.PathLike[str], *, torchvision_name: str | None = None
) -> None:
    """Load weights into a network; nothing is changed unless all of them fit.

    Args:
        model: The network.
        weights: A file, see ``read_state_dict``, or the name of torchvision weights.
        torchvision_name: Torchvision model whose weights mean the same in this network.

    Raises:
        ValueError: If the weights do not fit, or there are no torchvision weights of this name.
        RuntimeError: If the file cannot be read or the weights cannot be downloaded.
    """
    path = Path(weights)
    if path.suffix in _SUFFIXES or path.is_file() or len(path.parts) > 1:
        _load(model, read_state_dict(path), str(path))
        return
    name = str(weights).rpartition(".")[2]
    if torchvision_name is None:
        raise ValueError(
            "load_weights: torchvision weights fit the plain and _pa ImageNet networks only, got "
            f"{name!r} for another; pass the path of a file"
        )
    known = require("torchvision.models", extra="train").get_model_weights(torchvision_name)
    if name not in known.__members__:
        raise ValueError(
            f"load_weights: torchvision weights of {torchvision_name} must be one of "
            f"{', '.join(known.__members__)}, got {name!r}; a file needs one of the suffixes "
            f"{', '.join(_SUFFIXES)}"
        )
    try:
        state = known[name].get_state_dict(progress=False, check_hash=True)
    except OSError as error:
        raise RuntimeError(
            f"load_weights: {torchvision_name} {name} must be downloaded once, got {error}; "
            "pass the path of a file that you have"
        ) from error
    _load(model, state, name)


def save_weights(model: nn.Module, path: str | os.PathLike[str]) -> None:
    """Write a network's state_dict, whole or not at all.

    Args:
        model: The network.
        path: File to write, as safetensors if it ends in ``.safetensors``, else by ``torch.save``;
            tied weights are written once for each name in the former.

    Raises:
        TypeError: If the state_dict holds anything but tensors.
        RuntimeError: If the file cannot be written.
    """
    state = model.state_dict()
    others = [name for name, value in state.items() if not isinstance(value, Tensor)]
    if others:
        raise TypeError(
            f"save_weights: a state_dict must hold tensors alone, got "
            f"{type(state[others[0]]).__name__} at {others[0]}; save it with torch.save"
        )
    with replacing(path) as file:
        if Path(path).suffix == ".safetensors":
            # The format has no memory that two names share, and no other order than the usual one.
            alone = {name: value.clone(memory_format=_ROW_MAJOR) for name, value in state.items()}
            file.write(require("safetensors.torch", extra="train").save(alone))
        else:
            torch.save(state, file)


_FIXED_KERNEL = re.compile(r"(^|\.)filt$")
_NESTED_CONV = re.compile(r"(?<=\.)(conv\d)(?:\.1)+(?=\.weight$)|^(conv1)(?:\.1)+(?=\.weight$)")
_SHORTCUT = re.compile(r"^(.*\.downsample)\.(\d)\.(.*)$")


def published_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the tensors of a published checkpoint as torchvision names them.

    There a padded convolution sits in a Sequential behind its padding, and in a strided block
    behind the pool as well (``conv2.1.1.weight``); a strided shortcut starts with a pool, which
    moves its convolution and batch norm up by one; fixed filter kernels are stored.

    Args:
        state: The published state_dict, without the prefix ``module.``.

    Returns:
        The learned and running tensors under torchvision's names, in the same order.
    """
    learned = {name: value for name, value in state.items() if not _FIXED_KERNEL.search(name)}
    pooled_shortcuts = {
        match[1] for name in learned if (match := _SHORTCUT.match(name)) and match[2] == "2"
    }
    renamed = {}
    for name, value in learned.items():
        match = _SHORTCUT.match(name)
        if match and match[1] in pooled_shortcuts:
            name = f"{match[1]}.{int(match[2]) - 1}.{match[3]}"
        renamed[_NESTED_CONV.sub(lambda found: found[1] or found[2], name)] = value
    return renamed


def load_published(model: nn.Module, path: str | os.PathLike[str]) -> None:
    """Load a checkpoint of the published code into the network of the same architecture.

    Tensors are matched by name, see ``published_names``; where names differ all the same, by order
    and shape, which the published networks share with torchvision's.

    Args:
        model: The network, for instance ``create_model("resnet18_aps3")``.
        path: The checkpoint.

    Raises:
        ValueError: If the tensors do not fit; nothing is changed then.
        RuntimeError: If the file is missing or cannot be read without running code from it.
    """
    expected = model.state_dict()

    def rename(state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        renamed = published_names(state)
        same_order = len(renamed) == len(expected) and all(
            ours.shape == theirs.shape and name.rpartition(".")[2] == other.rpartition(".")[2]
            for (name, ours), (other, theirs) in zip(
                expected.items(), renamed.items(), strict=False
            )
        )
        if renamed.keys() != expected.keys() and same_order:
            return dict(zip(expected, renamed.values(), strict=True))
        return renamed

    _load(model, read_state_dict(path), str(path), rename)
