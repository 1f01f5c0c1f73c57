"""What ``shiftproof audit`` takes."""

from __future__ import annotations

import argparse
from pathlib import Path

from shiftproof.models.named import FORMS
from shiftproof.results.audit import Kind

REMEDIES: tuple[Kind, ...] = ("locked", "converted")
"""What a network can be compared against."""


def _remedies(text: str) -> tuple[Kind, ...]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    known = {str(kind): kind for kind in REMEDIES}
    wrong = [name for name in names if name not in known]
    if wrong:
        raise argparse.ArgumentTypeError(f"{wrong[0]!r} is none of {', '.join(known)}")
    return tuple(known[name] for name in dict.fromkeys(names))


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Tell a parser what an audit takes.

    Args:
        command: The parser.
    """
    add = command.add_argument
    add("model", help=f"{FORMS}, FILE.onnx or FILE.pt2")
    add("--data", type=Path, required=True, metavar="DIR", help="class folders, or a flat folder")
    add("--out", type=Path, default=Path("audit.html"), metavar="HTML", help="the page to write")
    add(
        "--against",
        type=_remedies,
        default=REMEDIES,
        metavar="NAMES",
        help="locked,converted: what to build and compare with; '' for nothing",
    )
    add("--images", type=int, default=20, help="images, spread evenly over the classes")
    add("--maps", type=int, default=5, help="pictures that are shown with maps and strips")
    add("--shifts", type=int, help="pixels that the maps cover; 32, less for small networks")
    add("--step", type=int, help="pixels between shifts of the maps; what fits the time")
    add("--seconds", type=float, default=170.0, help="time to fit, from which the step follows")
    add("--weights", metavar="FILE", help="state_dict or checkpoint, or DEFAULT")
    add("--untrained", action="store_true", help="random weights")
    add("--size", type=int, help="height and width of the network's images, in pixels")
    add("--stride", type=int, help="total stride of the network; found if not given")
    add("--mean", type=float, nargs="+", help="normalisation, of images in [0, 1]")
    add("--std", type=float, nargs="+", help="normalisation, of images in [0, 1]")
    add("--name", help="what the network is called on the page")
