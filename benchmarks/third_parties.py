"""Convert and certify networks of seven libraries, called as their users call them.

    python -m benchmarks.third_parties                     all of them, about half an hour
    python -m benchmarks.third_parties --only 'monai:*'    some of them
    python -m benchmarks.third_parties --resume            those that have no result yet

It needs segmentation_models_pytorch, transformers, monai, diffusers, kornia and braindecode, which
nothing else does.  Results go to a JSON file after every network; the page of
``benchmarks.coverage --page`` shows them.
"""

import argparse
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks import third_parties_images as of_images
from benchmarks import third_parties_volumes as of_volumes
from benchmarks.coverage import machine, matching, run_apart
from benchmarks.coverage_measure import Tools, digest, of_certificate, of_failure, of_plan
from benchmarks.coverage_models import redraw, settle
from benchmarks.coverage_page import Coverage, Row
from benchmarks.measured import RESULTS
from benchmarks.third_party_networks import Network
from shiftproof.inputs import find_inputs
from shiftproof.recipes.command import run_command

LIBRARIES: dict[str, Callable[[], Iterator[Network]]] = {
    "segmentation_models_pytorch": of_images.segmentation_models,
    "transformers": of_images.transformers,
    "monai": of_volumes.monai,
    "diffusers": of_volumes.diffusers,
    "kornia": of_images.kornia,
    "torchvision": of_images.torchvision,
    "braindecode": of_volumes.braindecode,
}
PACKAGES = [name for name in LIBRARIES if name != "torchvision"]


def _row(key: str, **found: Any) -> Row:
    library, _, name = key.partition(":")
    return Row(key, library, library, "third party", name, **{"size": 0, **found})


def measure(key: str, code: str = "") -> Row:
    """Wake, convert and certify one network."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    start = time.monotonic()
    tools = Tools.load()
    found: dict[str, Any] = {"step": "build"}
    try:
        network = {n.key: n for n in LIBRARIES[key.partition(":")[0]]()}[key]
        model, args, kwargs = network.build(), network.args(), network.kwargs()
        inputs = find_inputs("benchmarks", model, args, kwargs, network.images)
        found["size"], found["images"] = inputs.sizes[-1], len(inputs.tensors[0])
        found["parameters"] = sum(value.numel() for value in model.parameters())
        found["step"] = "wake"
        redraw(model)
        try:
            found["response"] = settle(model, lambda: model(*args, **kwargs))
        except (ArithmeticError, IndexError, RuntimeError, TypeError) as error:
            found["remark"] = f"not woken: {error}"
            model = network.build()
        found["step"] = "convert"
        conversion = tools.convert(model, args, kwargs, images=network.images)
        found.update(of_plan(conversion.plan), step="certify")
        generator = torch.Generator().manual_seed(20)
        sizes = torch.tensor(inputs.sizes)
        drawn = torch.rand(5, len(sizes), generator=generator) * (sizes - 1)
        found["shifts"] = (1 + drawn.long()).tolist()
        options = {"images": network.images, "shifts": found["shifts"]}
        certificate = tools.certify(conversion.model, args, kwargs, **options)
        found.update(of_certificate(certificate, certificate.float64 or certificate.own))
    except tools.refusal as error:
        found.update(verdict="refused", detail=str(error))
    except Exception as error:
        found.update(of_failure(error, found["step"]))
        traceback.print_exc()
    del found["step"]
    return _row(key, **found, code=code, seconds=time.monotonic() - start)


def run(args: argparse.Namespace) -> int:
    keys = [network.key for listed in LIBRARIES.values() for network in listed()]
    patterns = args.only or ["*"]
    chosen = list(dict.fromkeys(key for p in patterns for key in matching(keys, p)))
    coverage = Coverage(keys, machine(*PACKAGES))
    if args.out.exists() and (args.resume or args.only):
        coverage.rows.update(Coverage.load(args.out).rows)
    if args.resume:
        chosen = [key for key in chosen if key not in coverage.rows]
    results = run_apart(partial(measure, code=digest()), chosen, args.workers, args.limit)
    for key, result in results:
        row = _row(key, detail=result) if isinstance(result, str) else result
        print(row.line(), flush=True)
        coverage.rows[key] = row
        coverage.save(args.out)
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.third_parties",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--only", nargs="+", metavar="PATTERN", help="LIBRARY:NETWORK, or patterns of them")
    add("--resume", action="store_true", help="leave out those that have a result")
    add("--workers", type=int, default=2, metavar="N", help="networks at a time")
    add("--limit", type=float, default=600, metavar="S", help="seconds for one network")
    add("--out", type=Path, default=RESULTS / "third_parties.json", metavar="JSON")
    return run_command(lambda: run(parser.parse_args()))


if __name__ == "__main__":
    sys.exit(main())
