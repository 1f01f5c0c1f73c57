"""Where exact invariance ends: the same networks under one changed condition at a time.

    python -m benchmarks.limits --cifar10 DIR --weights cifar_resnet20_pa=model.pt ...
    python -m benchmarks.limits --imagenet DIR --models resnet18_aps1 resnet18_pa

Each row changes one thing: the memory format, the dtype, the final mean, the choice, the padding,
the kind of image or the kind of shift.  It counts, over pairs of an image and a shifted copy, the
logits that differ in any bit and the predictions that differ, and gives the largest difference of a
logit in units of their standard deviation.
"""

import argparse
import contextlib
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from torch import Tensor

import shiftproof
from benchmarks.entries_models import replace_selects
from benchmarks.invariance import enlarged, load_images, mirrored, random_shifts, write_results
from shiftproof import nn, ops
from shiftproof.metrics import cluster_rate
from shiftproof.models.weights import load_weights
from shiftproof.recipes.command import run_command
from shiftproof.training.allocator import keep_freed_memory

Pair = tuple[Tensor, Tensor]


class NaiveChoice(nn.SelectPhase2d):
    """The largest norm in float32 and the first among equals, as a layer that selects."""

    def forward(self, x: Tensor, *others: Tensor) -> Tensor:
        components = ops.polyphase_split(x.float(), self.stride)
        return torch.linalg.vector_norm(components, dim=(1, 3, 4)).argmax(1)


def choose_naively(model: torch.nn.Module) -> torch.nn.Module:
    return replace_selects(model, NaiveChoice)


def mean_naively(model: torch.nn.Module) -> torch.nn.Module:
    model.avgpool = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
    return model


def circular(x: Tensor, generator: torch.Generator) -> Pair:
    return x, ops.circular_shift(x, random_shifts(x, generator))


def zero_filled(x: Tensor, generator: torch.Generator) -> Pair:
    shifts = torch.randint(-3, 4, (len(x), 2), generator=generator)
    return x, ops.zero_fill_shift(x, shifts)[0]


def cropped(x: Tensor, generator: torch.Generator) -> Pair:
    """Two windows of seven eighths of the image, up to an eighth of it apart."""
    size = [length * 7 // 8 // 4 * 4 if length < 64 else length * 6 // 7 for length in x.shape[2:]]
    room = x.shape[-1] - size[-1]
    starts = torch.randint(0, room + 1, (2, len(x), 2), generator=generator)
    return ops.crop_shift(x, starts[0], size), ops.crop_shift(x, starts[1], size)


@dataclass(frozen=True)
class Condition:
    """One thing that is not as the guarantee wants it, or a kind of image that tests it."""

    name: str
    options: dict[str, object] = field(default_factory=dict)
    change: Callable[[torch.nn.Module], torch.nn.Module] = lambda model: model
    images: Callable[[Tensor], Tensor] = lambda images: images
    pairs: Callable[[Tensor, torch.Generator], Pair] = circular
    dtype: torch.dtype = torch.float32
    autocast: bool = False
    channels_last: bool = True


CONDITIONS = (
    Condition("as it is: float32, channels_last"),
    Condition("default memory format (NCHW)", channels_last=False),
    Condition("float64", dtype=torch.float64),
    Condition("bfloat16 weights and activations", dtype=torch.bfloat16),
    Condition("bfloat16 autocast", autocast=True),
    Condition("mirrored images", images=mirrored),
    Condition("images enlarged two times", images=enlarged),
    Condition("torch's mean at the end", change=mean_naively),
    Condition("argmax of float32 norms", change=choose_naively),
    Condition("argmax of float32 norms, mirrored", change=choose_naively, images=mirrored),
    Condition("argmax of float32 norms, enlarged", change=choose_naively, images=enlarged),
    Condition("zero padding", options={"padding_mode": "zeros"}),
    Condition("zero-fill shifts up to 3", pairs=zero_filled),
    Condition("crop shifts up to an eighth", pairs=cropped),
)


def build(name: str, condition: Condition, weights: dict[str, Path]) -> torch.nn.Module:
    torch.manual_seed(0)
    classes = {"num_classes": 10} if name in weights else {}
    model = shiftproof.create_model(name, **classes, **condition.options)
    if name in weights:
        load_weights(model, weights[name])
    memory_format = torch.channels_last if condition.channels_last else torch.contiguous_format
    return condition.change(model.eval()).to(condition.dtype).to(memory_format=memory_format)


@torch.no_grad()
def measure(name: str, condition: Condition, images: Tensor, args: argparse.Namespace) -> dict:
    model = build(name, condition, args.weights)
    layout = torch.channels_last if condition.channels_last else torch.contiguous_format
    context = (
        torch.autocast("cpu", torch.bfloat16) if condition.autocast else contextlib.nullcontext()
    )
    generator = torch.Generator().manual_seed(1)
    count = logits = 0
    largest, rounds = 0.0, -(-args.pairs // len(images))
    agreeing = torch.zeros(len(images), dtype=torch.int64)
    with context:
        for _ in range(rounds):
            same = []
            for part in condition.images(images).to(condition.dtype).split(args.batch):
                pair = condition.pairs(part, generator)
                still, moved = (model(x.contiguous(memory_format=layout)).double() for x in pair)
                logits += int((moved != still).any(1).sum())
                same.append(moved.argmax(1) == still.argmax(1))
                largest = max(largest, float((moved - still).abs().max() / still.std()))
                count += len(part)
            agreeing += torch.cat(same)
    return {
        "model": name,
        "trained": name in args.weights,
        "condition": condition.name,
        "pairs": count,
        "differing_logits": logits,
        "differing_predictions": count - int(agreeing.sum()),
        "largest_difference_over_std": largest,
        "consistency": asdict(
            cluster_rate("consistency", agreeing.tolist(), [rounds] * len(agreeing))
        ),
    }


def run(args: argparse.Namespace) -> int:
    keep_freed_memory()
    if (args.cifar10 is None) == (args.imagenet is None):
        raise ValueError("limits: pass one of --cifar10 and --imagenet, got both or none")
    images = load_images(args, args.num_images)
    results = []
    for name in [*args.weights, *args.models]:
        for condition in CONDITIONS:
            found = measure(name, condition, images, args)
            results.append(found)
            print(
                f"{name:24} {found['condition']:40} {found['pairs']:7} pairs "
                f"{found['differing_logits']:7} logits {found['differing_predictions']:6} "
                f"predictions {found['largest_difference_over_std']:9.1e} std",
                flush=True,
            )
    if args.out is not None:
        write_results(args.out, results)
    return 0


def named_file(text: str) -> tuple[str, Path]:
    name, _, path = text.partition("=")
    return name, Path(path)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cifar10", type=Path, metavar="DIR", help="CIFAR-10, any layout")
    parser.add_argument("--imagenet", type=Path, metavar="DIR", help="folder with val/<class>/*")
    parser.add_argument("--models", nargs="*", default=[], help="untrained networks")
    parser.add_argument(
        "--weights", nargs="*", default=[], type=named_file, help="trained ones, NAME=FILE"
    )
    parser.add_argument("--num-images", type=int, default=500)
    parser.add_argument("--pairs", type=int, default=2000, help="pairs per row")
    parser.add_argument("--batch", type=int, default=50)
    parser.add_argument("--out", type=Path, help="JSON file to write")
    args = parser.parse_args()
    args.weights = dict(args.weights)
    return run_command(lambda: run(args))


if __name__ == "__main__":
    sys.exit(main())
