"""The command ``shiftproof audit``."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

from shiftproof.audit.contenders import REMEDIES
from shiftproof.audit.images import list_pictures, read_photographs
from shiftproof.audit.run import AuditConfig, run_audit
from shiftproof.audit.subjects import load_subject
from shiftproof.files import writing
from shiftproof.models.named import FORMS
from shiftproof.results.audit import AuditResult, Kind
from shiftproof.training.allocator import keep_freed_memory


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


def check_writable(path: Path) -> None:
    """Refuse a place that cannot be written to before anything is measured.

    Args:
        path: The page that will be written.

    Raises:
        RuntimeError: If its folder is missing or may not be written to, or it is a folder.
    """
    if path.is_dir():
        raise RuntimeError(f"{path}: --out must name a file, got a folder; add audit.html")
    if path.suffix not in (".html", ".htm"):
        raise RuntimeError(f"{path}: --out must end in .html, got {path.name}; rename it")
    with writing(path), tempfile.TemporaryFile(dir=path.absolute().parent):
        pass


def audit(args: argparse.Namespace) -> AuditResult:
    """Measure what the arguments ask for.

    Args:
        args: What ``add_arguments`` parsed.

    Returns:
        What was found.

    Raises:
        RuntimeError: If there are no images, or the page cannot be written.
        ValueError: If an argument is wrong.
    """
    if args.images < 1:
        raise ValueError(f"audit: --images must be at least 1, got {args.images}; enlarge it")
    check_writable(args.out)
    keep_freed_memory()
    config = AuditConfig(
        data=str(args.data),
        against=args.against,
        step=args.step,
        shifts=args.shifts,
        num_maps=args.maps,
        seconds=args.seconds,
        stride=args.stride,
    )
    pictures = list_pictures("audit", args.data).spread(args.images)
    photographs, unreadable = read_photographs("audit", pictures)
    subject = load_subject(
        args.model,
        args.weights,
        untrained=args.untrained,
        size=args.size,
        mean=args.mean,
        std=args.std,
        name=args.name,
    )
    options: dict[str, Any] = {"unreadable": unreadable, "report": _say}
    return run_audit(subject, photographs, pictures.folders, config, **options)


def _say(text: str) -> None:
    print(f"audit: {text}", file=sys.stderr, flush=True)
