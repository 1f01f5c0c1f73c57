"""Networks as a command line names them: of this zoo, of other libraries, or the user's own."""

import contextlib
import difflib
import importlib
import importlib.util
import inspect
import os
import sys
import urllib.error
from pathlib import Path
from typing import Any

from torch import nn

from shiftproof.extras import require
from shiftproof.models.registry import create_model
from shiftproof.models.weights import load_weights

FORMS = (
    "a name of shiftproof list, torchvision:NAME, timm:NAME, MODULE:CALLABLE or FILE.py:CALLABLE"
)
"""How a network may be named."""


def _choose_weights(name: str, weights: str | None, untrained: bool) -> None:
    """Refuse both or neither: random weights are never taken in silence."""
    if weights is None and not untrained:
        raise ValueError(
            f"{name}: weights must be named, got none; pass --weights DEFAULT for the library's "
            "own, --weights FILE, or --untrained for random ones"
        )
    if weights is not None and untrained:
        raise ValueError(f"{name}: --weights and --untrained exclude each other; leave one out")


def _of_torchvision(name: str, weights: str | None) -> nn.Module:
    models = require("torchvision.models", extra="train")
    known = models.list_models()
    if name not in known:
        near = ", ".join(difflib.get_close_matches(name, known)) or "torchvision.models.list_models"
        raise ValueError(
            f"torchvision: the network must be one of torchvision's, got {name!r}; try {near}"
        )
    parameters = inspect.signature(models.get_model_builder(name)).parameters
    options: dict[str, Any] = dict.fromkeys(("weights", "weights_backbone"))
    options = {key: value for key, value in options.items() if key in parameters}
    if weights == "DEFAULT":
        options["weights"] = "DEFAULT"
    model: nn.Module = models.get_model(name, **options)
    return model


def _of_timm(name: str, weights: str | None) -> nn.Module:
    timm = require("timm", extra="timm")
    if not timm.is_model(name):
        near = ", ".join(difflib.get_close_matches(name, timm.list_models())) or "another"
        raise ValueError(f"timm: the network must be one of timm's, got {name!r}; try {near}")
    model: nn.Module = timm.create_model(name, pretrained=weights == "DEFAULT")
    return model


def _own(source: str, name: str) -> nn.Module:
    """What the user's own function or class returns."""
    if source.endswith(".py"):
        path = Path(source)
        if not path.is_file():
            raise ValueError(f"{source}:{name}: the file must exist, got none; check the path")
        spec = importlib.util.spec_from_file_location(path.stem, path)
        assert spec is not None
        assert spec.loader is not None
        module = sys.modules[path.stem] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    else:
        sys.path.insert(0, os.getcwd())  # noqa: PTH109 - as python -m does, a string
        try:
            module = importlib.import_module(source)
        except ModuleNotFoundError as error:
            raise ValueError(
                f"{source}:{name}: the module must be importable, got {error}; {FORMS}"
            ) from error
        finally:
            sys.path.pop(0)
    made = getattr(module, name, None)
    if made is None:
        raise ValueError(f"{source}:{name}: the module must have it, got no {name}; check its name")
    model = made
    if callable(made) and not isinstance(made, nn.Module):
        try:
            model = made()
        except Exception as error:  # whatever the user's code raises
            raise ValueError(
                f"{source}:{name}: it must be callable without arguments, got "
                f"{type(error).__name__} ({' '.join(str(error).split())}); name a function that "
                "builds the network"
            ) from error
    if not isinstance(model, nn.Module):
        raise ValueError(
            f"{source}:{name}: it must be or return a torch.nn.Module, got "
            f"{type(model).__name__}; name a function without arguments that builds the network"
        )
    return model


def named_model(name: str, weights: str | None = None, *, untrained: bool = False) -> nn.Module:
    """Build the network that a command line names.

    Args:
        name: See ``FORMS``.
        weights: ``"DEFAULT"`` for the library's own, or a file; see ``load_weights``.  None only
            with ``untrained``, or for the user's own network, which brings its own.
        untrained: Whether random weights will do.

    Returns:
        The network.

    Raises:
        ValueError: If there is no such network, the weights do not fit, or none are named.
        RuntimeError: If a file cannot be read, or the library's weights cannot be fetched.
    """
    library, colon, rest = name.rpartition(":")
    if weights not in (None, "DEFAULT") and not Path(str(weights)).is_file():
        raise RuntimeError(f"--weights: DEFAULT or a file, got {weights}; check the path")
    is_own = bool(colon) and library not in ("torchvision", "timm")
    if is_own and (weights == "DEFAULT" or untrained):
        raise ValueError(
            f"{name}: an own network brings its weights or takes --weights FILE, got "
            f"{'--untrained' if untrained else 'DEFAULT'}; leave it out"
        )
    if not is_own:
        _choose_weights(name, weights, untrained)
    try:
        with contextlib.redirect_stdout(sys.stderr):  # where downloads and own networks talk
            if library == "torchvision":
                model = _of_torchvision(rest, weights)
            elif library == "timm":
                model = _of_timm(rest, weights)
            elif is_own:
                model = _own(library, rest)
            else:
                model = create_model(name, weights=weights)
                weights = None
    except (urllib.error.URLError, OSError) as error:
        reason = " ".join(str(error).split())
        raise RuntimeError(
            f"{name}: the library's weights must be downloaded once, got {reason[:200]}; pass "
            "--weights FILE with a file that you have"
        ) from error
    if weights not in (None, "DEFAULT"):
        load_weights(model, str(weights))
    return model
