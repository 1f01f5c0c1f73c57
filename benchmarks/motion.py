"""What a lock does for a network while a camera moves, on photographs and real weights.

    python -m benchmarks.motion --large DIR --photographs DIR --package DIR --network lite0
    python -m benchmarks.motion --page            the page, from the results alone

``--large`` holds photographs ``DIR/<wnid>/*`` of 480 pixels and more, for pans; ``--photographs``
holds photographs whose shorter side is 256 pixels, for accuracy.  Networks come with packages of
others, see ``--package``.  Results go to ``benchmarks/results/motion-<network>.json``.
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import shiftproof
from benchmarks.bootstrap import bootstrap
from benchmarks.gate import ROOT
from benchmarks.measured import RESULTS
from benchmarks.motion_grid import (
    NOISE,
    STRIDE,
    measure_cuts,
    measure_drift,
    measure_offsets,
)
from benchmarks.motion_page import HELD, LOCKS, write_page
from benchmarks.pretrained import load_network
from shiftproof.extras import require
from shiftproof.files import write_text
from shiftproof.metrics import flip_rate, jitter
from shiftproof.motion import LockedCrop, VideoLock
from shiftproof.motion.pans import STEPS, Pan, frames_that_fit
from shiftproof.nn import GridLock2d, WholePixels
from shiftproof.ops.resample import resample
from shiftproof.ops.torus import fold
from shiftproof.recipes.command import run_command
from shiftproof.results import Environment

NUM_FRAMES = 9
NETWORKS = {"lite0": ("efficientnet-lite0", 224), "lite1": ("efficientnet-lite1", 240)}
Motion = tuple[tuple[float, float], float]
"""Pixels per frame, and the noise."""

MOTIONS: list[Motion] = [
    *((step, 0.0) for step in STEPS),
    *((step, NOISE) for step in ((0.0, 0.0), (0.0, 0.5), (0.0, 1.0))),
]
COSTLY = ((0.0, 0.5), (0.0, 1.0), (0.0, 4.0))
"""Motions for which what costs several forward passes is measured too."""

Method = Callable[[Tensor], Tensor]
"""From frames of the camera to images for the network."""


def load_photographs(folder: Path, limit: int | None = None) -> list[tuple[Tensor, str]]:
    """Photographs ``(3, H, W)`` in [0, 1], each with its wnid."""
    pillow, numpy = require("PIL.Image", extra="train"), require("numpy", extra="train")
    paths = sorted(folder.glob("*/*"))[:limit]
    if not paths:
        raise RuntimeError(
            f"motion: there must be photographs DIR/<wnid>/*, got none in {folder}; pass another"
        )
    found = []
    for path in paths:
        pixels = torch.from_numpy(numpy.array(pillow.open(path).convert("RGB")))
        found.append((pixels.permute(2, 0, 1).float() / 255, path.parent.name))
    return found


@dataclass(frozen=True)
class Bench:
    """A network and what may stand in front of it."""

    model: torch.nn.Module
    size: int

    @property
    def resize(self) -> int:
        return self.size + STRIDE

    def probabilities(self, images: Tensor, model: torch.nn.Module | None = None) -> Tensor:
        scaled = (255 * images - 127) / 128
        with torch.no_grad():
            logits = (model or self.model)(scaled.contiguous(memory_format=torch.channels_last))
        found: Tensor = logits.softmax(1)
        return found

    def scaled(self, frames: Tensor, size: int, corner: Sequence[float]) -> Tensor:
        """A window at the network's scale; the corner in pixels of it."""
        step = min(frames.shape[2:]) / self.resize
        middle = [(n / step - self.resize) / 2 for n in frames.shape[2:]]
        start = torch.tensor([(m + c) * step for m, c in zip(middle, corner, strict=True)])
        window = resample(frames, start.expand(len(frames), 2), (step,) * 2, (size,) * 2, "bicubic")
        return window.clamp(0, 1)

    def plain(self, frames: Tensor) -> Tensor:
        return self.scaled(frames, self.size, (STRIDE / 2,) * 2)

    def window(self, corner: Sequence[float]) -> Method:
        return lambda frames: self.scaled(frames, self.size, corner)

    def locked(self, frames: Tensor) -> Tensor:
        crop = LockedCrop(self.size, STRIDE, resize_size=self.resize)
        moved: Tensor = crop(frames)
        return moved.clamp(0, 1)

    def margin(self, frames: Tensor) -> Tensor:
        return GridLock2d(STRIDE, margin=STRIDE)(self.scaled(frames, self.resize, (0.0, 0.0)))

    def reflected(self, frames: Tensor) -> Tensor:
        return GridLock2d(STRIDE, padding_mode="reflect")(self.plain(frames))

    def replicated(self, frames: Tensor) -> Tensor:
        return GridLock2d(STRIDE, padding_mode="replicate")(self.plain(frames))

    def whole(self, frames: Tensor) -> Tensor:
        return GridLock2d(STRIDE, interpolation=WholePixels())(self.plain(frames))

    def held(self, frames: Tensor) -> Tensor:
        """The locked transform, held by motion; a stream of its own for every pan."""
        crop = LockedCrop(self.size, STRIDE, resize_size=self.resize)
        moved: Tensor = VideoLock(crop)(frames)
        return moved.clamp(0, 1)

    def held_margin(self, frames: Tensor) -> Tensor:
        video = VideoLock(GridLock2d(STRIDE, margin=STRIDE))
        moved: Tensor = video(self.scaled(frames, self.resize, (0.0, 0.0)))
        return moved

    def held_reflected(self, frames: Tensor) -> Tensor:
        moved: Tensor = VideoLock(GridLock2d(STRIDE, padding_mode="reflect"))(self.plain(frames))
        return moved

    def known(self, step: Sequence[float]) -> Method:
        """The locked transform, held by the true motion: what an estimate can reach at most."""
        crop = LockedCrop(self.size, STRIDE, resize_size=self.resize)

        def window(frames: Tensor) -> Tensor:
            count = torch.arange(len(frames))[:, None]
            offset = fold(crop.offset(frames[:1]) - count * torch.tensor([step]), STRIDE)
            moved: Tensor = crop(frames, offset)
            return moved.clamp(0, 1)

        return window

    def methods(self, generator: torch.Generator, step: Sequence[float]) -> dict[str, Method]:
        """What may stand in front of the network; the generator gives the random window."""
        corner = (STRIDE * torch.rand(2, generator=generator)).tolist()
        return {
            "as it is": self.plain,
            "random window": self.window(corner),
            "locked transform": self.locked,
            "lock with margin": self.margin,
            "lock, edge reflected": self.reflected,
            "lock, edge replicated": self.replicated,
            "lock of whole pixels": self.whole,
            "held transform": self.held,
            "held lock with margin": self.held_margin,
            "held lock, edge reflected": self.held_reflected,
            "transform, motion known": self.known(step),
        }

    def averaged(self, frames: Tensor) -> Tensor:
        """Probabilities averaged over four windows half a stride apart: four times the cost."""
        corners = [(8.0, 8.0), (8.0, 24.0), (24.0, 8.0), (24.0, 24.0)]
        parts = [self.probabilities(self.window(corner)(frames)) for corner in corners]
        return torch.stack(parts).mean(0)


