"""The command ``shiftproof audit``."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

from shiftproof.audit.images import list_pictures, read_photographs
from shiftproof.audit.run import AuditConfig, run_audit
from shiftproof.audit.subjects import load_subject
from shiftproof.files import writing
from shiftproof.results.audit import AuditResult
from shiftproof.training.allocator import keep_freed_memory


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
        args: What ``options.add_arguments`` parsed.

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
