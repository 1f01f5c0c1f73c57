"""The paper's ImageNet experiments, on any folder of class folders."""

import code
import dataclasses
import importlib
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from shiftproof import list_models, load_published
from shiftproof.data.examples import ImageDataset
from shiftproof.data.image_folder import IMAGENET_MEAN, IMAGENET_STD, open_imagenet
from shiftproof.data.loading import make_loader
from shiftproof.data.plan import EvalPlan
from shiftproof.data.transforms import CircularAugment
from shiftproof.extras import require
from shiftproof.files import write_text
from shiftproof.metrics import protocol
from shiftproof.models.weights import load_weights
from shiftproof.recipes.outcome import (
    agree_on_resume,
    agree_on_seed,
    build_seeded,
    check_size,
    load_best,
    load_trained,
    log_position,
    make_result,
    seconds_per_epoch,
    show_rate,
)
from shiftproof.results import EpochResult, RunResult, save_result
from shiftproof.training import Evaluation, RunFiles, TrainConfig, Trainer, evaluate
from shiftproof.training.allocator import keep_freed_memory
from shiftproof.training.config import describe
from shiftproof.training.distributed import Process, barrier
from shiftproof.training.journal import Journal, write_csv
from shiftproof.training.launch import tell_restart
from shiftproof.training.unreadable import Unreadable, warn_left_out

RESIZE, CROP = 256, 224


def supported_architectures() -> list[str]:
    """Names for ``--arch``: the ImageNet networks of the registry.

    Returns:
        The names.
    """
    return [name for name in list_models() if not name.startswith("cifar_")]


@dataclass(frozen=True)
class ImagenetConfig:
    """One experiment on ImageNet.

    Attributes:
        train: How to train.
        files: Where to write.
        data: Folder with ``train/<class>/*`` and ``val/<class>/*``.
        circular_augment: Whether each training batch is circularly shifted, within [-32, 31]^2.
        pretrained: Whether to start from torchvision's weights.
        weights: File of weights to start from; none if None.
        resume: Checkpoint to go on from, or to evaluate; none if None.
        start_epoch: First epoch of a run that does not resume.
        evaluate_only: Whether only the validation images are evaluated.
        train_on_val: Whether the validation images are trained on, to try a set-up out.
        workers: Processes that load images, per training process.
        processes_per_node: Processes that share a batch.
        print_every: Steps between two lines of progress where there is no terminal.
        wandb: Whether the logs are sent to Weights & Biases.
        embed: Whether to open a Python prompt before an evaluation.
    """

    train: TrainConfig
    files: RunFiles
    data: Path
    circular_augment: bool = False
    pretrained: bool = False
    weights: Path | None = None
    resume: Path | None = None
    start_epoch: int = 0
    evaluate_only: bool = False
    train_on_val: bool = False
    workers: int = 4
    processes_per_node: int = 1
    print_every: int = 100
    wandb: bool = False
    embed: bool = False


def imagenet_files(folder: Path) -> RunFiles:
    """The places of the paper's ImageNet script.

    Args:
        folder: Folder of the run.

    Returns:
        The places.
    """
    return RunFiles(
        folder,
        last="checkpoint.pth.tar",
        best="model_best.pth.tar",
        numbered="checkpoint_{epoch:03d}.pth.tar",
    )


def build_model(config: ImagenetConfig) -> nn.Module:
    """Build the network and load the weights that it is to start from.

    Args:
        config: The experiment.

    Returns:
        The network, on the CPU.

    Raises:
        ValueError: If the network is unknown or the weights do not fit.
        RuntimeError: If the weights cannot be read.
    """
    name = config.train.model.name
    model = build_seeded(config.train.model, config.train.seed)
    if config.pretrained:
        plain = name.removesuffix("_pa")
        if "_" in plain:
            raise ValueError(
                f"--pretrained: torchvision has weights for the plain and _pa networks, got {name};"
                f" use {plain.partition('_')[0]}_pa, or pass a file to --weights"
            )
        load_weights(model, "DEFAULT", torchvision_name=plain)
    if config.weights is not None:
        load_published(model, config.weights)
    if config.resume is not None:
        load_trained(model, config.train.model, config.resume)
    return model


