"""What a certification found, and how it reads."""

import dataclasses
import warnings
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

Verdict = Literal["exact", "to rounding", "not invariant"]
Kind = Literal["invariant", "equivariant", "mixed"]


class Blame(NamedTuple):
    """What does not follow a shift.

    Attributes:
        module: Qualified name of the module, empty for the model itself.
        type: Name of its class.
        reason: Why, in words.
    """

    module: str
    type: str
    reason: str

    def __str__(self) -> str:
        return f"{self.module or 'the model itself'} ({self.type}): {self.reason}"


@dataclass(frozen=True)
class Choice:
    """How clear a choice of a phase was.

    Attributes:
        module: Qualified name of the module that chose.
        gap: Smallest difference seen between the best score and the second, relative to the larger
            magnitude of the two; 0 for a tie.
    """

    module: str
    gap: float

    @property
    def margin(self) -> float:
        """The old name of ``gap``."""
        _warn_of("margin", "gap")
        return self.gap


@dataclass(frozen=True)
class Measurement:
    """Deviations in one precision, in standard deviations of the output.

    Attributes:
        dtype: Precision, for instance ``"float64"``.
        largest: Largest deviation of all pairs; 0 if every bit is the same in every pair.
        typical: Median over the pairs of each pair's largest deviation.
        tolerance: Deviation up to which the difference counts as rounding.
        num_pairs: Number of pairs that were measured.
    """

    dtype: str
    largest: float
    typical: float
    tolerance: float
    num_pairs: int

    @property
    def passed(self) -> bool:
        """Whether no pair deviates by more than rounding."""
        return self.largest <= self.tolerance


@dataclass(frozen=True)
class Certificate:
    """Whether a model is invariant to circular shifts, or equivariant, and if not, why.

    Attributes:
        verdict: ``"exact"`` if in the model's own precision no bit of the output differs in any
            pair (and in float64 nothing but rounding does), ``"to rounding"`` if nothing but
            rounding does in either, else ``"not invariant"``.
        kind: ``"invariant"`` if the outputs must stay the same, ``"equivariant"`` if they are maps
            that must move with the input, ``"mixed"`` if there are both.
        own: Deviations in the model's own precision.
        float64: Deviations in float64, where rounding cannot be confused with anything else, of all
            pairs where it decides, else of some; None where the model or the device cannot compute
            in it.
        flipped: Pairs whose predicted class differs, in the model's own precision; None if no
            output is a table of logits.
        num_pairs: Number of pairs of an image and a shifted copy.
        shifts: The shifts, in pixels per axis.
        choices: One entry per module that chose a phase.
        blame: The first module that does not pass on a shift which changed the output; None for an
            invariant model, or where none is known.
        suspects: All modules that do not pass on every shift, in order of execution, at most ten.
        notes: What else a reader must know.
    """

    verdict: Verdict
    kind: Kind
    own: Measurement
    float64: Measurement | None
    flipped: int | None
    num_pairs: int
    shifts: tuple[tuple[int, ...], ...]
    choices: tuple[Choice, ...] = ()
    blame: Blame | None = None
    suspects: tuple[Blame, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def is_invariant(self) -> bool:
        """Whether nothing but rounding changed, where it must not."""
        return self.verdict != "not invariant"

    @property
    def smallest_gap(self) -> Choice | None:
        """The least clear of all choices, if there are any."""
        return min(self.choices, key=lambda choice: choice.gap, default=None)

    @property
    def smallest_margin(self) -> Choice | None:
        """The old name of ``smallest_gap``."""
        _warn_of("smallest_margin", "smallest_gap")
        return self.smallest_gap

    def as_dict(self) -> dict[str, Any]:
        """The certificate as plain values.

        Returns:
            Values by field name, ready for ``json.dumps``; infinite deviations are None.
        """
        data = dataclasses.asdict(self)
        for name in ("own", "float64"):
            if data[name] is not None:
                for key in ("largest", "typical"):
                    if data[name][key] == float("inf"):
                        data[name][key] = None
        data["shifts"] = [list(shift) for shift in self.shifts]
        data["choices"] = list(data["choices"])
        data["blame"] = None if self.blame is None else self.blame._asdict()
        data["suspects"] = [suspect._asdict() for suspect in self.suspects]
        data["notes"] = list(self.notes)
        return data

    def __str__(self) -> str:
        verdict: str = self.verdict
        if self.kind == "equivariant":
            verdict = verdict.replace("invariant", "equivariant")
        meaning = {
            "invariant": "the output must stay the same when the input is shifted",
            "equivariant": "the output must move with the input",
            "mixed": "output maps must move with the input, other outputs stay the same",
        }[self.kind]
        images = self.num_pairs // len(self.shifts)
        lines = [
            f"{verdict}: {meaning}",
            f"  pairs: {self.num_pairs}, {_count(images, 'image')} under "
            f"{_count(len(self.shifts), 'circular shift')}",
        ]
        lines += [
            f"  {measurement.dtype}: deviation at most {measurement.largest:.2g}, typically "
            f"{measurement.typical:.2g} of the output's standard deviation "
            f"(rounding: up to {measurement.tolerance:.0e})"
            + f", {measurement.num_pairs} of the pairs"
            * (measurement.num_pairs < self.num_pairs)
            for measurement in dict.fromkeys((self.float64, self.own))
            if measurement is not None
        ]
        if self.flipped is not None:
            lines.append(f"  predictions that change: {self.flipped} of {self.num_pairs}")
        closest = self.smallest_gap
        if closest is not None:
            lines.append(
                f"  {_count(len(self.choices), 'choice')} of a phase, the closest at "
                f"{closest.module or 'the model itself'}: relative gap {closest.gap:.1e}"
            )
        if self.blame is not None:
            lines.append(f"  blame: {self.blame}")
        lines += [f"  also:  {suspect}" for suspect in self.suspects if suspect != self.blame]
        lines += [f"  note:  {note}" for note in self.notes]
        return "\n".join(lines)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _warn_of(old: str, new: str) -> None:
    warnings.warn(f"{old} is now called {new}", DeprecationWarning, stacklevel=3)
