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
from collections.abc import Callable, Sequence
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
from benchmarks.motion_page import LOCKS, write_page
from benchmarks.pretrained import load_network
from shiftproof.extras import require
from shiftproof.files import write_text
from shiftproof.metrics import flip_rate, jitter
from shiftproof.motion import LockedCrop, locate_grid
from shiftproof.motion.pans import STEPS, Pan, frames_that_fit
from shiftproof.nn import (
    CornerStrength,
    DifferenceOfGaussians,
    Energy,
    GridLock2d,
    WholePixels,
)
from shiftproof.ops.resample import resample
from shiftproof.recipes.command import run_command
from shiftproof.results import Environment

STRIDE = 32
NUM_FRAMES = 9
NETWORKS = {"lite0": ("efficientnet-lite0", 224), "lite1": ("efficientnet-lite1", 240)}
SELECTORS: dict[str, torch.nn.Module] = {
    "corner strength": CornerStrength(),
    "difference of Gaussians": DifferenceOfGaussians(),
    "energy": Energy(2),
    "absolute values": Energy(1),
}
NOISE = 2.0
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

    def methods(self, generator: torch.Generator) -> dict[str, Method]:
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
        }

    def averaged(self, frames: Tensor) -> Tensor:
        """Probabilities averaged over four windows half a stride apart: four times the cost."""
        corners = [(8.0, 8.0), (8.0, 24.0), (24.0, 8.0), (24.0, 24.0)]
        parts = [self.probabilities(self.window(corner)(frames)) for corner in corners]
        return torch.stack(parts).mean(0)


def measure_pans(
    bench: Bench, photographs: Sequence[Tensor], *, few: bool = False
) -> list[dict[str, Any]]:
    """Jitter and flips of every method for every motion, paired over photographs."""
    example = torch.zeros(1, 3, bench.size, bench.size)
    converted = None if bench.size % STRIDE else shiftproof.convert(bench.model, example).model
    rows = []
    for step, noise in MOTIONS:
        generator = torch.Generator().manual_seed(0)
        pan = Pan(step, frames_that_fit(step, 36, NUM_FRAMES), bench.resize, noise=noise)
        costly = step in COSTLY and not noise and not few
        found: dict[str, list[tuple[float, float]]] = {}
        for photograph in photographs:
            frames = pan.frames(photograph, generator)
            answers = {
                name: bench.probabilities(method(frames))
                for name, method in bench.methods(generator).items()
                if not few or name in ("as it is", *LOCKS)
            }
            if costly:
                answers["average of 4 windows"] = bench.averaged(frames)
            if costly and converted is not None:
                answers["circular conversion"] = bench.probabilities(bench.plain(frames), converted)
            for name, p in answers.items():
                found.setdefault(name, []).append((float(jitter(p)), float(flip_rate(p))))
        rows += compared(step, noise, pan.num_frames, found)
        ratios = [
            f"{row['method']} {row['ratio']['value']:.2f} ({row['flips']:.1f})"
            for row in rows[-len(found) :]
        ]
        print(step, noise, *ratios, sep="  ", flush=True)
    return rows


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


DISTURBANCES: dict[str, Callable[[Tensor, torch.Generator], Tensor]] = {
    "none": lambda x, g: x,
    "noise of 2 / 255": lambda x, g: x + NOISE / 255 * torch.randn(x.shape, generator=g),
    "exposure, 0.9 to 1.1": lambda x, g: (
        x * torch.linspace(0.9, 1.1, len(x)).reshape(-1, 1, 1, 1)
    ).clamp(0, 1),
    "JPEG of quality 75": lambda x, g: _jpeg(x),
}


def _jpeg(x: Tensor) -> Tensor:
    io = require("torchvision.io", extra="train")
    images = (255 * x).round().clamp(0, 255).to(torch.uint8)
    return torch.stack([io.decode_jpeg(io.encode_jpeg(i, quality=75)) for i in images]) / 255


def measure_offsets(photographs: Sequence[Tensor], size: int = 224) -> list[dict[str, Any]]:
    """How well the offset stays with the content: share of moves with the same grid, and slip."""
    rows = []
    moves = [(0.0, 0.25), (0.3, 0.37), (0.0, 1.0), (1.0, 0.0), (0.0, 4.0), (8.0, 0.0), (0.0, 8.0)]
    for disturbance, disturb in DISTURBANCES.items():
        generator = torch.Generator().manual_seed(0)
        pairs: dict[tuple[float, float], list[Tensor]] = {}
        for photograph in photographs:
            for move in moves:
                pan = Pan(move, 2, size, scale=1.0)
                frames = disturb(pan.frames(photograph), generator)
                pairs.setdefault(move, []).append(frames)
        stacked = {move: torch.cat(frames) for move, frames in pairs.items()}
        for stride in (2, 8, 16, 32):
            for name, selector in SELECTORS.items():
                tapers = ("sine", "hann", "none") if disturbance == "none" else ("sine",)
                for taper in tapers:
                    for move, frames in stacked.items():
                        place = torch.cat(
                            [
                                locate_grid(part, stride, selector, taper=taper).offset
                                for part in frames.split(28)
                            ]
                        ).reshape(-1, 2, 2)
                        slip = place[:, 1] - place[:, 0] + torch.tensor(move)
                        slip = (slip + stride / 2).remainder(stride) - stride / 2
                        far = slip.norm(dim=1)
                        quantiles = torch.quantile(far, torch.tensor([0.5, 0.9, 0.99])).tolist()
                        rows.append(
                            {
                                "disturbance": disturbance,
                                "stride": stride,
                                "selector": name,
                                "taper": taper,
                                "move": list(move),
                                "photographs": len(far),
                                "same": float((far < 0.5).double().mean()),
                                "slip": quantiles,
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
        for name, method in bench.methods(generator).items():
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
        "pans": lambda: measure_pans(bench, large, few=args.few),
        "accuracy": lambda: measure_accuracy(bench, load_photographs(args.photographs, args.limit)),
        "strips": lambda: measure_strips(bench, large),
        "offsets": lambda: measure_offsets(large),
    }
    for part in args.parts or parts:
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
        choices=("pans", "accuracy", "strips", "offsets"),
        help="all if not given",
    )
    add("--limit", type=int, metavar="N", help="photographs at most")
    page = ROOT / "docs" / "motion.md"
    add("--page", type=Path, nargs="?", const=page, help="only write the page, to this file")
    add("--few", action="store_true", help="only the locks")
    add("--out", type=Path, metavar="JSON")
    return run_command(lambda: run(parser.parse_args()))


if __name__ == "__main__":
    sys.exit(main())