def run_imagenet(process: Process, config: ImagenetConfig) -> RunResult | None:
    """Train on ImageNet and evaluate the best checkpoint, or evaluate only.

    Args:
        process: This process.
        config: The experiment.

    Returns:
        What was found, or None if a signal stopped the run.

    Raises:
        ValueError: If something in the configuration does not fit.
        RuntimeError: If the data or a checkpoint cannot be read, or training diverges.
    """
    keep_freed_memory()
    agree_on_resume(config.resume)
    seed = agree_on_seed(config.train.seed)
    config = dataclasses.replace(config, train=dataclasses.replace(config.train, seed=seed))
    files = config.files
    model = build_model(config)
    check_size(model, CROP)
    last = files.path(files.last)
    if not config.evaluate_only and config.resume is None and last.is_file():
        raise ValueError(
            f"--out-dir: a new run must not replace another, got {files.folder} with a checkpoint "
            f"in it; pass --resume {last} to go on with it, or choose another folder"
        )
    train_data, val_data = _open(config)
    if process.is_main:
        warn_left_out([*(train_data.left_out if train_data else ()), *val_data.left_out])
    position = log_position(config.resume, config.evaluate_only)
    barrier()
    if process.is_main:
        files.folder.mkdir(parents=True, exist_ok=True)
        if config.wandb:
            _start_wandb(config)
    with Journal(
        files.folder, enabled=process.is_main, print_every=config.print_every, position=position
    ) as journal:
        global_batch = (
            config.train.per_process(config.processes_per_node)
            * process.world_size
            * config.train.accumulate
        )
        if process.is_main:
            tell_restart(config.resume)
        journal.line(
            f"{config.train.model.name} on {process.world_size} process(es), "
            f"{global_batch} images per step, seed {config.train.seed}"
        )
        values: dict[str, float] = {"images per step": global_batch}
        history: list[EpochResult] = []
        unreadable = Unreadable(len(val_data))
        if train_data is not None:
            trainer = Trainer(
                config.train,
                model,
                train_data,
                val_data,
                process=process,
                files=files,
                journal=journal,
                workers=config.workers,
                processes_per_node=config.processes_per_node,
                on_epoch=lambda history: _write_history(files, history),
            )
            if not trainer.fit(config.resume, config.start_epoch):
                return None
            history, unreadable = trainer.progress.history, trainer.unreadable
            load_best(model, config.train.model, files, process)
            values |= seconds_per_epoch(history)
        measured = _evaluate(config, model, val_data, process, journal, unreadable)
        broken = unreadable.over_all_processes()
        result = make_result(
            config,
            config.train.model.name,
            model,
            process,
            history=history,
            rates={f"val {name}": rate for name, rate in measured.rates.items()},
            values={**values, "val loss": measured.loss},
            unreadable=broken,
        )
        if process.is_main:
            _write_result(files, result, journal)
        barrier()
        return result


def _start_wandb(config: ImagenetConfig) -> None:
    try:
        wandb = importlib.import_module("wandb")
    except ModuleNotFoundError as error:
        raise RuntimeError(
            "--wandb: the package wandb must be installed, got none; run pip install wandb or "
            "leave --wandb out"
        ) from error
    wandb.init(project="shiftproof", config=describe(config), sync_tensorboard=True)


def _open(config: ImagenetConfig) -> tuple[ImageDataset | None, ImageDataset]:
    augment = CircularAugment(32) if config.circular_augment else None
    wanted = not config.evaluate_only and not config.train_on_val
    train_data, val_data = open_imagenet(
        config.data, train=wanted, resize=RESIZE, crop=CROP, batch_transform=augment
    )
    num_classes = config.train.model.num_classes
    if len(val_data.classes) > num_classes:
        raise ValueError(
            f"--data: the network must have a logit for each class, got {len(val_data.classes)} "
            f"classes in {config.data} for {num_classes} logits; remove classes"
        )
    return (val_data if config.train_on_val else train_data), val_data


