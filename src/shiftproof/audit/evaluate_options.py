"""What ``shiftproof eval`` takes: its options, and what they mean."""

from __future__ import annotations

import argparse
import ast
import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from shiftproof.metrics import PROTOCOLS, Protocol, protocol
from shiftproof.models.named import FORMS

FILES = (".onnx", ".pt2")
"""Endings of networks that are files and bring their weights."""


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Tell a parser what an evaluation takes.

    Args:
        command: The parser.
    """
    add = command.add_argument
    add("models", nargs="+", metavar="MODEL", help=f"{FORMS}, FILE.onnx or FILE.pt2")
    add(
        "--data",
        type=Path,
        required=True,
        metavar="DIR",
        help="CIFAR-10, a folder with val/<class>/*, or class folders",
    )
    add(
        "--protocol",
        action="append",
        metavar="NAME",
        help=f"{', '.join(PROTOCOLS)}, or NAME(field=value, ...); several times for several; "
        "circular if none is given",
    )
    add(
        "--weights",
        action="append",
        metavar="FILE",
        help="state_dict or checkpoint, or DEFAULT: once for all networks, or once for each that "
        "is no file, in their order, with - for none",
    )
    add("--untrained", action="store_true", help="random weights where none are given")
    add("--out", type=Path, metavar="DIR", help="where results go, one file per network")
    add("--size", type=int, help="height and width of the networks' images, in pixels")
    add("--resize", type=int, help="shorter side of photographs before the window is cut")
    add("--mean", type=float, nargs="+", help="normalisation, of images in [0, 1]")
    add("--std", type=float, nargs="+", help="normalisation, of images in [0, 1]")
    add(
        "--classes",
        choices=("auto", "sorted"),
        default="auto",
        help="which output stands for a class folder: by WordNet id where there are 1,000 outputs, "
        "or in sorted order",
    )
    add("--batch-size", type=int, default=256, help="images per batch, which may share a shift")
    add("--seed", type=int, default=0, help="of the shifts")
    add("--workers", type=int, default=4, help="processes that load images")
    add("--device", help="cpu, or the index of a CUDA device")
    add("--json", action="store_true", help="print JSON")


def read_protocol(text: str) -> Protocol:
    """A protocol as the command line names it.

    Args:
        text: A name, or ``NAME(field=value, ...)``, as results are called.

    Returns:
        The protocol.

    Raises:
        ValueError: If there is no such protocol, or a field or value is wrong.

    Examples:
        >>> read_protocol("aps-cifar-test(max_shift=5)").name
        'aps-cifar-test(max_shift=5)'
    """
    found = re.fullmatch(r"([^()]*)(?:\((.*)\))?", text.strip())
    fields: dict[str, Any] = {}
    try:
        name, inside = (found[1], found[2] or "") if found else (text, "")
        call = ast.parse(f"f({inside})", mode="eval").body
        assert isinstance(call, ast.Call)
        for keyword in call.keywords:
            fields[str(keyword.arg)] = ast.literal_eval(keyword.value)
        valid = not call.args
    except (SyntaxError, ValueError):
        valid = False
    if not valid:
        raise ValueError(
            f"--protocol: fields must be NAME(field=value, ...), got {text!r}; leave them out, or "
            "write for instance aps-cifar-test(max_shift=5)"
        )
    return protocol(name, **fields)


def assign_weights(models: Sequence[str], weights: Sequence[str] | None) -> list[str | None]:
    """The weights of each network.

    Args:
        models: The networks as they are named.
        weights: What ``--weights`` was given, once for all networks or once for each that is no
            file; None if it was not.

    Returns:
        One entry per network; None for none.

    Raises:
        ValueError: If their number fits neither.
    """
    given = [None if name == "-" else name for name in weights or ()]
    takers = [number for number, name in enumerate(models) if Path(name).suffix not in FILES]
    if len(given) == 1:
        given *= len(takers)
    if given and len(given) != len(takers):
        raise ValueError(
            f"--weights: must be given once, or once for each of {len(takers)} networks that are "
            f"no files, got {len(given)}; pass - for a network that needs none"
        )
    assigned: list[str | None] = [None] * len(models)
    for number, name in zip(takers, given, strict=False):
        assigned[number] = name
    return assigned


def distinct_names(models: Sequence[str], weights: Sequence[str | None]) -> list[str]:
    """What the networks are called: with their weights where a name comes twice.

    Args:
        models: The networks as they are named.
        weights: The weights of each.

    Returns:
        A name for each, no two alike.
    """
    names = [
        f"{model} ({Path(file).stem})" if models.count(model) > 1 and file else model
        for model, file in zip(models, weights, strict=True)
    ]
    for number, name in enumerate(names):
        if names.count(name) > 1:
            names[number] = f"{name} #{number + 1}"
    return names


def fingerprint(text: str | None) -> str | None:
    """What tells a file from another one of its name.

    Args:
        text: A file, or ``FILE.py:CALLABLE``, or any other text.

    Returns:
        The text, with the start of the file's SHA-256 sum where it names a file.
    """
    path = Path(str(text).rpartition(":")[0] if ".py:" in str(text) else str(text))
    if text is None or not path.is_file():
        return text
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while part := file.read(1 << 20):
            digest.update(part)
    return f"{text} sha256:{digest.hexdigest()[:16]}"
