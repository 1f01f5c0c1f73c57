"""Train and test on CIFAR-10 with the command line of the paper."""

import argparse
import functools
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from shiftproof.recipes.cifar10 import Cifar10Config, cifar10_files, model_name, run_cifar10
from shiftproof.recipes.command import run_command
from shiftproof.recipes.criteria import CRITERIA
from shiftproof.recipes.outcome import choose_seed
from shiftproof.report import plot_history
from shiftproof.training import ModelConfig, TrainConfig
from shiftproof.training.distributed import process_group, warn
from shiftproof.training.interrupt import STOPPED
from shiftproof.training.schedule import MultiStep, Step

EXAMPLE = """example:
  python3 main.py --arch resnet18_aps --filter_size 3 --validate_consistency --seed_num 0 \\
      --device_id 0 --model_folder resnet18_aps3 --results_root_path results --dataset_path /data

differences from the published script, where that was wrong or unsafe: accuracy and consistency are
means over images, not over batches (the mean of batch means is shown beside them); --resume goes on
from the last checkpoint, not the best; checkpoints hold tensors and plain values, no pickled
objects; without --resume a folder that holds a checkpoint is not written over."""


def parser() -> argparse.ArgumentParser:
    """Build the parser of the command line."""
    p = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLE, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = p.add_argument
    add("--results_root_path", type=Path, default=Path("./results/"), help="folder of all results")
    add("--model_folder", default="", help="folder of this run in it")
    add("--device_id", default="0", help="index of the CUDA device, or cpu")
    add("--seed_num", type=int, help="of everything random; drawn and recorded if left out")
    add("--cudnn_deterministic", action="store_true", help="only deterministic CUDA kernels")
    add("--resume", action="store_true", help="go on in --model_folder from the last checkpoint")
    add("--dataset", choices=("cifar10",), default="cifar10")
    add(
        "--dataset_path",
        type=Path,
        default=Path("./data"),
        help="folder with cifar-10-batches-py (downloaded if absent), or with train/<class>/* and "
        "test/<class>/*",
    )
    add("--batch_size", type=int, default=256)
    add(
        "--eval_batch_size",
        type=int,
        default=256,
        help="images that share a shift when measuring consistency",
    )
    add("--base_center_crop", type=int, default=32, help="height and width the network sees")
    add("--data_augmentation_flag", action="store_true", help="shift the training images")
    add("--train_split", type=float, default=0.9, help="share of the images that is trained on")
    add("--pin_memory_flag", action="store_false", help="do not use page-locked memory")
    add("--num_workers", type=int, default=4, help="unused: the data set is kept in memory")
    add("--max_shift", type=int, default=3, help="largest shift, of augmentation and consistency")
    add("--validate_consistency", action="store_true", help="measure consistency")
    add("-a", "--arch", default="resnet18", help="network, see supported_architectures.txt")
    add("--conv_pad_type", choices=("circular", "zeros"), default="circular")
    add("--filter_size", type=int, default=1, help="taps of the binomial filter, 1 (none) to 7")
    add("--lr", type=float, default=0.1)
    add("--momentum", type=float, default=0.9)
    add("--weight_decay", type=float, default=5e-4)
    add("--step_size_lr", type=int, default=100, help="epochs between two steps (StepLR)")
    add("--scheduler_milestones", type=int, nargs="+", default=[100, 150], help="(MultiStepLR)")
    add("--scheduler_type", choices=("StepLR", "MultiStepLR"), default="StepLR")
    add("--gamma", type=float, default=0.1, help="factor of each step of the learning rate")
    add("--scheduler_flag", action="store_true", help="accepted as published; always scheduled")
    add("--num_epochs", type=int, default=250)
    add("--start_epoch", type=int, default=0, help="first epoch, counted from 0")
    add("--evaluate_only", action="store_true", help="test the best checkpoint, and exit")
    add("--evaluate_on_flips", action="store_true", help="test images flipped along both axes")
    add("--evaluate_on_erase", action="store_true", help="test images with one zeroed square")
    add("--random_erase_patch", type=int, default=3, help="side of that square, in pixels")
    add("--apspool_criterion", choices=CRITERIA, default="l2", help="how _aps and _pa choose")
    add("--print-freq", type=int, default=50, metavar="N", help="steps between two lines")
    add("--amp", choices=("auto", "bfloat16", "off"), default="auto", help="precision of training")
    add("--compile", action="store_true", help="compile the network")
    return p


def configure(args: argparse.Namespace) -> Cifar10Config:
    """Turn the command line into a configuration."""
    options: dict[str, object] = {"padding_mode": args.conv_pad_type}
    if args.apspool_criterion != "l2" and not args.arch.endswith(("_aps", "_pa")):
        raise ValueError(
            f"--apspool_criterion: the network must be an _aps or _pa one, got {args.arch}, which "
            "chooses nothing; leave the flag out"
        )
    if args.apspool_criterion != "l2":
        options["selector"] = CRITERIA[args.apspool_criterion]
    files = cifar10_files(args.results_root_path, args.model_folder)
    milestones = MultiStep(tuple(args.scheduler_milestones), args.gamma)
    steps = Step(args.step_size_lr, args.gamma)
    train = TrainConfig(
        model=ModelConfig(model_name(args.arch, args.filter_size), num_classes=10, options=options),
        epochs=args.num_epochs,
        batch_size=args.batch_size,
        eval_batch_size=args.eval_batch_size,
        seed=choose_seed(files.resumable() if args.resume else None)
        if args.seed_num is None
        else args.seed_num,
        lr=args.lr,
        momentum=args.momentum,
        weight_decay=args.weight_decay,
        schedule=milestones if args.scheduler_type == "MultiStepLR" else steps,
        amp=args.amp,
        compile=args.compile,
    )
    return Cifar10Config(
        train=train,
        files=files,
        dataset_path=args.dataset_path,
        train_split=args.train_split,
        center_crop=args.base_center_crop,
        augment=args.data_augmentation_flag,
        max_shift=args.max_shift,
        conv_pad_type=args.conv_pad_type,
        measure_consistency=args.validate_consistency,
        evaluate_only=args.evaluate_only,
        flip_test=args.evaluate_on_flips,
        erase_test=args.random_erase_patch if args.evaluate_on_erase else None,
        pin_memory=args.pin_memory_flag,
        workers=args.num_workers,
        resume=args.resume,
        start_epoch=args.start_epoch,
        print_every=args.print_freq,
    )


def run(arguments: Sequence[str]) -> int:
    """Do what the command line asks for; returns the exit status."""
    args = parser().parse_args(arguments)
    if args.cudnn_deterministic:
        torch.backends.cudnn.deterministic = True
        torch.backends.cudnn.benchmark = False
    config = configure(args)
    with process_group(device=args.device_id) as process:
        result = run_cifar10(config, process)
        if result is None:
            return STOPPED
        if result.history:
            try:
                plot_history(result, config.files.folder)
            except RuntimeError as error:  # the numbers are there; the pictures need an extra
                warn(str(error))
    return 0


if __name__ == "__main__":
    sys.exit(run_command(functools.partial(run, sys.argv[1:])))
