"""What the coverage run found, as it stands in the JSON file, and the page written from it."""

import datetime as dt
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.coverage_models import RULE, Subject
from shiftproof.files import write_text
from shiftproof.report import markdown_table

SCHEMA = 1
"""Version of the layout; readers refuse another."""

FLOAT64_ROUNDING = 1e-9
"""What ``certify`` lets pass in float64, in standard deviations of the output."""

VERDICTS = ("exact", "to rounding", "refused", "not invariant", "failed")

GROUPS = {
    "torchvision, classification": lambda row: (
        row.library == "torchvision" and row.category != "third party"
    ),
    "timm, convolutional and hybrid": lambda row: (
        row.library == "timm" and row.category != "transformer"
    ),
    "timm, transformers": lambda row: row.library == "timm" and row.category == "transformer",
    "third parties": lambda row: row.category == "third party",
}


@dataclass(frozen=True)
class Row:
    """What happened to one network.

    Attributes:
        verdict: One of ``VERDICTS``.
        detail: The reason, the blame or the error.
        size: Height and width of the images that the verdict is about.
        remark: Why that is not the size that was tried first.
        images: Number of images.
        response: Standard deviations of the output between two images.
        alignments: Number of alignments.
        paddings: Number of paddings that became circular.
        geometry: Number of windows that now give another output size.
        full_size: Size of the first map that is aligned by its full size, for instance ``"7x7"``;
            empty if none is.
        reasons: Why, in words.
        any_size: Whether the conversion holds for other sizes too.
        deviation: Largest deviation in float64, in standard deviations of the output.
        tolerance: Deviation that counted as rounding; larger where a part of the network computes
            in a narrower precision whatever its input.
        shifts: The shifts certified.
        code: Digest of the package's sources.
    """

    key: str
    library: str
    family: str
    category: str
    model: str
    size: int
    code: str = ""
    verdict: str = "failed"
    detail: str = ""
    remark: str = ""
    parameters: int | None = None
    images: int | None = None
    response: float | None = None
    alignments: int | None = None
    paddings: int | None = None
    geometry: int | None = None
    full_size: str | None = None
    reasons: str = ""
    any_size: bool | None = None
    deviation: float | None = None
    tolerance: float | None = None
    shifts: list[list[int]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @classmethod
    def of(cls, subject: Subject, **found: Any) -> "Row":
        return cls(
            subject.key,
            subject.library,
            subject.family,
            subject.category,
            subject.model,
            **{"size": subject.size, **found},
        )

    @property
    def shown_deviation(self) -> str:
        if self.deviation is None:
            return ""
        narrow = self.tolerance is not None and self.tolerance > FLOAT64_ROUNDING
        return f"{self.deviation:.1e}" + " (narrower inside)" * narrow

    def line(self) -> str:
        parts = [f"{self.key:34} {self.model:30} {self.verdict:13} {self.size:4} px"]
        if self.alignments is not None:
            parts.append(f"{self.alignments:3} aligned")
        if self.full_size:
            parts.append(f"full {self.full_size}")
        if self.deviation is not None:
            parts.append(self.shown_deviation)
        parts += [f"{self.seconds:.0f} s", *filter(None, (self.remark, self.detail))]
        return "  ".join(parts)


@dataclass(frozen=True)
class Coverage:
    """The table: what belongs to it, and what was found so far."""

    keys: list[str]
    environment: dict[str, Any]
    rows: dict[str, Row] = field(default_factory=dict)
    date: str = ""
    schema: int = SCHEMA

    def save(self, path: Path) -> None:
        """Write the rows in the order of the table."""
        rows = [asdict(self.rows[key]) for key in self.keys if key in self.rows]
        today = dt.datetime.now(tz=dt.timezone.utc).date().isoformat()
        path.parent.mkdir(parents=True, exist_ok=True)
        data = {**asdict(self), "date": today, "rows": rows}
        write_text(path, json.dumps(data, indent=1) + "\n")

    @classmethod
    def load(cls, path: Path) -> "Coverage":
        data = json.loads(path.read_text(encoding="utf-8"))
        if data.get("schema") != SCHEMA:
            raise ValueError(
                f"benchmarks.coverage: schema must be {SCHEMA}, got {data.get('schema')} in "
                f"{path}; run it again without --resume"
            )
        rows = [Row(**row) for row in data["rows"]]
        return cls(**{**data, "rows": {row.key: row for row in rows}})

    @property
    def versions(self) -> dict[str, str]:
        return self.environment["versions"]


SUMMARY_COLUMNS = ("networks", "number", *VERDICTS, "exact or to rounding")

COLUMNS = (
    "network",
    "family",
    "category",
    "pixels",
    "verdict",
    "deviation",
    "alignments",
    "full size",
    "paddings",
    "geometry",
    "any size",
    "seconds",
)

PROTOCOL = """\
Every classification network of torchvision and, of every module of timm, the network with the
fewest parameters; random weights. Norm weights, layer scales, heads, embeddings and whatever else
libraries start with at zero, one or nearly so are drawn anew, so that no part of a network is
silent; batch-norm statistics and vanishing weights are fitted to noise, before the conversion and
after it. Each network runs in a process of its own: `shiftproof.convert` on float32 noise, which
must not change the state_dict, then `shiftproof.certify` in float64, on two images (one for more
than 100 million parameters) and five random shifts of every parity that the conversion has not
seen.

- **exact**: no bit of the output differs in any pair; **to rounding**: by at most 1e-9 of the
  output's standard deviation; both are shift invariant.
- **refused**: `convert` says that it cannot, and why; nothing was changed.
- **not invariant**: converted, but a shift changes the output; **failed**: an error.
- **deviation**: the largest, in standard deviations of the output. Where it says "narrower
  inside", the network itself turns a part of its maps into float32, and rounding may be as large
  as float32's, 1e-3: that verdict says less than the others.
- **alignments**, **paddings**, **geometry**: how often a map is aligned, a padding becomes
  circular, and a window gives another output size than before.
- **full size**: the map that is aligned by its own size, for position embeddings, flattenings and
  the like; where it has the size of the images, they are aligned as a whole and nothing else is
  changed.
- **any size**: whether the conversion holds for other sizes that the strides divide, or for this
  one only.
- **seconds**: building, converting and certifying, on the machine below.

Images are small where the network allows it. A verdict holds for circular shifts and for this
size; sizes that the strides do not divide are refused.
"""


THIRD_PARTIES = """\
**Third parties**: small networks of six libraries, and of torchvision what is no classifier, called
as their users call them, by `python -m benchmarks.third_parties`: several inputs, keywords,
ModelOutput, maps coarser than the input, volumes, video and signals. `certify` judges them by the
law for coarse outputs: shifts by whole pixels of a map move it by as many, where its sizes are
whole parts of the input's; other outputs may move or stay, and the certificate says which. Two
images where the network takes two.
"""


def _shown(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)


def _summary_row(name: str, rows: list[Row]) -> list[str]:
    count = Counter(row.verdict for row in rows)
    shares = [f"{count[verdict]} ({count[verdict] / len(rows):.0%})" for verdict in VERDICTS]
    invariant = count["exact"] + count["to rounding"]
    return [name, str(len(rows)), *shares, f"{invariant / len(rows):.0%}"]


def _cells(row: Row) -> list[str]:
    values = (
        row.shown_deviation,
        row.alignments,
        row.full_size,
        row.paddings,
        row.geometry,
        row.any_size,
    )
    head = (row.model or "?", row.family, row.category, str(row.size), row.verdict)
    return [*head, *map(_shown, values), f"{row.seconds:.0f}"]


def _text(coverage: Coverage, third: Coverage | None) -> Iterator[str]:
    rows = list(coverage.rows.values())
    yield "# Which networks can be converted\n"
    yield "Generated by `python -m benchmarks.coverage`, which takes about half an hour;"
    yield "`--resume` goes on where it was interrupted.\n"
    if len(rows) < len(coverage.keys):
        yield f"**Unfinished: {len(rows)} of {len(coverage.keys)} networks.**\n"
    rows += [] if third is None else third.rows.values()
    if len({row.code for row in coverage.rows.values()}) > 1:
        yield "**Measured with more than one state of the code; run it whole.**\n"
    parts = {name: [row for row in rows if belongs(row)] for name, belongs in GROUPS.items()}
    parts = {name: part for name, part in parts.items() if part}
    yield markdown_table(SUMMARY_COLUMNS, [_summary_row(*item) for item in parts.items()])
    yield PROTOCOL
    yield RULE
    versions = ", ".join(f"{name} {number}" for name, number in coverage.versions.items())
    machine = f"{coverage.environment['processor']}, {coverage.environment['num_threads']} threads"
    yield f"{coverage.date}, {machine}, Python {coverage.environment['python']}, {versions}.\n"
    if third is not None:
        yield THIRD_PARTIES
        versions = ", ".join(f"{name} {third.versions[name]}" for name in sorted(third.versions))
        yield f"{third.date}, {versions}.\n"
    full = [
        [row.key, row.full_size, row.reasons.replace("|", "\\|")]
        for row in rows
        if row.full_size and row.reasons
    ]
    if full:
        yield "## Aligned by the full size of a map\n"
        yield markdown_table(("network", "map", "why"), full).replace("---:", "---")
    reasons = [
        [row.model or row.key, row.verdict, row.detail.replace("|", "\\|").replace("\n", " ")]
        for row in rows
        if row.detail
    ]
    if reasons:
        yield "## Reasons\n"
        yield markdown_table(("network", "verdict", "why"), reasons).replace("---:", "---")
    remarks = [
        [row.model, str(row.size), row.remark.replace("|", "\\|")] for row in rows if row.remark
    ]
    if remarks:
        yield "## Sizes that were refused first\n"
        yield markdown_table(("network", "pixels", "why"), remarks).replace("---:", "---")
    for name, part in parts.items():
        yield f"## {name[0].upper()}{name[1:]}\n"
        yield markdown_table(COLUMNS, [_cells(row) for row in part])


def write_page(coverage: Coverage, page: Path, third: Coverage | None = None) -> Path:
    page.parent.mkdir(parents=True, exist_ok=True)
    write_text(page, "\n".join(_text(coverage, third)))
    return page
