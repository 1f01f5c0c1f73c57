"""Train and evaluate on ImageNet with the command line of the paper."""

import argparse
import functools
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from shiftproof.models.weights import save_weights
from shiftproof.recipes.command import run_command
from shiftproof.recipes.criteria import CRITERIA
from shiftproof.recipes.imagenet import (
    ImagenetConfig,
    build_model,
    imagenet_files,
    run_imagenet,
    save_validation_inputs,
)
from shiftproof.recipes.outcome import choose_seed
from shiftproof.training import ModelConfig, TrainConfig
from shiftproof.training.distributed import process_group, warn
from shiftproof.training.interrupt import STOPPED
from shiftproof.training.launch import launch
from shiftproof.training.schedule import Cosine, Step

EXAMPLE = """example:
  python3 main.py --out-dir out --arch resnet18_aps1 --seed 0 --data /data/imagenet
then, to evaluate what was trained:
  python3 main.py --out-dir out --arch resnet18_aps1 --data /data/imagenet \\
      --resume out/model_best.pth.tar -e

differences from the published script, where that was wrong: --seed is used for everything and not
overwritten; accuracy and consistency are means over images, not over batches (the mean of batch
means is shown beside them); images that cannot be read are named and counted."""


def parser() -> argparse.ArgumentParser:
    """Build the parser of the command line."""
    p = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLE, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = p.add_argument
    add("--data", type=Path, metavar="DIR", help="folder with train/<class>/* and val/<class>/*")
    add("-a", "--arch", default="resnet18_aps1", help="network, see supported_architectures.txt")
    add("--apspool_criterion", choices=CRITERIA, default="l2", help="how _aps and _pa choose")
    add(
        "--pool_only",
        action="store_true",
        help="keep the stem's strided convolution; an _aps network is then not shift invariant",
    )
    add("-j", "--workers", type=int, default=4, metavar="N", help="processes that load images")
    add("-ep", "--epochs", type=int, default=90, metavar="N")
    add("--start-epoch", type=int, default=0, metavar="N", help="first epoch, counted from 0")
    add(
        "-b",
        "--batch-size",
        type=int,
        default=256,
        metavar="N",
        help="images per node and forward pass, divided over the node's processes",
    )
    add(
        "--eval-batch-size",
        type=int,
        default=256,
        metavar="N",
        help="images that share a shift when measuring consistency, on however many processes",
    )
    add("--lr", "--learning-rate", type=float, default=0.1)
    add("--lr_step", type=int, default=30, help="epochs until the learning rate is divided by 10")
    add("--cos_lr", action="store_true", help="cosine schedule instead of steps")
    add("--momentum", type=float, default=0.9)
    add("--wd", "--weight-decay", type=float, default=1e-4, dest="weight_decay")
    add("-p", "--print-freq", type=int, default=100, metavar="N", help="steps between two lines")
    add("--pretrained", action="store_true", help="torchvision's weights (plain and _pa networks)")
    add("--resume", type=Path, metavar="PATH", help="checkpoint to go on from, or to evaluate")
    add("-e", "--evaluate", action="store_true", help="accuracy and consistency on val, and exit")
    add(
        "--evaluate-save",
        action="store_true",
        help="write the validation inputs to --out-dir as %%05d.png, and exit",
    )
    add("--world-size", type=int, default=-1, help="number of nodes")
    add("--rank", type=int, default=-1, help="number of this node, from 0")
    add("--dist-url", default="tcp://127.0.0.1:23456", help="where the processes meet")
    add("--dist-backend", default="nccl", help="nccl or gloo")
    add("--seed", type=int, help="of everything random; drawn and recorded if left out")
    add("--gpu", type=int, help="index of the CUDA device")
    add(
        "--multiprocessing-distributed",
        action="store_true",
        help="one process per GPU, or --nproc-per-node on a CPU",
    )
    add("--nproc-per-node", type=int, help="processes on this node (default: GPUs, or 1)")
    add(
        "--max-restarts",
        type=int,
        default=0,
        metavar="N",
        help="start the processes again, up to N times, when one dies; also under torchrun, a run "
        "with restarts goes on from the checkpoint in --out-dir if there is one",
    )
    add("--circular_data_aug", action="store_true", help="shift training batches circularly")
    add("--out-dir", type=Path, default=Path(), help="folder for everything that is written")
    add("--epochs-shift", type=int, default=1, help="unused, as published")
    add("-ba", "--batch-accum", type=int, default=1, metavar="N", help="batches per step")
    add("--embed", action="store_true", help="open a Python prompt before the evaluation")
    add("--val-debug", action="store_true", help="train on the validation images")
    add("--weights", type=Path, metavar="PATH", help="state_dict to start from, ours or published")
    add("--save_weights", type=Path, metavar="PATH", help="write the state_dict there, and exit")
    add("--wandb", action="store_true", help="send the logs to Weights & Biases")
    add("--amp", choices=("auto", "bfloat16", "off"), default="auto", help="precision of training")
    add("--compile", action="store_true", help="compile the network")
    return p


