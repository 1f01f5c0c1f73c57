"""What the suite found, as it stands in the JSON file, and the numbers that follow from it."""

import json
import statistics
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from shiftproof.files import write_text
from shiftproof.results import Environment

SCHEMA = 1
"""Version of the layout; readers refuse another."""

RESULTS = Path(__file__).with_name("results")
"""Where whole runs are kept."""


@dataclass(frozen=True)
class Spread:
    """Median and quartiles over the rounds."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: list[float]) -> "Spread":
        if len(values) == 1:
            return cls(values[0], values[0], values[0])
        low, _, high = statistics.quantiles(values, n=4, method="inclusive")
        return cls(statistics.median(values), low, high)


@dataclass(frozen=True)
class Row:
    """One candidate.

    Attributes:
        group: The formulation.
        variant: The layout.
        seconds: Time of one call in each round.
        first_seconds: Time of the very first call: with a compiler, compiling.
        error: Largest difference from the law over the standard deviation; None if not measured.
        peak_bytes: Memory alive above the start at worst, in one call; None if not measured.
    """

    group: str
    variant: str
    seconds: list[float]
    first_seconds: float
    error: float | None = None
    peak_bytes: int | None = None

    @property
    def label(self) -> str:
        return f"{self.group}, {self.variant}" if self.variant else self.group

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    @property
    def compile_seconds(self) -> float:
        """What the first call took longer than the others."""
        return max(self.first_seconds - self.median, 0.0)

    def over(self, other: "Row") -> Spread:
        """Its time over another's in the same round."""
        pairs = zip(self.seconds, other.seconds, strict=True)
        return Spread.of([mine / theirs for mine, theirs in pairs])


@dataclass(frozen=True)
class Measured:
    """One entry: either rows or the reason why there are none.

    Attributes:
        copy_seconds: Time, in each round, of copying ``map_bytes`` from memory to memory.
        failure: Output of the tests that failed, or of the entry itself.
    """

    name: str
    what: str
    baseline: str
    tests: list[str]
    rows: list[Row] = field(default_factory=list)
    map_bytes: int | None = None
    floor_bytes: int | None = None
    copy_seconds: list[float] = field(default_factory=list)
    images: int | None = None
    point: list[Any] | None = None
    failure: str | None = None

    @property
    def groups(self) -> list[str]:
        return list(dict.fromkeys(row.group for row in self.rows))

    def best(self, group: str) -> Row:
        """The fastest layout of a formulation."""
        rows = [row for row in self.rows if row.group == group]
        if not rows:
            raise ValueError(
                f"benchmarks: the group must be one of {', '.join(self.groups)}, got {group!r}; "
                "name one of them"
            )
        return min(rows, key=lambda row: row.median)

    def floor_ratio(self, row: Row) -> Spread | None:
        """Time over the time that moving ``floor_bytes`` takes at the bandwidth of the round."""
        if self.floor_bytes is None or self.map_bytes is None:
            return None
        # A copy moves each byte twice: once out of memory, once back.
        share = self.floor_bytes / (2 * self.map_bytes)
        pairs = zip(row.seconds, self.copy_seconds, strict=True)
        return Spread.of([seconds / (share * copy) for seconds, copy in pairs])

    def derived(self, row: Row) -> dict[str, Any]:
        """What a reader of the JSON would otherwise have to compute."""
        ratio = row.over(self.best(self.baseline))
        floor = self.floor_ratio(row)
        return {
            "median_seconds": row.median,
            "ratio_to_baseline": asdict(ratio),
            "ratio_to_floor": None if floor is None else asdict(floor),
            "best_of_group": row is self.best(row.group),
        }


@dataclass(frozen=True)
class Report:
    """A whole run of the suite."""

    date: str
    environment: Environment
    cpu: str
    allocator: str
    quick: bool
    seconds: float
    entries: list[Measured]
    schema: int = SCHEMA

    def entry(self, name: str) -> Measured | None:
        """The entry of that name, if it was measured."""
        found = [entry for entry in self.entries if entry.name == name and entry.rows]
        return found[0] if found else None

    def save(self, path: Path) -> None:
        data = asdict(self)
        for entry, written in zip(self.entries, data["entries"], strict=True):
            for row, cells in zip(entry.rows, written["rows"], strict=True):
                cells["derived"] = entry.derived(row)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps(data, indent=1) + "\n")

    @classmethod
    def load(cls, path: Path) -> "Report":
        data = json.loads(path.read_text(encoding="utf-8"))
        if data.get("schema") != SCHEMA:
            raise ValueError(
                f"benchmarks: schema must be {SCHEMA}, got {data.get('schema')} in {path}; "
                "run the benchmarks again"
            )
        data["environment"] = Environment(**data["environment"])
        for entry in data["entries"]:
            for row in entry["rows"]:
                del row["derived"]
            entry["rows"] = [Row(**row) for row in entry["rows"]]
        data["entries"] = [Measured(**entry) for entry in data["entries"]]
        return cls(**data)
