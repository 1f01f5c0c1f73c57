"""What an audit found: what a shift does to a network and to its remedies, as plain values."""

from __future__ import annotations

import dataclasses
import json
import math
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from shiftproof.files import write_text
from shiftproof.results import Environment, MeanResult, RateResult

AUDIT_SCHEMA = 1
"""Version of the JSON layout; readers refuse a newer one."""

Kind = Literal["as it is", "locked", "converted"]
Motion = Literal["crop", "circular"]


@dataclass(frozen=True)
class Picture:
    """A photograph that is shown.

    Attributes:
        name: Name of its file.
        label: Its class, as a number of the outputs; None if unknown.
        reference: The class whose probability is shown: the label, or if unknown what the network
            answers without a shift; None if it answers nothing.
        jpeg: The photograph at the scale of the network, JPEG in base64; a window of the network
            and a stride around it move over it.
        size: Its height and width in pixels.
    """

    name: str
    label: int | None
    reference: int | None
    jpeg: str
    size: int


@dataclass(frozen=True)
class ShiftMap:
    """Answers for one picture over a grid of shifts.

    Attributes:
        picture: Number of the picture.
        motion: ``"crop"``: the window moves over the photograph; ``"circular"``: what leaves the
            window on one side comes back on the other.
        shifts: Pixels, the same along both axes; rows go down, columns to the right.
        classes: The predicted class at each shift, rows first; None where there is none.
        probabilities: Probability of the picture's reference class at each shift, likewise.
    """

    picture: int
    motion: Motion
    shifts: tuple[int, ...]
    classes: tuple[tuple[int | None, ...], ...]
    probabilities: tuple[tuple[float | None, ...], ...]


@dataclass(frozen=True)
class Strip:
    """Answers for one picture while the window moves to the right, one pixel per frame.

    Attributes:
        picture: Number of the picture.
        shifts: Pixels to the right of the middle, one per frame.
        classes: The predicted class of each frame; None where there is none.
        probabilities: Probability of the picture's reference class in each frame.
    """

    picture: int
    shifts: tuple[int, ...]
    classes: tuple[int | None, ...]
    probabilities: tuple[float | None, ...]

    @property
    def num_changes(self) -> int:
        """How often the answer changes from one frame to the next."""
        return sum(a != b for a, b in zip(self.classes, self.classes[1:], strict=False))


@dataclass(frozen=True)
class Distance:
    """Shares of images at one distance of the shift.

    Attributes:
        motion: See ``ShiftMap``.
        pixels: The larger of the vertical and the horizontal shift.
        consistency: Images that get the class that they get without a shift.
        accuracy: Images that get their own class; None where classes are unknown.
    """

    motion: Motion
    pixels: int
    consistency: RateResult
    accuracy: RateResult | None


@dataclass(frozen=True)
class PanResult:
    """All images under a camera that moves by one pixel per frame.

    Attributes:
        num_frames: Frames of each pan.
        changes: Steps of one pixel that change the answer; the pans are the clusters.
        pictures: Pictures whose answer changes at least once.
        jitter: Mean total variation distance of the class probabilities of neighbouring frames, of
            the pictures with an answer to every frame; None if there are none.
    """

    num_frames: int
    changes: RateResult
    pictures: RateResult
    jitter: MeanResult | None


@dataclass(frozen=True)
class StageChoice:
    """What one stage chose for one picture.

    Attributes:
        stage: Qualified name of the module that chose.
        picture: Number of the picture.
        phase: What it chose: the row and column of the phase, or of a lock the pixels by which the
            window was moved.
        stride: Number of phases per axis.
        gap: Distance from the best to the second, as a share of the best; 0 for a tie.
    """

    stage: str
    picture: int
    phase: tuple[float, float]
    stride: tuple[int, int]
    gap: float


@dataclass(frozen=True)
class Cause:
    """A module that does not pass on a shift.

    Attributes:
        module: Its qualified name.
        type: Name of its class.
        reason: Why.
    """

    module: str
    type: str
    reason: str