def configure(args: argparse.Namespace, processes_per_node: int) -> ImagenetConfig:
    """Turn the command line into a configuration."""
    if args.arch.startswith("cifar_"):
        raise ValueError(
            f"--arch: the network must be one for ImageNet, got {args.arch}; see "
            "supported_architectures.txt"
        )
    options: dict[str, object] = {}
    chooses = "_aps" in args.arch or args.arch.endswith("_pa")
    if args.apspool_criterion != "l2" and not chooses:
        raise ValueError(
            f"--apspool_criterion: the network must be an _aps or _pa one, got {args.arch}, which "
            "chooses nothing; leave the flag out"
        )
    if args.pool_only and not ("_aps" in args.arch or "_lpf" in args.arch):
        raise ValueError(
            f"--pool_only: the network must be an _aps or _lpf one, got {args.arch}, whose stem is "
            "torchvision's; leave the flag out"
        )
    if args.apspool_criterion != "l2":
        options["selector"] = CRITERIA[args.apspool_criterion]
    if args.pool_only:
        options["pool_only"] = True
        if "_aps" in args.arch:
            warn("--pool_only: the strided stem makes this network not shift invariant")
    resume = args.resume
    if int(os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0")) > 0 and not args.evaluate:
        resume = imagenet_files(args.out_dir).resumable() or resume
    train = TrainConfig(
        model=ModelConfig(args.arch, num_classes=1000, options=options),
        epochs=args.epochs,
        batch_size=args.batch_size,
        eval_batch_size=args.eval_batch_size,
        seed=choose_seed(resume) if args.seed is None else args.seed,
        lr=args.lr,
        momentum=args.momentum,
        weight_decay=args.weight_decay,
        schedule=Cosine(args.epochs) if args.cos_lr else Step(args.lr_step),
        accumulate=args.batch_accum,
        amp=args.amp,
        compile=args.compile,
    )
    return ImagenetConfig(
        train=train,
        files=imagenet_files(args.out_dir),
        data=args.data or Path(),
        circular_augment=args.circular_data_aug,
        pretrained=args.pretrained,
        weights=args.weights,
        resume=resume,
        start_epoch=args.start_epoch,
        evaluate_only=args.evaluate,
        train_on_val=args.val_debug,
        workers=args.workers,
        processes_per_node=processes_per_node,
        print_every=args.print_freq,
        wandb=args.wandb,
        embed=args.embed,
    )


def run(arguments: Sequence[str]) -> int:
    """Do what the command line asks for; returns the exit status."""
    args = parser().parse_args(arguments)
    under_torchrun = "RANK" in os.environ and "WORLD_SIZE" in os.environ
    per_node = 1
    if under_torchrun:
        per_node = int(os.environ.get("LOCAL_WORLD_SIZE", os.environ["WORLD_SIZE"]))
    elif args.multiprocessing_distributed:
        per_node = args.nproc_per_node or max(1, torch.cuda.device_count())
    config = configure(args, per_node)
    if args.save_weights is not None:
        save_weights(build_model(config), args.save_weights)
        return 0
    if args.data is None:
        raise ValueError("--data: the data set must be named, got nothing; pass --data DIR")
    if args.evaluate_save:
        print(f"wrote {save_validation_inputs(config)} images to {args.out_dir}")
        return 0
    is_alone = per_node * max(1, args.world_size) == 1 and not args.max_restarts
    if args.multiprocessing_distributed and not under_torchrun and not is_alone:
        return launch(
            [sys.executable, __file__, *arguments],
            processes_per_node=per_node,
            num_nodes=max(1, args.world_size),
            node_rank=args.rank if args.world_size > 1 else 0,
            url=args.dist_url,
            max_restarts=args.max_restarts,
        )
    device = args.gpu
    if args.multiprocessing_distributed and args.dist_backend == "nccl" and device is None:
        device = "cuda"  # one warning where there is none
    nodes = {"rank": args.rank, "world_size": args.world_size, "init_method": args.dist_url}
    place = nodes if args.world_size > 1 and not under_torchrun else {}
    with process_group(backend=args.dist_backend, device=device, **place) as process:
        result = run_imagenet(process, config)
    return STOPPED if result is None else 0


if __name__ == "__main__":
    sys.exit(run_command(functools.partial(run, sys.argv[1:])))
