"""The command ``shiftproof``."""

import argparse
import copy
import dataclasses
import functools
import json
import sys
from pathlib import Path
from typing import Any

import shiftproof
from shiftproof.audit.evaluate_options import add_arguments as add_evaluate
from shiftproof.audit.options import add_arguments as add_audit
from shiftproof.extras import require
from shiftproof.ops.resample import EDGE_MODES
from shiftproof.recipes.command import run_command
from shiftproof.training.interrupt import STOPPED


def _list(args: argparse.Namespace) -> int:
    names = shiftproof.list_models(args.pattern)
    if not names:
        raise ValueError(
            f"shiftproof list: the pattern must match a model, got {args.pattern!r}; "
            "try '*' for all of them"
        )
    print("\n".join(names))
    return 0


def _demo(args: argparse.Namespace) -> int:
    from shiftproof.files import write_text
    from shiftproof.recipes.digits import MODELS, run_demo
    from shiftproof.report import (
        DEMO_COLUMNS,
        demo_rows,
        markdown_table,
        plot_accuracy_over_shifts,
        print_table,
        runs_page,
    )
    from shiftproof.training.distributed import process_group

    with process_group(device=args.device) as process:
        results = run_demo(args.folder, process, epochs=args.epochs)
    if len(results) < len(MODELS):
        return STOPPED
    rows = demo_rows(results)
    write_text(args.folder / "table.md", markdown_table(DEMO_COLUMNS, rows))
    figure = plot_accuracy_over_shifts(results, args.folder / "accuracy_over_shifts.png")
    print_table(DEMO_COLUMNS, rows)
    print(f"accuracy at every shift: {figure}\nnumbers: {args.folder}/<network>/result.json")
    _write_page(runs_page(results), args.folder / "report.html")
    return 0


def _write_page(page: str, path: Path) -> None:
    from shiftproof.files import write_text

    write_text(path, page)
    print(f"report: {path.absolute().as_uri()}")


def _audit(args: argparse.Namespace) -> int:
    from shiftproof.audit.command import audit
    from shiftproof.report import audit_page
    from shiftproof.results.audit import save_audit

    require("jinja2", extra="report")
    result = audit(args)
    save_audit(result, args.out.with_suffix(".json"))
    _write_page(audit_page(result), args.out)
    return 0


def _evaluate(args: argparse.Namespace) -> int:
    from shiftproof.audit.evaluate import evaluate
    from shiftproof.report.evaluation import difference_lines, evaluation_json, evaluation_table
    from shiftproof.report.tables import print_table

    found = evaluate(args)
    if found.is_main and args.json:
        print(evaluation_json(found.results, found.differences))
    elif found.is_main and found.results:
        print_table(*evaluation_table(found.results))
        print("\n".join(difference_lines(found.differences)), end="\n" * bool(found.differences))
    return STOPPED if found.stopped else 0


def _report(args: argparse.Namespace) -> int:
    from shiftproof.report import runs_page
    from shiftproof.results import load_result

    found: list[Path] = []
    for path in args.runs:
        names = [path] if path.is_file() else [path / "result.json", *path.glob("*/result.json")]
        files = sorted(name for name in names if name.is_file())
        if not files:
            raise RuntimeError(
                f"shiftproof report: a run must be a result.json or a folder that holds some, got "
                f"{path}; train first, or check the path"
            )
        found += files
    _write_page(runs_page([load_result(path) for path in found]), args.out)
    return 0


def _network(args: argparse.Namespace) -> Any:
    """The network that was named, in evaluation mode."""
    import torch

    from shiftproof.models.named import named_model

    for name in ("size", "batch"):
        if getattr(args, name) < 1:
            raise ValueError(f"--{name}: must be at least 1, got {getattr(args, name)}; enlarge it")
    torch.manual_seed(0)
    return named_model(args.model, args.weights, untrained=args.untrained).eval()


def _images(args: argparse.Namespace, model: Any) -> Any:
    """Random images with as many channels as the network takes, which is found by trying."""
    import torch

    first = next((p.shape[1] for p in model.parameters() if p.ndim == 4), 3)
    errors = []
    for channels in dict.fromkeys((3, 1, first)):
        images = torch.randn(args.batch, channels, args.size, args.size)
        try:
            with torch.no_grad():
                copy.deepcopy(model)(images)
        except Exception as error:  # whatever a stranger's network raises
            errors.append(error)
        else:
            return images
    text = " ".join(str(errors[0]).split())
    raise ValueError(
        f"{args.model}: the network must take images of {args.size}x{args.size}, got "
        f"{type(errors[0]).__name__} ({text[:300]}); choose another --size"
    )