@dataclass(frozen=True)
class NetworkAudit:
    """One network, as it is or behind a remedy.

    Attributes:
        kind: Which.
        description: What was done to the network, in a line.
        accuracy: Images that get their own class without a shift.
        pan: All images under a moving camera.
        distances: Shares against the distance of the shift.
        maps: Answers over grids of shifts.
        strips: Answers under a moving camera.
        choices: What stages chose without a shift.
        verdict: What ``certify`` says of circular shifts.
        causes: Modules that do not pass on a shift, in order of execution.
        radii: For each picture, the pixels by which the scene may move, whatever enters, before the
            grid of the lock lets go of it.
        cost: Time of an answer over that of the network as it is.
        missing: What could not be measured, by the name of the field, with the reason.
        inapplicable: What this network does not have by its nature, with the reason.
    """

    kind: Kind
    description: str
    accuracy: RateResult | None = None
    pan: PanResult | None = None
    distances: tuple[Distance, ...] = ()
    maps: tuple[ShiftMap, ...] = ()
    strips: tuple[Strip, ...] = ()
    choices: tuple[StageChoice, ...] = ()
    verdict: str | None = None
    causes: tuple[Cause, ...] = ()
    radii: tuple[int, ...] = ()
    cost: MeanResult | None = None
    missing: dict[str, str] = field(default_factory=dict)
    inapplicable: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class AuditResult:
    """What an audit found.

    Attributes:
        model: Name of the network.
        size: Height and width of its images, in pixels.
        stride: Its total stride in pixels; None if it was not found.
        num_images: Images that were measured.
        step: Pixels from one shift of the maps to the next.
        networks: The network as it is, then its remedies.
        pictures: Photographs that are shown.
        class_names: Names of the classes that occur, by their numbers.
        labels_missing: Why the classes of the images are unknown; empty if they are known.
        config: What was asked for, as plain JSON values.
        environment: Machine and versions.
        seconds: Time that it took.
        notes: What else a reader must know.
        unreadable: Images that could not be read and were left out.
        schema: Version of this layout.
    """

    model: str
    size: int
    stride: int | None
    num_images: int
    step: int
    networks: tuple[NetworkAudit, ...]
    pictures: tuple[Picture, ...]
    class_names: dict[int, str]
    labels_missing: str
    config: dict[str, Any]
    environment: Environment
    seconds: float
    notes: tuple[str, ...] = ()
    unreadable: tuple[str, ...] = ()
    schema: int = AUDIT_SCHEMA


def _finite(value: Any) -> Any:
    """JSON knows no NaN and no infinity."""
    if isinstance(value, dict):
        return {key: _finite(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def audit_as_dict(result: AuditResult) -> dict[str, Any]:
    """An audit as plain values.

    Args:
        result: The audit.

    Returns:
        Values by field name, ready for ``json.dumps``.
    """
    found: dict[str, Any] = _finite(dataclasses.asdict(result))
    return found


def save_audit(result: AuditResult, path: str | os.PathLike[str]) -> None:
    """Write an audit as JSON.

    Args:
        result: What to write.
        path: File to write, replaced whole.
    """
    write_text(path, json.dumps(audit_as_dict(result)) + "\n")


def _rate(data: dict[str, Any] | None) -> RateResult | None:
    return None if data is None else RateResult(**data)


def _mean(data: dict[str, Any] | None) -> MeanResult | None:
    return None if data is None else MeanResult(**data)


def _rows(rows: list[list[Any]]) -> tuple[tuple[Any, ...], ...]:
    return tuple(map(tuple, rows))


def _pan(data: dict[str, Any] | None) -> PanResult | None:
    if data is None:
        return None
    changes, pictures = RateResult(**data["changes"]), RateResult(**data["pictures"])
    return PanResult(data["num_frames"], changes, pictures, _mean(data["jitter"]))


def _network(data: dict[str, Any]) -> NetworkAudit:
    distances = tuple(
        Distance(d["motion"], d["pixels"], RateResult(**d["consistency"]), _rate(d["accuracy"]))
        for d in data["distances"]
    )
    maps = tuple(
        ShiftMap(
            m["picture"],
            m["motion"],
            tuple(m["shifts"]),
            _rows(m["classes"]),
            _rows(m["probabilities"]),
        )
        for m in data["maps"]
    )
    strips = tuple(
        Strip(s["picture"], tuple(s["shifts"]), tuple(s["classes"]), tuple(s["probabilities"]))
        for s in data["strips"]
    )
    choices = tuple(
        StageChoice(c["stage"], c["picture"], tuple(c["phase"]), tuple(c["stride"]), c["gap"])
        for c in data["choices"]
    )
    return NetworkAudit(
        kind=data["kind"],
        description=data["description"],
        accuracy=_rate(data["accuracy"]),
        pan=_pan(data["pan"]),
        distances=distances,
        maps=maps,
        strips=strips,
        choices=choices,
        verdict=data["verdict"],
        causes=tuple(Cause(**cause) for cause in data["causes"]),
        radii=tuple(data["radii"]),
        cost=_mean(data["cost"]),
        missing=dict(data["missing"]),
        inapplicable=dict(data["inapplicable"]),
    )


def load_audit(path: str | os.PathLike[str]) -> AuditResult:
    """Read an audit that ``save_audit`` wrote.

    Args:
        path: The JSON file.

    Returns:
        The audit.

    Raises:
        ValueError: If the file is no complete audit, or a newer version of the layout wrote it.
    """
    try:
        data = json.loads(Path(path).read_text(encoding="utf-8"))
        if data["schema"] > AUDIT_SCHEMA:
            raise ValueError(
                f"load_audit: schema must be at most {AUDIT_SCHEMA}, got {data['schema']} in "
                f"{path}; update shiftproof"
            )
        data["networks"] = tuple(map(_network, data["networks"]))
        data["pictures"] = tuple(Picture(**picture) for picture in data["pictures"])
        data["class_names"] = {int(number): name for number, name in data["class_names"].items()}
        data["environment"] = Environment(**data["environment"])
        data["notes"], data["unreadable"] = tuple(data["notes"]), tuple(data["unreadable"])
        return AuditResult(**data)
    except (AttributeError, KeyError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(
            f"load_audit: the file must hold a complete audit, got {path} ({error}); pass an "
            "audit.json"
        ) from error