def measure_pans(
    bench: Bench,
    photographs: Sequence[Tensor],
    only: Sequence[str] | None = None,
    old: Sequence[dict[str, Any]] = (),
) -> Iterator[list[dict[str, Any]]]:
    """Jitter and flips of every method for every motion, paired over photographs.

    Of some methods only if they are given, besides the network as it is, and for motions for which
    the old rows lack them.
    """
    known = {(*row["step"], row["noise"], row["method"]) for row in old}
    example = torch.zeros(1, 3, bench.size, bench.size)
    converted = None if bench.size % STRIDE else shiftproof.convert(bench.model, example).model
    for step, noise in MOTIONS:
        if only is not None and all((*step, noise, name) in known for name in only):
            continue
        generator = torch.Generator().manual_seed(0)
        pan = Pan(step, frames_that_fit(step, 36, NUM_FRAMES), bench.resize, noise=noise)
        costly = step in COSTLY and not noise and only is None
        found: dict[str, list[tuple[float, float]]] = {}
        for photograph in photographs:
            frames = pan.frames(photograph, generator)
            answers = {
                name: bench.probabilities(method(frames))
                for name, method in bench.methods(generator, step).items()
                if only is None or name in ("as it is", *only)
            }
            if costly:
                answers["average of 4 windows"] = bench.averaged(frames)
            if costly and converted is not None:
                answers["circular conversion"] = bench.probabilities(bench.plain(frames), converted)
            for name, p in answers.items():
                found.setdefault(name, []).append((float(jitter(p)), float(flip_rate(p))))
        rows = compared(step, noise, pan.num_frames, found)
        ratios = [
            f"{row['method']} {row['ratio']['value']:.2f} ({row['flips']:.1f})" for row in rows
        ]
        print(step, noise, *ratios, sep="  ", flush=True)
        yield rows


