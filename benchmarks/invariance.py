"""Count logits and predictions that a circular shift changes, over real images.

    python -m benchmarks.invariance --cifar10 DIR --models cifar_resnet20_aps1 --pairs 100000
    python -m benchmarks.invariance --imagenet DIR --models resnet18_pa --images mirrored

Each pair is one image and one random circular shift of it by any number of pixels.  Logits are
compared bit for bit in float32, and the phase chosen on the image itself in bfloat16 and float16.
Networks are untrained, seed 0: invariance is a property of the architecture.
"""

import argparse
import json
import sys
import time
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor

import shiftproof
from shiftproof import nn, ops
from shiftproof.data.cifar10 import CIFAR10_MEAN, CIFAR10_STD, load_cifar10
from shiftproof.data.image_folder import open_imagenet
from shiftproof.data.plan import Batch
from shiftproof.data.transforms import Normalize
from shiftproof.files import write_text
from shiftproof.metrics import cluster_rate
from shiftproof.recipes.command import run_command
from shiftproof.results import Environment
from shiftproof.training.allocator import keep_freed_memory


def mirrored(images: Tensor) -> Tensor:
    """The left half joined with its mirror image: every component ties with its reflection."""
    half = images[..., : images.shape[-1] // 2]
    return torch.cat([half, half.flip(-1)], -1)


def enlarged(images: Tensor) -> Tensor:
    """The middle quarter enlarged two times by nearest neighbour: four equal components."""
    height, width = images.shape[2] // 4, images.shape[3] // 4
    middle = images[..., height : 3 * height, width : 3 * width]
    return middle.repeat_interleave(2, 2).repeat_interleave(2, 3)


IMAGES = {"photographs": lambda images: images, "mirrored": mirrored, "enlarged": enlarged}


def load_images(args: argparse.Namespace, count: int) -> Tensor:
    if args.cifar10 is not None:
        data = load_cifar10(args.cifar10, train=False)
        picked = torch.randperm(len(data), generator=torch.Generator().manual_seed(0))[:count]
        normalize = Normalize(CIFAR10_MEAN, CIFAR10_STD)
        return normalize(data.images[picked], torch.Generator())
    _, photographs = open_imagenet(args.imagenet, train=False)
    indices = tuple(range(min(count, len(photographs))))
    return photographs[Batch(indices, seed=0, step_size=0)].images


def random_shifts(x: Tensor, generator: torch.Generator) -> Tensor:
    sizes = x.shape[2:]
    axes = [torch.randint(0, size, (len(x),), generator=generator) for size in sizes]
    return torch.stack(axes, 1)


@torch.no_grad()
def count_logits(name: str, images: Tensor, pairs: int, batch: int, channels_last: bool) -> dict:
    torch.manual_seed(0)
    model = shiftproof.create_model(name).eval()
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    model = model.to(memory_format=memory_format)
    generator = torch.Generator().manual_seed(1)
    done, logits_differ, largest, agreeing = 0, 0, 0.0, list[int]()
    start = time.monotonic()
    rounds = -(-pairs // len(images))
    for part in images.split(batch):
        x = part.contiguous(memory_format=memory_format)
        still, same = model(x), torch.zeros(len(x), dtype=torch.int64)
        for _ in range(rounds):
            moved = model(ops.circular_shift(x, random_shifts(x, generator)))
            logits_differ += int((moved != still).any(1).sum())
            same += moved.argmax(1) == still.argmax(1)
            largest = max(largest, float((moved - still).abs().max() / still.std()))
            done += len(x)
        agreeing += same.tolist()
    return {
        "model": name,
        "memory_format": str(memory_format),
        "pairs": done,
        "images": len(images),
        "size": images.shape[-1],
        "differing_logits": logits_differ,
        "differing_predictions": done - sum(agreeing),
        "largest_difference_over_std": largest,
        "consistency": asdict(cluster_rate("circular", agreeing, [rounds] * len(agreeing))),
        "seconds": time.monotonic() - start,
    }


@torch.no_grad()
def count_phases(images: Tensor, pairs: int, dtype: torch.dtype) -> dict:
    select, generator = nn.SelectPhase2d(2), torch.Generator().manual_seed(2)
    done, differ, naive = 0, 0, 0
    for _ in range(-(-pairs // len(images))):
        for x in images.to(dtype).split(256):
            shifts = random_shifts(x, generator)
            moved = ops.circular_shift(x, shifts)
            expected, _ = ops.shift_phase(select(x), shifts, (2, 2))
            differ += int((select(moved) != expected).sum())
            # What the published formulation computes: the norm in the dtype of the map.
            norms = ops.polyphase_split(x, 2).square().sum((1, 3, 4))
            other = ops.polyphase_split(moved, 2).square().sum((1, 3, 4))
            expected, _ = ops.shift_phase(norms.argmax(1), shifts, (2, 2))
            naive += int((other.argmax(1) != expected).sum())
            done += len(x)
    return {
        "dtype": str(dtype),
        "pairs": done,
        "differing_phases": differ,
        "differing_phases_of_a_norm_in_that_dtype": naive,
    }


def write_results(path: Path, results: list[dict]) -> None:
    """Write what was counted, with the machine and the versions."""
    environment = asdict(Environment.collect("cpu", torch.get_num_threads()))
    write_text(path, json.dumps({"environment": environment, "results": results}, indent=2) + "\n")


def run(args: argparse.Namespace) -> int:
    keep_freed_memory()
    if (args.cifar10 is None) == (args.imagenet is None):
        raise ValueError("invariance: pass one of --cifar10 and --imagenet, got both or none")
    photographs = load_images(args, args.num_images)
    results = []
    for kind in args.images:
        images = IMAGES[kind](photographs)
        for name in args.models:
            found = count_logits(name, images, args.pairs, args.batch, not args.contiguous)
            results.append({"images_are": kind, **found})
            print(json.dumps(results[-1]), flush=True)
        if args.phases:
            for dtype in (torch.bfloat16, torch.float16):
                found = count_phases(images, args.phases, dtype)
                results.append({"images_are": kind, **found})
                print(json.dumps(results[-1]), flush=True)
    if args.out is not None:
        write_results(args.out, results)
    changed = sum(r.get("differing_logits", 0) + r.get("differing_phases", 0) for r in results)
    print(f"{changed} differing logits and phases in all")
    return int(changed > 0)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cifar10", type=Path, metavar="DIR", help="CIFAR-10, any layout")
    parser.add_argument("--imagenet", type=Path, metavar="DIR", help="folder with val/<class>/*")
    parser.add_argument("--models", nargs="*", default=[], help="registered names")
    parser.add_argument("--images", nargs="+", choices=IMAGES, default=["photographs"])
    parser.add_argument("--num-images", type=int, default=500)
    parser.add_argument("--pairs", type=int, default=1000, help="pairs per network")
    parser.add_argument("--phases", type=int, default=0, help="pairs for the choice in half types")
    parser.add_argument("--batch", type=int, default=50)
    parser.add_argument("--contiguous", action="store_true", help="NCHW instead of channels_last")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    args = parser.parse_args()
    return run_command(lambda: run(args))


if __name__ == "__main__":
    sys.exit(main())
