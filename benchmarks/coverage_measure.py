"""One network, from the library to its certificate."""

import hashlib
import math
import re
import time
import traceback
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import shiftproof
from benchmarks.coverage_models import HUGE, Subject, build, draw_images, named, respond, wake
from benchmarks.coverage_page import Row


@dataclass(frozen=True)
class Tools:
    """The calls under test."""

    convert: Callable[..., Any]
    refusal: type[Exception]
    certify: Callable[..., Any] = shiftproof.certify

    @classmethod
    def load(cls) -> "Tools":
        from shiftproof.conversion import ConversionError, convert

        return cls(convert, ConversionError)


def digest() -> str:
    """Which state of the package was measured."""
    total = hashlib.sha256()
    folder = Path(shiftproof.__file__).parent
    for path in sorted(folder.rglob("*.py")):
        total.update(f"{path.relative_to(folder)}".encode() + path.read_bytes())
    return total.hexdigest()[:12]


def unseen_shifts(size: int) -> list[list[int]]:
    """Five random shifts of every parity, none of them among the defaults of ``certify``."""
    generator = torch.Generator().manual_seed(20)
    halves = torch.randint(1, size // 2 - 1, (5, 2), generator=generator)
    parities = torch.tensor([[1, 1], [0, 1], [1, 0], [0, 0], [1, 1]])
    return (2 * halves + parities).tolist()


def other_size(error: Exception, tried: list[int]) -> int | None:
    """The nearest size that a refusal names behind its last semicolon and that was not tried."""
    way_out = str(error).rpartition(";")[2]
    named_sizes = {int(a) for a, b in re.findall(r"\b(\d+) ?x ?(\d+)\b", way_out) if a == b}
    named_sizes = {size for size in named_sizes if 32 <= size <= 512} - set(tried)
    return min(named_sizes, key=lambda size: (abs(size - tried[0]), -size), default=None)


def _full_size(alignments: Iterable[Any]) -> tuple[str, str]:
    """Size of the first map that is aligned by its full size, and why; empty if none is."""
    for one in alignments:
        if one.full and math.prod(one.stride) > 1:
            return "x".join(map(str, one.stride)), "; ".join(one.reasons)
    return "", ""


def of_plan(plan: Any) -> dict[str, Any]:
    """What a row says of a plan."""
    found: dict[str, Any] = {
        name: len(getattr(plan, name)) for name in ("alignments", "paddings", "geometry")
    }
    found["full_size"], found["reasons"] = _full_size(plan.alignments)
    return {**found, "any_size": plan.any_size}


def of_certificate(certificate: Any, measured: Any) -> dict[str, Any]:
    """What a row says of a certificate, by one of its two measurements."""
    largest = measured.largest
    return {
        "deviation": largest if math.isfinite(largest) else None,  # JSON has no infinity
        "tolerance": measured.tolerance,
        "notes": list(certificate.notes),
        "verdict": certificate.verdict,
        "detail": "" if certificate.blame is None else str(certificate.blame),
    }


def of_failure(error: Exception, step: str) -> dict[str, Any]:
    """What a row says of an error that is no refusal."""
    text = " ".join(str(error).split())[:300]
    return {"verdict": "failed", "detail": f"{step}: {type(error).__name__}: {text}"}


def _require_same_weights(before: dict[str, Tensor], after: dict[str, Tensor]) -> None:
    if list(before) != list(after):
        changed = sorted(set(before) ^ set(after)) or ["their order"]
        raise ValueError(f"the state_dict has other keys: {', '.join(changed[:5])}")
    for name, value in before.items():
        if not torch.equal(value, after[name]):
            raise ValueError(f"the state_dict has another value of {name}")


def _convert(subject: Subject, tools: Tools, found: dict[str, Any]) -> Any:
    """Convert at the first size that is not refused; notes what it does in ``found``."""
    size, tried, refusals = subject.size, [], []
    while True:
        tried.append(size)
        found["step"] = "build"
        model, size = build(subject, size)
        tried.append(size)
        found["size"] = size
        found["remark"] = "; ".join(refusals)
        found["parameters"] = sum(value.numel() for value in model.parameters())
        found["images"] = 1 if found["parameters"] > HUGE else 2
        found["step"] = "wake"
        wake(model, size)
        found["step"] = "convert"
        before = {name: value.clone() for name, value in model.state_dict().items()}
        try:
            conversion = tools.convert(model, draw_images(found["images"], size))
        except tools.refusal as error:
            refusals.append(f"{size} px is refused: {error}")
            size = other_size(error, tried)
            if size is None or len(refusals) > 3:
                raise
        else:
            _require_same_weights(before, conversion.model.state_dict())
            return conversion


def measure(
    subject: Subject, tools: Tools | None = None, code: str = "", threads: int = 0
) -> tuple[Row, str]:
    """Build, wake, convert and certify one network.

    Args:
        subject: The network.
        tools: The calls under test; those of the package if None.
        code: What ``digest`` gave when the run started.
        threads: Threads to compute with; torch's default if 0.

    Returns:
        The row, and all that was said on the way.
    """
    warnings.simplefilter("ignore")
    if threads:
        torch.set_num_threads(threads)
    start = time.monotonic()
    found: dict[str, Any] = {"step": "build"}
    said: list[str] = []
    tools = tools or Tools.load()
    try:
        subject = named(subject)
        start = time.monotonic()  # counting parameters is no part of it
        conversion = _convert(subject, tools, found)
        summary = conversion.summary
        said.append(str(summary))
        found.update(of_plan(summary), step="settle")
        found["response"] = respond(conversion.model, found["size"])
        found["step"] = "certify"
        model, found["shifts"] = conversion.model.double().eval(), unseen_shifts(found["size"])
        images = draw_images(found["images"], found["size"]).double()
        certificate = tools.certify(model, images, shifts=found["shifts"])
        said.append(str(certificate))
        found.update(of_certificate(certificate, certificate.own))
    except tools.refusal as error:
        found.update(verdict="refused", detail=str(error))
        said.append(traceback.format_exc())
    except Exception as error:
        found.update(of_failure(error, found["step"]))
        said.append(traceback.format_exc())
    del found["step"]
    return Row.of(subject, **found, code=code, seconds=time.monotonic() - start), "\n".join(said)
