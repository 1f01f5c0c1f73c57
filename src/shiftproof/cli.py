"""The command ``shiftproof``."""

import argparse
import functools
import sys
from pathlib import Path

import shiftproof
from shiftproof.recipes.command import run_command
from shiftproof.recipes.outcome import STOPPED


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
    from shiftproof.recipes.digits import MODELS, run_demo
    from shiftproof.report import (
        DEMO_COLUMNS,
        demo_rows,
        markdown_table,
        plot_accuracy_over_shifts,
        print_table,
    )
    from shiftproof.results import write_text
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
    return 0


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
    return top


def main() -> int:
    """Run the command line; returns the exit status."""
    args = parser().parse_args()
    return run_command(functools.partial(args.run, args))


if __name__ == "__main__":
    sys.exit(main())
