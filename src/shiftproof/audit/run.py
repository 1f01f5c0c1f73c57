"""The whole audit: every part in turn, and a reason where a part cannot be measured."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from shiftproof.audit.causes import (
    causes_of,
    certificate_of,
    measure_costs,
    measure_radii,
    seconds_per_image,
)
from shiftproof.audit.choices import measure_choices
from shiftproof.audit.contenders import Contender, Scenes, build_contenders, find_stride
from shiftproof.audit.images import Photograph
from shiftproof.audit.labels import Labels, match_labels
from shiftproof.audit.measure import (
    Pans,
    answers_at,
    map_shifts,
    measure_distances,
    measure_maps,
    measure_pans,
    measure_strips,
)
from shiftproof.audit.pictures import (
    choose_shown,
    encode_jpeg,
    make_scenes,
    names_of_classes,
    notes_of,
)
from shiftproof.audit.subjects import Subject
from shiftproof.results import Environment, MeanResult
from shiftproof.results.audit import (
    AuditResult,
    Cause,
    Distance,
    Kind,
    NetworkAudit,
    Picture,
    ShiftMap,
)

_NOT_BUILT = "could not be built; the reason stands under the table"
_NO_CIRCLE = "a lock cuts its window out of a larger picture; a circle has none"

STEPS = (1, 2, 4, 8, 16)
"""Pixels from one shift of a map to the next, of which the first that fits the time is taken."""


@dataclass(frozen=True)
class AuditConfig:
    """What to measure.

    Attributes:
        data: Where the images came from, for the page.
        against: Remedies to compare with.
        step: Pixels from one shift of the maps to the next; what fits the time if None.
        shifts: Pixels that the maps cover along each axis; 32 if None, less for small networks.
        num_maps: Pictures that are shown with maps and strips.
        seconds: Time that all should take at most; the step of the maps follows from it.
        stride: Total stride of the network; found if None.
    """

    data: str
    against: tuple[Kind, ...] = ()
    step: int | None = None
    shifts: int | None = None
    num_maps: int = 5
    seconds: float = 170.0
    stride: int | None = None

    def __post_init__(self) -> None:
        if self.step is not None and self.step < 1:
            raise ValueError(f"audit: --step must be at least 1, got {self.step}; enlarge it")
        if self.shifts is not None and (self.shifts < 2 or self.shifts % 2):
            raise ValueError(
                f"audit: --shifts must be an even number of pixels, at least 2, got {self.shifts}; "
                "pass for instance 32"
            )
        if self.num_maps < 1:
            raise ValueError(f"audit: --maps must be at least 1, got {self.num_maps}; enlarge it")


@dataclass
class _Part:
    """One network, while it is being measured."""

    contender: Contender
    found: dict[str, Any] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    inapplicable: dict[str, str] = field(default_factory=dict)

    def attempt(self, name: str, measure: Callable[..., Any], default: Any) -> Any:
        """Measure something; what fails is missing, with the reason."""
        if self.contender.reason:
            self.missing[name] = _NOT_BUILT
            return default
        try:
            return measure()
        except Exception as error:  # whatever a stranger's network raises
            text = " ".join(str(error).split()) or type(error).__name__
            self.missing[name] = text[:300]
            return default


def _labels(photographs: Sequence[Photograph], folders: Sequence[str], outputs: int) -> Labels:
    try:
        return match_labels(folders, outputs)
    except RuntimeError as error:  # the list of WordNet ids is not installed
        return Labels(None, None, str(error))


def run_audit(
    subject: Subject,
    photographs: Sequence[Photograph],
    folders: Sequence[str],
    config: AuditConfig,
    *,
    unreadable: Sequence[str] = (),
    report: Callable[[str], None] = lambda text: None,
) -> AuditResult:
    """Measure what a shift does to a network and to its remedies.

    Args:
        subject: The network.
        photographs: The images.
        folders: Names of the class folders; empty if there are none.
        config: What to measure.
        unreadable: Files that could not be read.
        report: Is told what is being done.

    Returns:
        What was found; what could not be measured is missing in it, with the reason.
    """
    start = time.monotonic()
    report("looking for the total stride")
    stride, source = (config.stride, "as given") if config.stride else find_stride(subject)
    scenes = make_scenes(subject, photographs, stride, config.shifts)
    labels = _labels(photographs, folders, subject.num_outputs)
    true: list[int] | None = None
    if labels.indices is not None:
        true = [labels.indices[p.number] for p in photographs if p.number is not None]
    contenders = build_contenders(subject, config.against, stride, source, report)
    parts = [_Part(contender) for contender in contenders]
    first: Pans | None = None
    for index, part in enumerate(parts):
        report(f"{part.contender.kind}: {len(photographs)} images under shifts and pans")
        pans: Pans | None = part.attempt(
            "pan", lambda p=part: measure_pans(p.contender, scenes), None
        )
        part.found["pan"] = None if pans is None else pans.result
        first = pans if index == 0 else first
        _measure_distances(part, scenes, true, labels.reason)
    chosen = choose_shown(first, true, len(photographs), config.num_maps)
    shown = scenes.subset(chosen)
    pictures = _pictures(parts[0], shown, [photographs[i] for i in chosen], true, chosen)
    references = [picture.reference for picture in pictures]
    for part in parts:
        report(f"{part.contender.kind}: strips, choices and causes")
        reach = scenes.room // 2
        part.found["strips"] = part.attempt(
            "strips",
            lambda p=part, r=reach: measure_strips(p.contender, shown, references, r),
            (),
        )
        _explain(part, shown)
    _compare_costs(parts, scenes, report)
    step = config.step or _fitting_step(parts, shown, config.seconds - (time.monotonic() - start))
    shifts = map_shifts(scenes.room, step)
    for part in parts:
        report(f"{part.contender.kind}: maps of {len(shifts)} x {len(shifts)} shifts")
        part.found["maps"] = _maps(part, shown, references, shifts)
    networks = tuple(
        NetworkAudit(
            kind=part.contender.kind,
            description=_described(part.contender),
            missing=part.missing,
            inapplicable=part.inapplicable,
            **part.found,
        )
        for part in parts
    )
    return AuditResult(
        model=subject.name,
        size=subject.size,
        stride=stride,
        num_images=len(photographs),
        step=step,
        networks=networks,
        pictures=pictures,
        class_names=names_of_classes(networks, pictures, labels),
        labels_missing=labels.reason,
        config=_config(subject, scenes, config, source),
        environment=Environment.collect(str(subject.device), torch.get_num_threads()),
        seconds=round(time.monotonic() - start, 1),
        notes=notes_of(photographs, scenes),
        unreadable=tuple(unreadable),
    )


def _described(contender: Contender) -> str:
    if contender.reason:
        return f"could not be built: {contender.reason}"
    return contender.description


def _measure_distances(
    part: _Part, scenes: Scenes, true: Sequence[int] | None, reason: str
) -> None:
    distances: list[Distance] = []
    crop, accuracy = part.attempt(
        "distances", lambda: measure_distances(part.contender, scenes, true, "crop"), ((), None)
    )
    distances += crop
    if part.contender.lock is None:
        circular, _ = part.attempt(
            "circular distances",
            lambda: measure_distances(part.contender, scenes, true, "circular"),
            ((), None),
        )
        distances += circular
    else:
        part.inapplicable["circular"] = _NO_CIRCLE
    if accuracy is None and "distances" not in part.missing:
        part.missing["accuracy"] = reason
    elif accuracy is None:
        part.missing["accuracy"] = part.missing["distances"]
    part.found |= {"accuracy": accuracy, "distances": tuple(distances)}


def _pictures(
    part: _Part,
    shown: Scenes,
    photographs: Sequence[Photograph],
    true: Sequence[int] | None,
    chosen: Sequence[int],
) -> tuple[Picture, ...]:
    still = torch.zeros(1, 2, dtype=torch.int64)
    answers = part.attempt(
        "reference", lambda: answers_at(part.contender, shown, still).classes[0].tolist(), None
    )
    part.missing.pop("reference", None)  # what fails here fails everywhere else too
    found = []
    for index, photograph in enumerate(photographs):
        label = None if true is None else true[chosen[index]]
        answer = None if answers is None or answers[index] < 0 else answers[index]
        found.append(
            Picture(
                Path(photograph.path).name,
                label,
                answer if label is None else label,
                encode_jpeg(shown.pixels[index]),
                shown.pixels.shape[-1],
            )
        )
    return tuple(found)


def _explain(part: _Part, shown: Scenes) -> None:
    contender = part.contender
    found: dict[str, Any] = {"choices": (), "verdict": None, "causes": (), "radii": ()}
    if contender.reason:
        part.missing |= {"choices": _NOT_BUILT, "causes": _NOT_BUILT}
        part.found |= found
        return
    found["choices"] = part.attempt("choices", lambda: measure_choices(contender, shown), ())
    if not found["choices"] and "choices" not in part.missing:
        if contender.subject.module is None:
            part.missing["choices"] = "the inside of a file is not looked at"
        else:
            part.inapplicable["choices"] = "no stage chooses: every stride keeps phase 0"
    if contender.lock is not None:
        part.inapplicable["causes"] = "the layers stay as they are; the lock stands in front"
        found["radii"] = part.attempt("radii", lambda: measure_radii(contender, shown), ())
    else:
        if contender.subject.module is None:
            part.missing["causes"] = "the layers of a file are not followed"
        else:
            certificate = part.attempt("causes", lambda: certificate_of(contender, shown), None)
            if certificate is not None:
                causes: tuple[Cause, ...] = causes_of(certificate)
                found |= {"verdict": certificate.verdict, "causes": causes}
                if not causes and not certificate.is_invariant:
                    notes = [note for note in certificate.notes if "followed" in note]
                    part.missing["causes"] = next(iter(notes), "no layer was found")
    part.found |= found


def _compare_costs(parts: Sequence[_Part], scenes: Scenes, report: Callable[[str], None]) -> None:
    report("timing the networks side by side")
    built = [part for part in parts if not part.contender.reason]
    found: list[MeanResult] = built[0].attempt(
        "cost", lambda: measure_costs([part.contender for part in built], scenes), []
    )
    for index, part in enumerate(built):
        part.found["cost"] = found[index] if found else None
    for part in parts:
        if part not in built or not found:
            reason = _NOT_BUILT if part.contender.reason else "a network gave no answer"
            part.missing.setdefault("cost", reason)


def _fitting_step(parts: Sequence[_Part], shown: Scenes, seconds: float) -> int:
    """The finest step whose maps fit the time."""
    per_cell = 0.0
    for part in parts:
        each = part.attempt("maps", lambda p=part: seconds_per_image(p.contender, shown), 0.0)
        per_cell += each * len(shown) * (2 if part.contender.lock is None else 1)
    for step in STEPS:
        if len(map_shifts(shown.room, step)) ** 2 * per_cell <= seconds:
            return step
    usable = [step for step in STEPS if len(map_shifts(shown.room, step)) >= 3]
    return usable[-1] if usable else 1


def _maps(
    part: _Part, shown: Scenes, references: Sequence[int | None], shifts: Sequence[int]
) -> tuple[ShiftMap, ...]:
    part.missing.pop("maps", None)
    found: tuple[ShiftMap, ...] = part.attempt(
        "maps", lambda: measure_maps(part.contender, shown, references, shifts, "crop"), ()
    )
    if part.contender.lock is None:
        found += part.attempt(
            "circular maps",
            lambda: measure_maps(part.contender, shown, references, shifts, "circular"),
            (),
        )
    else:
        part.inapplicable["circular"] = _NO_CIRCLE
    return found


def _config(subject: Subject, scenes: Scenes, config: AuditConfig, source: str) -> dict[str, Any]:
    return {
        "images": config.data,
        "against": list(config.against),
        "window": subject.size,
        "margin of the lock": scenes.margin,
        "shifts": scenes.room,
        "scale": f"shorter side of {scenes.pixels.shape[-1]} pixels",
        "mean": list(subject.mean),
        "std": list(subject.std),
        "stride was": source,
        "step was": "as given" if config.step else f"what fits {config.seconds:.0f} seconds",
    }