def _certify(args: argparse.Namespace) -> int:
    model = _network(args)
    certificate = shiftproof.certify(model, _images(args, model))
    print(json.dumps(certificate.as_dict(), indent=2) if args.json else certificate)
    return int(not certificate.is_invariant)


def _check_export(name: str, path: Path | None) -> None:
    if path is None:
        return
    if path.suffix not in (".pt2", ".onnx"):
        raise RuntimeError(
            f"shiftproof {name}: --export must end in .pt2 or .onnx, got {path}; rename it"
        )
    if not path.absolute().parent.is_dir():
        raise RuntimeError(
            f"shiftproof {name}: the folder of --export must exist, got {path}; create it"
        )
    if path.suffix == ".onnx":
        require("onnxscript", extra="onnx")


def _export(model: Any, images: Any, path: Path | None) -> None:
    """Write an exported program that takes any batch; nothing half-written stays."""
    import torch

    if path is None:
        return
    batch: Any = {0: torch.export.Dim("batch")}
    shapes = ((batch,),) if isinstance(model, shiftproof.LockedModel) else (batch,)  # *args
    images = images if len(images) > 1 else torch.cat([images, images])  # one is taken for fixed
    program = torch.export.export(model, (images,), dynamic_shapes=shapes)
    partial = path.with_stem(f"{path.stem}.partial")
    if path.suffix == ".onnx":
        exported: Any = torch.onnx.export(program, dynamo=True, verbose=False)
        exported.save(partial)
    else:
        torch.export.save(program, partial)
    partial.replace(path)
    print(f"exported program: {path}")


def _convert(args: argparse.Namespace) -> int:
    _check_export("convert", args.export)
    model = _network(args)
    images = _images(args, model)
    conversion = shiftproof.convert(model, images, padding=args.padding)
    certificate = shiftproof.certify(conversion.model, images)
    if args.json:
        found = {"plan": conversion.plan.as_dict(), "certificate": certificate.as_dict()}
        print(json.dumps(found, indent=2))
    else:
        print(f"{conversion.summary}\n{certificate}")
    if args.plan is not None:
        conversion.plan.save(args.plan)
    _export(conversion.model, images, args.export)
    return int(not certificate.is_invariant)


def _lock_file(args: argparse.Namespace) -> int:
    from shiftproof import motion, nn

    if args.out is None:
        raise ValueError(
            f"shiftproof lock: a file of ONNX needs a file to write, got no --out for "
            f"{args.model}; pass --out LOCKED.onnx"
        )
    selectors = {"blobs": nn.DifferenceOfGaussians, "darkest": nn.DarkestPhase}
    selector = selectors[args.selector]() if args.selector in selectors else None
    summary = motion.lock_file(
        args.model,
        args.out,
        stride=args.stride,
        dense=args.dense,
        image=args.input,
        selector=selector,
        interpolation=nn.WholePixels() if args.whole_pixels else None,
        padding_mode=args.padding,
        margin=args.margin,
    )
    print(json.dumps(dataclasses.asdict(summary), indent=2, default=str) if args.json else summary)
    return 0


def _lock(args: argparse.Namespace) -> int:
    import torch

    if args.model.endswith(".onnx"):
        return _lock_file(args)
    if args.size is None:
        raise ValueError(
            f"shiftproof lock: a network needs the size of its images, got no --size for "
            f"{args.model}; pass --size, or a file .onnx"
        )
    _check_export("lock", args.export)
    model = _network(args)
    images = _images(args, model)
    locked = shiftproof.lock_grid(
        model, images, stride=args.stride, margin=args.margin, padding_mode=args.padding
    )
    print(json.dumps(dataclasses.asdict(locked.summary), indent=2) if args.json else locked.summary)
    pairs = zip(images.shape[2:], locked.summary.margin, strict=True)
    larger = [size + margin for size, margin in pairs]
    _export(locked, torch.rand(*images.shape[:2], *larger), args.export)
    return 0


def _add_network(command: argparse.ArgumentParser, *, files: str = "") -> None:
    command.add_argument(
        "model",
        help="a name of shiftproof list, torchvision:NAME, timm:NAME, or an own network as "
        f"MODULE:CALLABLE or FILE.py:CALLABLE, called without arguments{files}",
    )
    command.add_argument("--size", type=int, required=not files, help="height and width, in pixels")
    command.add_argument(
        "--weights",
        metavar="FILE",
        help="state_dict or checkpoint; DEFAULT for the library's own, which it downloads",
    )
    command.add_argument("--untrained", action="store_true", help="random weights")
    command.add_argument("--batch", type=int, default=2, help="number of images")
    command.add_argument("--json", action="store_true", help="print JSON")