def measure_long(bench: Bench, photographs: Sequence[Tensor]) -> list[dict[str, Any]]:
    """Longer pans of larger frames: 64 pixels in steps of 4, of every other photograph.

    Frames are larger than the window by two and a half strides.
    """
    resize = bench.size + 5 * STRIDE // 2
    crop = LockedCrop(bench.size, STRIDE, resize_size=resize)
    pan = Pan((0.0, 4.0), 17, resize, room=64)
    found: dict[str, list[tuple[float, float]]] = {}
    for photograph in photographs[::2]:
        frames = pan.frames(photograph)
        windows = {
            "as it is": crop(frames, torch.zeros(len(frames), 2)),
            "locked transform": crop(frames),
            "held transform": VideoLock(crop)(frames),
        }
        for name, window in windows.items():
            p = bench.probabilities(window.clamp(0, 1))
            found.setdefault(name, []).append((float(jitter(p)), float(flip_rate(p))))
    rows = compared(pan.step, pan.noise, pan.num_frames, found)
    print(*(f"{r['method']} {r['ratio']['value']:.2f} ({r['flips']:.1f})" for r in rows), sep="  ")
    return rows


def merged(old: list[dict[str, Any]], new: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows of pans, new ones in the place of those of the same motion and method."""
    rows = {(*row["step"], row["noise"], row["method"]): row for row in [*old, *new]}
    motions = dict.fromkeys(key[:3] for key in rows)
    return [row for motion in motions for key, row in rows.items() if key[:3] == motion]


def measure_strips(bench: Bench, photographs: Sequence[Tensor]) -> dict[str, Any]:
    """The class of every frame of slow pans."""
    pan = Pan((0.0, 0.25), 64, bench.resize)
    found: dict[str, list[list[int]]] = {"as it is": [], "locked": []}
    for photograph in photographs:
        frames = pan.frames(photograph)
        for name, method in (("as it is", bench.plain), ("locked", bench.locked)):
            found[name].append(bench.probabilities(method(frames)).argmax(1).tolist())
    return {"step": list(pan.step), "classes": found}


def compared(
    step: Sequence[float], noise: float, frames: int, found: dict[str, list[tuple[float, float]]]
) -> list[dict[str, Any]]:
    """Every method against the network as it is."""
    values = {name: torch.tensor(pairs, dtype=torch.float64) for name, pairs in found.items()}
    base = values["as it is"]
    rows = []
    for name, value in values.items():
        ratio = bootstrap(
            lambda i, v=value: v[i, 0].mean(1) / base[i, 0].mean(1).clamp_min(1e-12), len(base)
        )
        flips = bootstrap(lambda i, v=value: (v - base)[i, 1].mean(1), len(base))
        rows.append(
            {
                "step": list(step),
                "noise": noise,
                "frames": frames,
                "method": name,
                "photographs": len(base),
                "jitter": float(value[:, 0].mean()),
                "flips": float(value[:, 1].mean()),
                "ratio": asdict(ratio),
                "fewer_flips": asdict(flips),
                "per_photograph": value.tolist(),
            }
        )
    return rows


def measure_accuracy(
    bench: Bench, photographs: Sequence[tuple[Tensor, str]]
) -> list[dict[str, Any]]:
    """Accuracy of still photographs behind each method, paired."""
    names = require("timm.data", extra="timm").ImageNetInfo().label_names()
    generator = torch.Generator().manual_seed(0)
    found: dict[str, list[tuple[float, float]]] = {}
    for photograph, wnid in photographs:
        x, label = photograph[None], names.index(wnid)
        for name, method in bench.methods(generator, (0.0, 0.0)).items():
            if name in HELD:  # a first frame is placed as without
                continue
            p = bench.probabilities(method(x))[0]
            found.setdefault(name, []).append((float(p[label]), float(p.argmax() == label)))
    values = {name: torch.tensor(pairs, dtype=torch.float64) for name, pairs in found.items()}
    rows = []
    for name, value in values.items():
        row: dict[str, Any] = {
            "method": name,
            "photographs": len(value),
            "probability": float(value[:, 0].mean()),
            "top1": float(100 * value[:, 1].mean()),
        }
        for other in ("as it is", "random window"):
            difference = (value - values[other]) * torch.tensor([1.0, 100.0])
            for index, what in enumerate(("probability", "top1")):
                row[f"{what} less {other}"] = asdict(
                    bootstrap(lambda i, d=difference, k=index: d[i, k].mean(1), len(value))
                )
        rows.append(row)
    return rows


def run(args: argparse.Namespace) -> int:
    if args.page is not None:
        write_page(args.page)
        return 0
    if args.large is None or args.photographs is None:
        raise RuntimeError(
            "motion: photographs are needed, got no --large or no --photographs; pass two folders"
        )
    name, size = NETWORKS[args.network]
    bench = Bench(load_network(args.package, name), size)
    large = [photograph for photograph, _ in load_photographs(args.large, args.limit)]
    out = args.out or RESULTS / f"motion-{args.network}.json"
    result: dict[str, Any] = json.loads(out.read_text()) if out.exists() else {}
    result |= {
        "schema": 1,
        "network": name,
        "size": size,
        "date": date.today().isoformat(),
        "environment": asdict(Environment.collect("cpu", torch.get_num_threads())),
    }
    parts: dict[str, Callable[[], Any]] = {
        "accuracy": lambda: measure_accuracy(bench, load_photographs(args.photographs, args.limit)),
        "strips": lambda: measure_strips(bench, large),
        "offsets": lambda: measure_offsets(large),
        "long": lambda: measure_long(bench, large),
        "drift": lambda: measure_drift(large),
        "cuts": lambda: measure_cuts(large),
    }
    for part in args.parts or ("pans", *parts):
        if part == "pans":
            old = result.get(part, [])
            for rows in measure_pans(bench, large, args.rows, old):
                result[part] = merged(result.get(part, []), rows)
                write_text(out, json.dumps(result, indent=1) + "\n")
        else:
            result[part] = parts[part]()
        write_text(out, json.dumps(result, indent=1) + "\n")
    print(out)
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.motion",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--network", choices=NETWORKS, default="lite0")
    add("--large", type=Path, metavar="DIR", help="photographs of 480 pixels and more")
    add("--photographs", type=Path, metavar="DIR", help="photographs of 256 pixels")
    add("--package", type=Path, metavar="DIR", help="where the network's packages are")
    add(
        "--parts",
        nargs="+",
        choices=("pans", "long", "accuracy", "strips", "offsets", "drift", "cuts"),
        help="all if not given",
    )
    add("--limit", type=int, metavar="N", help="photographs at most")
    page = ROOT / "docs" / "motion.md"
    add("--page", type=Path, nargs="?", const=page, help="only write the page, to this file")
    names = (*LOCKS, *HELD)
    add("--rows", nargs="+", choices=names, help="pans of these, where there are none")
    add("--out", type=Path, metavar="JSON")
    return run_command(lambda: run(parser.parse_args()))


if __name__ == "__main__":
    sys.exit(main())
