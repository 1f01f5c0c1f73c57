"""What is measured, as data."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Prepared:
    """One candidate, ready to be called again and again.

    Attributes:
        run: Does the work once.
        error: Measures how far the work is from moving with its input; None where the question has
            no meaning.
        sample: Does the work once and returns the seconds that count; None to time ``run``.
        close: Gives back what it holds outside this process.
    """

    run: Callable[[], object]
    error: Callable[[], float] | None = None
    sample: Callable[[], float] | None = None
    close: Callable[[], None] = lambda: None


@dataclass(frozen=True)
class Candidate:
    """One way to do the work of an entry.

    Attributes:
        group: The formulation; those of one group differ in layout only, and the best counts.
        variant: The layout, for instance ``"channels_last"``.
        prepare: Builds it; it owns its tensors and its network.
    """

    group: str
    variant: str
    prepare: Callable[[], Prepared]


@dataclass(frozen=True)
class Entry:
    """Candidates that do the same work, measured side by side.

    Attributes:
        name: Path-like, for instance ``"models/resnet18/forward"``.
        what: One line for the reader.
        candidates: Ways to do it.
        baseline: Group that the others are compared with.
        tests: Test files that must pass before a speed is shown.
        map_bytes: Size of the map that is read; the bandwidth is that of copying so many bytes.
        floor_bytes: Bytes that must move at least; None where arithmetic decides.
        images: Images per call, for throughput.
        seconds: Time after which no further round starts.
        memory: Whether peak memory is measured.
        point: Where it stands on a plot of growth, ``(axis, value)``.
    """

    name: str
    what: str
    candidates: tuple[Candidate, ...]
    baseline: str
    tests: tuple[str, ...]
    map_bytes: int | None = None
    floor_bytes: int | None = None
    images: int | None = None
    seconds: float = 6.0
    memory: bool = True
    point: tuple[str, int] | None = None


@dataclass(frozen=True)
class Setup:
    """What a run of the suite was asked for.

    Attributes:
        device: ``"cpu"`` or ``"cuda"``.
        quick: Whether sizes are small, to try the suite; the numbers mean little.
        rounds: Rounds of an entry at most.
        patience: Factor on the time that an entry may take for its rounds.
    """

    device: str = "cpu"
    quick: bool = False
    rounds: int = 15
    patience: float = 1.0