def parser() -> argparse.ArgumentParser:
    """Build the parser of the command line."""
    top = argparse.ArgumentParser(prog="shiftproof", description=shiftproof.__doc__)
    top.add_argument("--version", action="version", version=shiftproof.__version__)
    commands = top.add_subparsers(required=True, metavar="COMMAND")
    command = commands.add_parser("list", help="list the networks", description="List networks.")
    command.add_argument("pattern", nargs="?", default="*", help="for instance 'resnet18*'")
    command.set_defaults(run=_list)
    command = commands.add_parser(
        "demo",
        help="train four small networks on handwritten digits and compare them",
        description="Train four small networks on handwritten digits and compare them.",
    )
    command.add_argument("--folder", type=Path, default=Path("demo"), help="where to write")
    command.add_argument("--epochs", type=int, default=10, help="epochs of each network")
    command.add_argument("--device", help="cpu, or the index of a CUDA device")
    command.set_defaults(run=_demo)
    command = commands.add_parser(
        "certify",
        help="say whether a network is shift invariant, and if not, which layer breaks it",
        description="Measure a network on random images.  The exit status is 0 if it is "
        "invariant, 1 if not, 2 after an error.",
    )
    _add_network(command)
    command.set_defaults(run=_certify)
    command = commands.add_parser(
        "convert",
        help="make a network shift invariant with its own weights, and certify it",
        description="Convert a network and certify the result on random images.  The exit status "
        "is 0 if it is invariant, 1 if not, 2 after an error.",
    )
    _add_network(command)
    command.add_argument(
        "--padding", choices=("circular", "keep"), default="circular", help="padding of the layers"
    )
    command.add_argument("--export", type=Path, metavar="FILE", help="a file .pt2 or .onnx")
    command.add_argument("--plan", type=Path, metavar="FILE", help="write the plan there, JSON")
    command.set_defaults(run=_convert)
    command = commands.add_parser(
        "eval",
        help="measure accuracy and consistency of networks side by side, by published protocols",
        description="Measure networks on the same images and shifts.  With --out, a network that "
        "is finished is not measured again; after Ctrl-C the exit status is 143 and the same "
        "command goes on.  Runs under torchrun too.",
    )
    add_evaluate(command)
    command.set_defaults(run=_evaluate)
    command = commands.add_parser(
        "audit",
        help="show on one page what a shift does to a network, and what a remedy changes",
        description="Measure a network under shifts, beside its locked and its converted self, "
        "and write one page that needs no network to be read, and its numbers as JSON beside it.",
    )
    add_audit(command)
    command.set_defaults(run=_audit)
    command = commands.add_parser(
        "report",
        help="write one page about finished training runs",
        description="Write one page about finished training runs.",
    )
    command.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="result.json or folder")
    command.add_argument("--out", type=Path, default=Path("report.html"), help="the page to write")
    command.set_defaults(run=_report)
    command = commands.add_parser(
        "lock",
        help="put a lock in front of a network, so that it flickers less while the camera moves",
        description="Find the total stride of a network and lock its images to their content.",
    )
    _add_network(command, files="; or a file FILE.onnx, with --out")
    command.add_argument("--stride", type=int, help="total stride; found if not given")
    command.add_argument(
        "--margin", type=int, default=0, help="pixels by which images are larger than --size, even"
    )
    command.add_argument(
        "--padding",
        "--padding-mode",
        choices=EDGE_MODES,
        default="reflect",
        help="what is shown beyond the edge",
    )
    of_file = command.add_argument_group("of a file FILE.onnx")
    of_file.add_argument("--out", type=Path, metavar="LOCKED.onnx", help="the file to write")
    of_file.add_argument(
        "--dense", nargs="+", default=[], metavar="OUTPUT", help="maps, which are moved back"
    )
    of_file.add_argument("--input", metavar="NAME", help="the input of images, where several are")
    of_file.add_argument(
        "--selector",
        choices=("corners", "blobs", "darkest"),
        default="corners",
        help="what the content is; darkest is for pages on even, bright paper, with --whole-pixels",
    )
    of_file.add_argument(
        "--whole-pixels", action="store_true", help="copy pixels, without interpolation"
    )
    command.add_argument("--export", type=Path, metavar="FILE", help="a file .pt2 or .onnx")
    command.set_defaults(run=_lock)
    return top


def main() -> int:
    """Run the command line; returns the exit status."""
    args = parser().parse_args()
    status = 2 if args.run in (_certify, _convert) else 1  # where 1 says "not invariant"
    return run_command(functools.partial(args.run, args), status)


if __name__ == "__main__":
    sys.exit(main())
