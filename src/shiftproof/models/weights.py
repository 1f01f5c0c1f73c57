"""Reading weights: files, torchvision's, and the checkpoints of the published code."""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from shiftproof.extras import require
from shiftproof.results import replacing

_SUFFIXES = (".safetensors", ".pt", ".pth", ".tar", ".bin")


def read_state_dict(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """Read the state_dict in a file, whether alone or inside a checkpoint.

    Args:
        path: A ``.safetensors`` file, or one written by ``torch.save`` that holds a state_dict or a
            dictionary with one under ``"model"`` or ``"state_dict"``.

    Returns:
        The tensors by name, without the prefix ``module.`` of parallel wrappers.

    Raises:
        RuntimeError: If the file is missing or cannot be read without running code from it.
        ValueError: If it holds no state_dict.
    """
    path = Path(path)
    if not path.is_file():
        raise RuntimeError(f"read_state_dict: weights must be a file, got {path}; check the path")
    safetensors = path.suffix == ".safetensors" and require("safetensors.torch", extra="train")
    try:
        content: Any = (
            safetensors.load_file(path)
            if safetensors
            else torch.load(path, map_location="cpu", weights_only=True)
        )
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise RuntimeError(
            f"read_state_dict: weights must load without running code, got {path} "
            f"({reason}); save the plain state_dict"
        ) from error
    for key in ("model", "state_dict"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if (
        not isinstance(content, Mapping)
        or not content
        or not all(isinstance(value, Tensor) for value in content.values())
    ):
        raise ValueError(
            f"read_state_dict: the file must hold a state_dict, got {type(content).__name__} in "
            f"{path}; save model.state_dict()"
        )
    return {str(name).removeprefix("module."): value for name, value in content.items()}


def _load(model: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Load a state_dict strictly, or change nothing and name what does not fit."""
    expected = model.state_dict()
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
    if problems:
        shown = ", ".join(problems[:3]) + (f" and {len(problems) - 3} more" * (len(problems) > 3))
        raise ValueError(
            f"load_weights: the weights must fit the network name for name, got {shown} in "
            f"{source}; build the network they were trained in, with the same num_classes"
        )
    # Without the version that a state_dict may carry, torch too forgives a missing counter.
    model.load_state_dict(dict(state), strict=True)


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
        path: File to write, as safetensors if it ends in ``.safetensors``, else by ``torch.save``.
    """
    state = {name: value.contiguous() for name, value in model.state_dict().items()}
    with replacing(path) as file:
        if Path(path).suffix == ".safetensors":
            file.write(require("safetensors.torch", extra="train").save(state))
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
    state = published_names(read_state_dict(path))
    expected = model.state_dict()
    same_order = len(state) == len(expected) and all(
        ours.shape == theirs.shape and name.rpartition(".")[2] == other.rpartition(".")[2]
        for (name, ours), (other, theirs) in zip(expected.items(), state.items(), strict=False)
    )
    if state.keys() != expected.keys() and same_order:
        state = dict(zip(expected, state.values(), strict=True))
    _load(model, state, str(path))
