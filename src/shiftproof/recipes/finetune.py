"""Fine-tuning a network that somebody has already: a converted one, for instance."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from shiftproof.conversion.recalibrate import recalibrate
from shiftproof.data.examples import ImageDataset
from shiftproof.data.image_folder import IMAGENET_MEAN, IMAGENET_STD, ImageFiles
from shiftproof.data.loading import make_loader
from shiftproof.data.plan import EvalPlan, TrainPlan
from shiftproof.data.transforms import CircularAugment
from shiftproof.extras import require
from shiftproof.metrics import consistency, protocol
from shiftproof.recipes.outcome import log_position, make_result, seconds_per_epoch, show_rate
from shiftproof.results import RateResult, RunResult, consistency_name, save_result
from shiftproof.training import ModelConfig, RunFiles, TrainConfig, Trainer, evaluate
from shiftproof.training.allocator import keep_freed_memory
from shiftproof.training.distributed import Process, barrier
from shiftproof.training.evaluation import to_device
from shiftproof.training.journal import Journal
from shiftproof.training.modes import evaluating
from shiftproof.training.schedule import Cosine

MARGIN = 32
"""Pixels by which images exceed the window under the protocol ``crop``."""


@dataclass(frozen=True)
class FinetuneData:
    """Images to train on, to measure on, and the latter ``MARGIN`` higher and wider, if at all."""

    train: ImageDataset
    val: ImageDataset
    wide: ImageDataset | None = None


@dataclass(frozen=True)
class FinetuneConfig:
    """One fine-tuning.

    Attributes:
        train: How to train; its network is the one that is handed over, and only described here.
        folder: Where to write.
        recalibrate_batches: Batches of training images, as they are trained on, with which
            batch-norm statistics are measured anew before training; 0 leaves the statistics.
        workers: Processes that load images.
        resume: Whether to go on from the last checkpoint in the folder.
    """

    train: TrainConfig
    folder: Path
    recalibrate_batches: int = 50
    workers: int = 4
    resume: bool = False


def finetune(
    name: str,
    num_classes: int,
    folder: Path,
    *,
    epochs: int = 5,
    batch_size: int = 64,
    lr: float = 0.005,
    seed: int = 0,
) -> FinetuneConfig:
    """Complete configuration: a few epochs of SGD at a small learning rate that falls to 0.

    Args:
        name: What to call the network in the results.
        num_classes: Its number of logits.
        folder: Where to write.
        epochs: Passes over the training images.
        batch_size: Images per step.
        lr: Learning rate at the start.
        seed: Of everything random.

    Returns:
        The configuration.
    """
    train = TrainConfig(
        model=ModelConfig(name, num_classes),
        epochs=epochs,
        batch_size=batch_size,
        eval_batch_size=64,
        seed=seed,
        lr=lr,
        schedule=Cosine(max(epochs, 1)),
        consistency=protocol("circular"),
    )
    return FinetuneConfig(train, folder)


def open_photographs(
    root: Path,
    *,
    size: int = 224,
    mean: tuple[float, ...] = IMAGENET_MEAN,
    std: tuple[float, ...] = IMAGENET_STD,
    random_crop: bool = True,
    max_shift: int = 0,
) -> FinetuneData:
    """Open ``root/train/<class>/*`` and ``root/val/<class>/*``; classes count by name.

    Args:
        root: Folder that holds both.
        size: Height and width of the images that the network sees, in pixels.
        mean: What the network expects to be subtracted from values in [0, 1], per channel.
        std: What it expects them to be divided by, per channel.
        random_crop: Whether training images are windows of random size and place; otherwise the
            central ones.  They are mirrored at random in either case.
        max_shift: Largest circular shift of a training batch, in pixels; 0 for none.

    Returns:
        The data.

    Raises:
        RuntimeError: If a folder is missing, has no class folders, or a class has no image.
        ValueError: If a class to validate on is unknown to training.
    """
    t = require("torchvision.transforms", extra="train")
    normalize = [t.ToTensor(), t.Normalize(mean, std)]
    resize, window = t.Resize(size + MARGIN), t.CenterCrop(size)
    augment = [t.RandomResizedCrop(size)] if random_crop else [resize, window]
    shift = CircularAugment(max_shift) if max_shift else None
    composed = t.Compose([*augment, t.RandomHorizontalFlip(), *normalize])
    train = ImageFiles(root / "train", composed, batch_transform=shift)
    val, wide = (
        ImageFiles(root / "val", t.Compose([resize, crop, *normalize]), train.classes)
        for crop in (window, t.CenterCrop(size + MARGIN))
    )
    return FinetuneData(train, val, wide)


def run_finetune(
    config: FinetuneConfig,
    model: nn.Module,
    data: FinetuneData,
    process: Process,
    *,
    reference: nn.Module | None = None,
) -> RunResult | None:
    """Measure a network, recalibrate and train it, and measure it again.

    Args:
        config: The configuration.
        model: The network; trained in place.  ``checkpoint.pt`` holds its weights under ``model``.
        data: The images.
        process: This process.
        reference: The network before it was converted, for ``recalibrate``; none if None.

    Returns:
        Shares of the validation images, ``before``, ``recalibrated`` and ``after`` the last epoch:
        top-1, top-5, circular and crop consistency; or None if a signal stopped the run.

    Raises:
        ValueError: If the folder holds a run that is not to be resumed, or there is no batch norm
            to recalibrate.
        RuntimeError: If the images cannot be read, or training diverges.
    """
    keep_freed_memory()
    files, train = RunFiles(config.folder), config.train
    last = files.path(files.last)
    if last.is_file() and not config.resume:
        raise ValueError(
            f"finetune: a new run must not replace another, got {config.folder} with a checkpoint "
            "in it; set resume to go on with it, or choose another folder"
        )
    resume = last if last.is_file() else None
    kept = log_position(resume, evaluate_only=False)
    barrier()
    with Journal(config.folder, enabled=process.is_main, position=kept) as journal:
        trainer = Trainer(
            train,
            model,
            data.train,
            data.val,
            process=process,
            files=files,
            journal=journal,
            workers=config.workers,
        )
        rates = _measure("before", trainer, data.wide)
        if config.recalibrate_batches:
            if reference is not None:
                reference.to(process.device)
            images = _images(
                trainer, data.train, TrainPlan(len(data.train), train.batch_size, seed=train.seed)
            )
            count = config.recalibrate_batches
            recalibrate(model, images, num_batches=count, reference=reference)
            rates |= _measure("recalibrated", trainer, data.wide)
        if not trainer.fit(resume):
            return None
        rates |= _measure("after", trainer, data.wide)
        history = trainer.progress.history
        result = make_result(
            config,
            train.model.name,
            model,
            process,
            history=history,
            rates=rates,
            values=seconds_per_epoch(history),
            unreadable=trainer.unreadable.over_all_processes(),
        )
        if process.is_main:
            save_result(result, config.folder / "result.json")
        barrier()
        return result


def _images(
    trainer: Trainer, dataset: ImageDataset, plan: TrainPlan | EvalPlan
) -> Iterator[Tensor]:
    """The images of a plan, the same on every process."""
    device = trainer.process.device
    for examples in make_loader(dataset, plan, workers=trainer.workers, device=device):
        yield to_device(examples.images, device, trainer.config.channels_last)


def _measure(stage: str, trainer: Trainer, wide: ImageDataset | None) -> dict[str, RateResult]:
    config, model = trainer.config, trainer.model
    measured = evaluate(
        model,
        trainer.val_data,
        process=trainer.process,
        batch_size=config.eval_batch_size,
        seed=config.seed,
        consistency=config.consistency,
        workers=trainer.workers,
        channels_last=config.channels_last,
        journal=trainer.journal,
        description=stage,
        unreadable=trainer.unreadable,
    )
    assert measured is not None
    rates = dict(measured.rates)
    if wide is not None:
        images = _images(trainer, wide, EvalPlan(len(wide), config.eval_batch_size))
        crop = protocol("crop")
        with evaluating(model):
            rates[consistency_name(crop.name)] = consistency(model, images, crop, seed=config.seed)
    rates = {f"{stage} {name}": rate for name, rate in rates.items()}
    for name, rate in rates.items():
        trainer.journal.line(f"{name}: {show_rate(rate)}")
    return rates
