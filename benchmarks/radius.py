"""How far a certified lock holds its grid on photographs, attacked, and what it does to jitter.

    python -m benchmarks.radius --photographs DIR --large DIR --package DIR

``--photographs`` holds photographs ``DIR/<wnid>/*`` whose shorter side is 256 pixels, to certify
and attack; ``--large`` photographs of 480 pixels and more, for pans in front of the network of
``--package``, see ``benchmarks.motion``.  Results go to ``benchmarks/results/radius.json``.
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from datetime import date
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.measured import RESULTS
from benchmarks.motion import NETWORKS, NUM_FRAMES, STRIDE, Bench, compared, load_photographs
from benchmarks.pretrained import load_network
from shiftproof.certification import certified_radius
from shiftproof.files import write_text
from shiftproof.metrics import flip_rate, jitter
from shiftproof.motion import LockedCrop
from shiftproof.motion.pans import Pan, frames_that_fit
from shiftproof.nn import CornerStrength, Energy, GridLock2d
from shiftproof.ops.torus import fold
from shiftproof.recipes.command import run_command
from shiftproof.results import Environment

SIZE = 256
TOLERANCE = 0.5
DISTANCES = (1, 2, 4, 6, 8)
BEYOND = 16
"""Pixels past the radius at which the control attacks."""

BATCH = 40
SELECTORS: dict[str, Callable[[], torch.nn.Module]] = {
    "corners, margin 17": lambda: CornerStrength(margin=17),
    "corners": CornerStrength,
    "energy": lambda: Energy(2),
}
ATTACKED = "corners, margin 17"
STEPS = ((0.0, 0.25), (0.0, 0.5), (0.0, 0.75), (0.0, 1.0), (0.0, 4.0))


def centre(photograph: Tensor) -> Tensor:
    """The middle of a photograph, as the lock gets it."""
    top, left = ((n - SIZE) // 2 for n in photograph.shape[1:])
    return photograph[:, top : top + SIZE, left : left + SIZE]


def borders(shape: Sequence[int], generator: torch.Generator) -> Iterator[Tensor]:
    """What may enter: even, noise, boards and stripes of all widths, points, photographs' edges."""
    rows, columns = torch.meshgrid(*map(torch.arange, shape[-2:]), indexing="ij")
    while True:
        width = int(torch.randint(1, 17, (), generator=generator))
        noise = torch.rand(tuple(shape), generator=generator)
        points = (noise < 0.5 / width**2).float()
        board = ((rows // width + columns // width) % 2).float().expand(tuple(shape))
        yield from (noise, noise.round(), points, 1 - points, board, 1 - board)
        yield from ((rows // width % 2).float().expand_as(noise), torch.zeros_like(noise))
        yield torch.ones_like(noise) * torch.rand(shape[0], 1, 1, generator=generator)


def shown(image: Tensor, border: Tensor, shift: Sequence[int]) -> Tensor:
    """The frame of a camera that moved by a shift, the border where it sees what is new."""
    moved = image.roll([-d for d in shift], (1, 2))
    for dim, d in enumerate(shift, start=1):
        size = image.shape[dim]
        start = size - d if d > 0 else 0
        moved.narrow(dim, start, abs(d)).copy_(border.narrow(dim, start, abs(d)))
    return moved


def slip(lock: GridLock2d, start: Tensor, frames: Tensor, shifts: Tensor) -> Tensor:
    """By how many pixels the grid moved in the scene, ``(N,)``."""
    return fold(lock.offset(frames) + shifts - start, STRIDE).abs().amax(1)


@torch.no_grad()
def attack(
    lock: GridLock2d, image: Tensor, radius: int, attacks: int, generator: torch.Generator
) -> tuple[int, float]:
    """Violations of the radius and the largest slip; a quarter of the attacks climb from there."""
    start, source = lock.offset(image[None]), borders(image.shape, generator)
    violations, worst, held = 0, 0.0, (next(source), [radius, radius])
    for number in range(0, attacks, BATCH):
        climbing = number % (4 * BATCH) == 3 * BATCH
        count = min(BATCH, attacks - number)
        shifts = torch.randint(-radius, radius + 1, (count, 2), generator=generator)
        sides = 2 * torch.randint(0, 2, (count,), generator=generator) - 1
        shifts[::2, 0] = radius * sides[::2]  # the rim
        if climbing:
            shifts[:] = torch.tensor(held[1])
            flips = torch.rand(count, *image.shape, generator=generator)
            noise = torch.rand(flips.shape, generator=generator)
            tried = list(torch.where(flips < 0.15, noise, held[0]))
        else:
            tried = [next(source) for _ in range(count)]
        pairs = zip(tried, shifts.tolist(), strict=True)
        frames = torch.stack([shown(image, border, shift) for border, shift in pairs])
        found = slip(lock, start, frames, shifts)
        violations += int((found > TOLERANCE).sum())
        if float(found.max()) > worst:
            worst, index = float(found.max()), int(found.argmax())
            held = (tried[index], shifts[index].tolist())
    return violations, worst


def measure_radii(photographs: Sequence[Tensor], attacks: int) -> dict[str, Any]:
    """Radii of every selector; attacks within those of one, and past them."""
    images = torch.stack([centre(photograph) for photograph in photographs])
    result: dict[str, Any] = {"photographs": len(images), "stride": STRIDE, "radii": {}}
    for name, make in SELECTORS.items():
        lock = GridLock2d(STRIDE, make(), margin=STRIDE)
        radii = certified_radius(lock, images, tolerance=TOLERANCE)
        result["radii"][name] = radii.tolist()
        shares = {d: round(100 * float((radii >= d).double().mean()), 1) for d in DISTANCES}
        print(name, shares, flush=True)
    lock = GridLock2d(STRIDE, SELECTORS[ATTACKED](), margin=STRIDE)
    generator = torch.Generator().manual_seed(0)
    radii = result["radii"][ATTACKED]
    certain = [pair for pair in zip(images, radii, strict=True) if pair[1] > 0]
    each = -(-attacks // max(1, len(certain)))
    counts = {"within": [0, 0, 0.0], "beyond": [0, 0, 0.0]}
    for image, radius in certain:
        tries = {"within": (radius, each), "beyond": (radius + BEYOND, BATCH)}
        for where, (distance, number) in tries.items():
            violations, worst = attack(lock, image, distance, number, generator)
            total = counts[where]
            counts[where] = [total[0] + number, total[1] + violations, max(total[2], worst)]
    for where, (number, violations, worst) in counts.items():
        result[where] = {"attacks": number, "violations": violations, "largest_slip": worst}
        print(where, result[where], flush=True)
    return result


def measure_jitter(bench: Bench, photographs: Sequence[Tensor]) -> list[dict[str, Any]]:
    """Jitter behind the locked transform with the selector that is certified, and the usual one."""
    crops = {
        "locked transform": LockedCrop(bench.size, STRIDE, resize_size=bench.resize),
        "certified": LockedCrop(
            bench.size, STRIDE, resize_size=bench.resize, selector=SELECTORS[ATTACKED]()
        ),
    }
    rows = []
    for step in STEPS:
        pan = Pan(step, frames_that_fit(step, 36, NUM_FRAMES), bench.resize)
        found: dict[str, list[tuple[float, float]]] = {}
        for photograph in photographs:
            frames = pan.frames(photograph)
            windows = {"as it is": bench.plain(frames)}
            windows |= {name: crop(frames).clamp(0, 1) for name, crop in crops.items()}
            for name, window in windows.items():
                p = bench.probabilities(window)
                found.setdefault(name, []).append((float(jitter(p)), float(flip_rate(p))))
        rows += compared(step, 0.0, pan.num_frames, found)
        print(step, {r["method"]: round(r["ratio"]["value"], 3) for r in rows[-3:]}, flush=True)
    return rows


def run(args: argparse.Namespace) -> int:
    if args.photographs is None and args.large is None:
        raise RuntimeError(
            "radius: photographs are needed, got no --photographs and no --large; pass a folder"
        )
    environment = asdict(Environment.collect("cpu", torch.get_num_threads()))
    result: dict[str, Any] = {"date": date.today().isoformat(), "environment": environment}
    if args.photographs is not None:
        found = [photograph for photograph, _ in load_photographs(args.photographs)]
        large = [photograph for photograph in found if min(photograph.shape[1:]) >= SIZE]
        result |= measure_radii(
            large[:: max(1, len(large) // args.limit)][: args.limit], args.attacks
        )
    if args.large is not None:
        name, size = NETWORKS["lite0"]
        bench = Bench(load_network(args.package, name), size)
        found = [photograph for photograph, _ in load_photographs(args.large)]
        result |= {"network": name, "pans": measure_jitter(bench, found)}
    write_text(args.out, json.dumps(result, indent=1) + "\n")
    print(args.out)
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.radius",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--photographs", type=Path, metavar="DIR", help="photographs of 256 pixels")
    add("--large", type=Path, metavar="DIR", help="photographs of 480 pixels and more")
    add("--package", type=Path, metavar="DIR", help="where the network's package is")
    add("--limit", type=int, default=100, metavar="N", help="photographs to certify")
    add("--attacks", type=int, default=100_000, metavar="N", help="attacks within the radii")
    add("--out", type=Path, default=RESULTS / "radius.json", metavar="JSON")
    return run_command(lambda: run(parser.parse_args()))


if __name__ == "__main__":
    sys.exit(main())
