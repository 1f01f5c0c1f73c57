"""The names under which networks are built."""

import difflib
import fnmatch
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn

from shiftproof.models.weights import load_weights


@dataclass(frozen=True)
class ModelEntry:
    """One registered network.

    Attributes:
        build: Builds it; keyword arguments are those of ``create_model`` but for ``weights``.
        torchvision_name: Name of the torchvision model whose weights mean the same in it; None if
            there is none.
    """

    build: Callable[..., nn.Module]
    torchvision_name: str | None = None


_ENTRIES: dict[str, ModelEntry] = {}


def register_model(name: str, entry: ModelEntry) -> None:
    """Add a network to the registry.

    Args:
        name: Name for ``create_model``.
        entry: How to build it.

    Raises:
        ValueError: If the name is taken.
    """
    if name in _ENTRIES:
        raise ValueError(f"register_model: names must be unique, got {name!r} twice; rename one")
    _ENTRIES[name] = entry


def list_models(pattern: str = "*") -> list[str]:
    """List the registered names.

    Args:
        pattern: Shell pattern, for instance ``"resnet18*"``.

    Returns:
        Matching names, in order of registration: by trunk, then plain, low-pass, adaptive.

    Examples:
        >>> list_models("resnet18_*3")
        ['resnet18_lpf3', 'resnet18_aps3']
    """
    return [name for name in _ENTRIES if fnmatch.fnmatchcase(name, pattern)]


def create_model(
    name: str,
    *,
    num_classes: int | None = None,
    in_channels: int = 3,
    weights: str | os.PathLike[str] | None = None,
    **options: Any,
) -> nn.Module:
    """Build a network by name.

    ``<trunk>`` strides as torchvision does; ``<trunk>_lpf<k>`` blurs with a k x k binomial filter
    before it strides (``_lpf1`` is the paper's baseline); ``<trunk>_aps<k>`` keeps the phase that
    the blurred map selects; ``<trunk>_pa`` aligns the input of each strided block of the plain
    network with the phase that it selects, at the plain network's cost and with its weights.

    Args:
        name: Registered name, see ``list_models``.
        num_classes: Number of logits; that of the trunk's data set if None.
        in_channels: Channels of the input.
        weights: A file (``.safetensors``, or a state_dict or checkpoint that torch can load without
            running code), or the name of torchvision weights, for instance ``"IMAGENET1K_V1"``,
            which torchvision downloads; random if None.  Torchvision's were trained with zero
            padding: with circular padding they lose accuracy until they are fine-tuned.
        **options: ``padding_mode``: ``"circular"`` (default), ``"zeros"`` or ``"reflect"``.
            ``selector``: module that scores phases, copied for each place (``_aps`` and ``_pa``).
            ``pool_only``: keep the stem's strided convolution (ImageNet ``_lpf`` and ``_aps``; the
            network is then not shift invariant).  ``score_before_lowpass``: score the unfiltered
            map in residual blocks (``_aps``; default for CIFAR trunks only).

    Returns:
        The network, in training mode.

    Raises:
        ValueError: If the name or an option is unknown, or the weights do not fit the network.
        RuntimeError: If the weights cannot be read.

    Examples:
        >>> model = create_model("cifar_resnet20_aps3", num_classes=10)
        >>> model.is_shift_invariant, model.total_stride
        (True, 4)
    """
    entry = _ENTRIES.get(name)
    if entry is None:
        near = difflib.get_close_matches(name, _ENTRIES, n=3, cutoff=0.5)
        shown = f"did you mean {', '.join(near)}?" if near else "list_models() names them"
        raise ValueError(f"create_model: name must be a registered model, got {name!r}; {shown}")
    model = entry.build(name, num_classes=num_classes, in_channels=in_channels, **options)
    if weights is not None:
        load_weights(model, weights, torchvision_name=entry.torchvision_name)
    return model
