"""A text detector that people run, while the page moves: as it is, and locked as a file.

    python -m benchmarks.text_detector --package DIR            20 pages that are drawn
    python -m benchmarks.text_detector --package DIR --data DIR your own scans, white at the edges

``--package`` is where ``pip install --no-deps --target DIR rapidocr-onnxruntime`` put the detector
of PP-OCRv4.  Pages are drawn with matplotlib's fonts.  They move by whole pixels and are rolled,
which is a true movement since their margins are white.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.gate import ROOT
from benchmarks.measured import RESULTS
from shiftproof.extras import require
from shiftproof.files import write_text
from shiftproof.motion import lock_file
from shiftproof.motion.networks import session
from shiftproof.nn import DarkestPhase, WholePixels
from shiftproof.recipes.command import run_command
from shiftproof.results import Environment

SIZE, MARGIN, STRIDE, THRESHOLD = 640, 52, 32, 0.3
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
DETECTOR = "rapidocr_onnxruntime/models/ch_PP-OCRv4_det_infer.onnx"
MOVES = [(1, 0), (0, 1), (3, 2), (7, 5), (16, 9), (31, 31)]
WHOLE_STRIDES = [(STRIDE, 0), (0, STRIDE), (STRIDE, STRIDE), (-STRIDE, -STRIDE)]
NUM_PAGES, NUM_MOVES, NUM_RUNS = 20, 24, 20
TEXT = """a page of text that moves under the camera shows the same words in other places and the
detector answers for each place anew although nothing in it has changed between two frames
invoice total amount street number delivery reference contract 2024 1,280.00 page customer"""
WORDS = TEXT.split()
FAMILIES = ("DejaVu Sans", "DejaVu Serif", "DejaVu Sans Mono")
HEIGHTS = (10, 12, 14, 16, 20, 28)
BARS = {"iou": 0.99, "changed": 1 / 3, "cost": 0.05}
Mask = Callable[[Any], Any]


def draw_page(seed: int) -> Any:
    """A page of several columns, ``(SIZE, SIZE, 3)``, with lines of several sizes."""
    figures = require("matplotlib.figure", extra="report")
    canvases = require("matplotlib.backends.backend_agg", extra="report")
    random = np.random.default_rng(seed)
    figure = figures.Figure(figsize=(SIZE / 100, SIZE / 100), dpi=100, facecolor="white")
    canvas = canvases.FigureCanvasAgg(figure)
    columns, gap = int(random.integers(1, 4)), 24
    width = (SIZE - 2 * MARGIN - gap * (columns - 1)) / columns
    family = str(random.choice(FAMILIES))
    for column in range(columns):
        left, top = MARGIN + column * (width + gap), MARGIN + 4.0
        while True:
            height = float(random.choice(HEIGHTS))
            if top + 1.4 * height > SIZE - MARGIN:
                break
            line = ""
            while True:
                word = str(random.choice(WORDS))
                if (len(line) + 1 + len(word)) * 0.68 * height > width:
                    break
                line = f"{line} {word}".strip()
            style = {"family": family, "va": "top", "color": str(random.choice(["0", "0.2"]))}
            figure.text(left / SIZE, 1 - top / SIZE, line, fontsize=height * 0.72, **style)
            top += height * float(random.uniform(1.4, 2.4))
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def load_pages(folder: Path) -> list[Any]:
    """Scans, scaled to fit and laid on white paper with the margin of the drawn ones."""
    pillow = require("PIL.Image", extra="train")
    pages = []
    for path in sorted(p for p in folder.iterdir() if p.suffix.lower() in (".png", ".jpg", ".tif")):
        scan = pillow.open(path).convert("RGB")
        scan.thumbnail((SIZE - 2 * MARGIN, SIZE - 2 * MARGIN))
        page = pillow.new("RGB", (SIZE, SIZE), "white")
        page.paste(scan, ((SIZE - scan.width) // 2, (SIZE - scan.height) // 2))
        pages.append(np.asarray(page))
    if not pages:
        raise RuntimeError(
            f"text_detector: --data must hold .png, .jpg or .tif, got none in {folder}; pass others"
        )
    return pages


def edge_of(page: Any) -> int:
    """Pixels of white around what is on a page."""
    ink = (page < 250).any(2)
    rows, columns = np.flatnonzero(ink.any(1)), np.flatnonzero(ink.any(0))
    return int(min(rows[0], columns[0], SIZE - 1 - rows[-1], SIZE - 1 - columns[-1]))


def normalised(page: Any) -> Any:
    scaled = (page / 255 - np.array(MEAN)) / np.array(DEVIATION)
    return np.ascontiguousarray(scaled.astype(np.float32).transpose(2, 0, 1)[None])


def detector(path: Path) -> Mask:
    runner = session(path)
    name = runner.get_inputs()[0].name
    return lambda page: runner.run(None, {name: normalised(page)})[0][0, 0] > THRESHOLD


def moves_of(seed: int) -> list[tuple[int, int]]:
    random = np.random.default_rng(1000 + seed)
    others = random.integers(1 - STRIDE, STRIDE, (NUM_MOVES - len(MOVES), 2))
    return MOVES + [(int(row), int(column)) for row, column in others]


def measure(
    mask: Mask, pages: Sequence[Any], moves: Sequence[tuple[int, int]] | None = None
) -> list[dict[str, Any]]:
    """Overlap of masks, and numbers of boxes, for every page and move."""
    label = require("scipy.ndimage", extra="train").label
    rows = []
    for index, page in enumerate(pages):
        before = mask(page)
        boxes = label(before)[1]
        for move in moves_of(index) if moves is None else moves:
            after, expected = mask(np.roll(page, move, (0, 1))), np.roll(before, move, (0, 1))
            union = int((after | expected).sum())
            iou = int((after & expected).sum()) / union if union else 1.0
            found = {"page": index, "move": list(move), "iou": iou}
            rows.append({**found, "boxes": boxes, "boxes_moved": label(after)[1]})
    return rows


def summary(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    values = [row["iou"] for row in rows]
    pages = {row["page"] for row in rows}
    changed = [row for row in rows if row["boxes"] != row["boxes_moved"]]
    exact = sum(value == 1 for value in values)
    per_page = [statistics.mean(r["iou"] for r in rows if r["page"] == page) for page in pages]
    return {
        "moves": len(rows),
        "iou": statistics.mean(values),
        "iou_least": min(values),
        "iou_per_page": per_page,
        "same_mask": exact,
        "boxes_changed": len(changed),
    }


def measure_floor(mask: Mask, pages: Sequence[Any]) -> dict[str, Any]:
    """What whole strides alone change, which no lock sees: as it is, and with more white around."""
    found = {}
    for white in (0, 64):
        wide = [
            np.pad(page, ((white, white), (white, white), (0, 0)), constant_values=255)
            for page in pages
        ]
        found[f"{white} pixels of white added"] = summary(measure(mask, wide, WHOLE_STRIDES))
    return found


def measure_cost(plain: Path, locked: Path, page: Any) -> dict[str, float]:
    """Interleaved medians of both files."""
    runners = [session(path) for path in (plain, locked)]
    feed = {runners[0].get_inputs()[0].name: normalised(page)}
    times: list[list[float]] = [[], []]
    for turn in range(NUM_RUNS + 2):
        for runner, kept in zip(runners, times, strict=True):
            start = time.perf_counter()
            runner.run(None, feed)
            if turn >= 2:
                kept.append(time.perf_counter() - start)
    medians = [statistics.median(kept) for kept in times]
    ratio = medians[1] / medians[0] - 1
    return {"runs": NUM_RUNS, "seconds": medians[0], "seconds_locked": medians[1], "cost": ratio}


def draw(masks: Sequence[tuple[str, Mask]], page: Any, path: Path) -> None:
    """The page and both masks at three scroll positions; what changed is coloured."""
    figures = require("matplotlib.figure", extra="report")
    rows, columns = slice(45, 205), slice(40, 360)
    scrolls = (0, 5, 11)
    figure = figures.Figure(figsize=(12, 6.6), layout="constrained")
    axes = figure.subplots(3, 3)
    for column, scroll in enumerate(scrolls):
        moved = np.roll(page, -scroll, 0)
        axes[0, column].imshow(moved[rows, columns])
        axes[0, column].set_title(f"scrolled by {scroll} pixels", fontsize=12)
        for row, (_, mask) in enumerate(masks, 1):
            before = np.roll(mask(page), -scroll, 0)
            after = mask(moved)
            shown = np.full((SIZE, SIZE, 3), 1.0)
            shown[after & before] = (0.70, 0.72, 0.75)
            shown[after & ~before] = (0.80, 0.10, 0.10)
            shown[before & ~after] = (0.10, 0.30, 0.85)
            axes[row, column].imshow(shown[rows, columns], interpolation="nearest")
            differing = int((after ^ before).sum())
            text = (
                ""
                if not column
                else f"{differing:,} pixels differ from the first".replace(",", " ")
            )
            axes[row, column].set_title(text, fontsize=10)
        for axis in axes[:, column]:
            axis.set_xticks([])
            axis.set_yticks([])
    for row, name in enumerate(("page", *(name for name, _ in masks))):
        axes[row, 0].set_ylabel(name, fontsize=12)
    figure.supxlabel("grey: text, as before scrolling; red: new; blue: gone", fontsize=11)
    figure.savefig(path, dpi=100)


def run(args: argparse.Namespace) -> int:
    plain = args.package / DETECTOR
    if not plain.is_file():
        raise RuntimeError(
            f"text_detector: the detector must be in --package, got no {plain}; run pip install "
            "--no-deps --target DIR rapidocr-onnxruntime"
        )
    pages = load_pages(args.data) if args.data else [draw_page(seed) for seed in range(NUM_PAGES)]
    edges = [edge_of(page) for page in pages]
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "locked.onnx"
        output = session(plain).get_outputs()[0].name
        # The command: shiftproof lock FILE --out OUT --stride 32 --dense OUTPUT --selector darkest
        # --whole-pixels --padding replicate
        options: Any = {"padding_mode": "replicate", "dense": [output]}
        lock = lock_file(
            plain, out, stride=STRIDE, selector=DarkestPhase(), interpolation=WholePixels(),
            **options,
        )  # fmt: skip
        print(lock, flush=True)
        masks = [("as it is", detector(plain)), ("locked", detector(out))]
        draw(masks, pages[args.shown], args.picture)
        result: dict[str, Any] = {
            "schema": 1,
            "network": f"PP-OCRv4 detection, rapidocr-onnxruntime {args.version}",
            "date": date.today().isoformat(),
            "environment": asdict(Environment.collect("cpu", torch.get_num_threads())),
            "onnxruntime": version("onnxruntime"),
            "onnx": version("onnx"),
            "pages": str(len(pages)) + (" scans" if args.data else " drawn"),
            "edge": min(edges),
            "cost": measure_cost(plain, out, pages[0]),
        }
        for name, mask in masks:
            rows = measure(mask, pages)
            result[name] = {**summary(rows), "rows": rows}
    result["whole strides"] = measure_floor(masks[0][1], pages)
    before, after = result["as it is"], result["locked"]
    shares = {
        "iou": after["iou"],
        "changed": after["boxes_changed"] / max(1, before["boxes_changed"]),
        "cost": result["cost"]["cost"],
    }
    met = {name: shares[name] <= bar for name, bar in BARS.items()}
    met["iou"] = shares["iou"] >= BARS["iou"]
    result |= {"bars": BARS, "measured": shares, "met": met}
    write_text(args.out, json.dumps(result) + "\n")
    for name in ("as it is", "locked"):
        kept = {k: v for k, v in result[name].items() if k not in ("rows", "iou_per_page")}
        print(name, kept)
    print(
        {
            name: (found["iou"], found["boxes_changed"], found["moves"], found["same_mask"])
            for name, found in result["whole strides"].items()
        }
    )
    print(result["cost"], shares, met, args.out, sep="\n")
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.text_detector",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--package", type=Path, required=True, metavar="DIR", help="where the detector is")
    add("--data", type=Path, metavar="DIR", help="scans; drawn pages if not given")
    add("--shown", type=int, default=0, metavar="N", help="page of the picture")
    add("--version", default="1.4.4", help="version of the package, for the record")
    add("--picture", type=Path, default=ROOT / "docs" / "text_detector.png", metavar="PNG")
    add("--out", type=Path, default=RESULTS / "text_detector.json", metavar="JSON")
    return run_command(lambda: run(parser.parse_args()))


if __name__ == "__main__":
    sys.exit(main())