def _evaluate(
    config: ImagenetConfig,
    model: nn.Module,
    val_data: ImageDataset,
    process: Process,
    journal: Journal,
    unreadable: Unreadable,
) -> Evaluation:
    memory_format = torch.channels_last if config.train.channels_last else torch.contiguous_format
    model.to(process.device).to(memory_format=memory_format)
    if config.embed and process.is_main:
        _prompt(model)
    measured = evaluate(
        model,
        val_data,
        process=process,
        batch_size=config.train.eval_batch_size,
        seed=config.train.seed,
        consistency=protocol("aps-imagenet"),
        workers=config.workers,
        channels_last=config.train.channels_last,
        journal=journal,
        description="evaluate",
        unreadable=unreadable,
    )
    assert measured is not None
    return measured


def _prompt(model: nn.Module) -> None:
    """Open a Python prompt on the network."""
    banner = "the network is `model`; Ctrl-D goes on"
    try:
        require("IPython", extra="train").embed(banner1=banner, user_ns={"model": model})
    except RuntimeError:
        code.interact(banner=banner, local={"model": model})


def save_validation_inputs(config: ImagenetConfig) -> int:
    """Write what the network sees of the validation images, as ``%05d.png``.

    Args:
        config: The experiment; files go into its folder.

    Returns:
        Number of images written.

    Raises:
        RuntimeError: If the data cannot be read.
        ValueError: If the folders do not fit the network.
    """
    _, val_data = _open(dataclasses.replace(config, evaluate_only=True))
    config.files.folder.mkdir(parents=True, exist_ok=True)
    save_image = require("torchvision.utils", extra="train").save_image
    mean = torch.tensor(IMAGENET_MEAN).view(-1, 1, 1)
    std = torch.tensor(IMAGENET_STD).view(-1, 1, 1)
    unreadable = Unreadable(len(val_data))
    plan = EvalPlan(len(val_data), 32)
    loader = make_loader(val_data, plan, workers=config.workers, device=torch.device("cpu"))
    written = 0
    for examples in loader:
        unreadable.note(examples.unreadable)
        for image, index in zip(examples.images, examples.indices.tolist(), strict=True):
            save_image((image * std + mean).clamp(0, 1), config.files.path(f"{index:05d}.png"))
            written += 1
    return written


def _write_history(files: RunFiles, history: list[EpochResult]) -> None:
    """Write the tables and the text logs anew from all epochs."""
    rows = [result.row() for result in history]
    write_csv(files.path("epochs.csv"), rows)
    train = [
        f"epoch {e.epoch}  lr {e.lr:g}  loss {e.train_loss:.4f}  top-1 {100 * e.train_top1:.3f}  "
        f"seconds {e.seconds:.1f}  images/s {e.images_per_second:.1f}\n"
        for e in history
    ]
    val = [
        f"epoch {e.epoch}  loss {e.val_loss:.4f}  "
        + "  ".join(f"{name} {rate.percent:.3f}" for name, rate in e.val_rates.items())
        + "\n"
        for e in history
    ]
    write_text(files.path("train_log.txt"), "".join(train))
    write_text(files.path("val_log.txt"), "".join(val))


def _write_result(files: RunFiles, result: RunResult, journal: Journal) -> None:
    lines = [f"{name}: {show_rate(rate)}" for name, rate in result.rates.items()]
    lines += [f"{name}: {value:g}" for name, value in result.values.items()]
    for line in lines:
        journal.line(line)
    write_text(files.path("evaluate_result_final.txt"), "\n".join(lines) + "\n")
    save_result(result, files.path("result.json" if result.epochs else "evaluate_result.json"))
