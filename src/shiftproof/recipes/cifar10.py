"""The paper's CIFAR-10 experiments."""

import dataclasses
import io
import json
import re
from dataclasses import dataclass
from pathlib import Path

from shiftproof import list_models
from shiftproof.data.cifar10 import CIFAR10_MEAN, CIFAR10_STD, load_cifar10, paper_split
from shiftproof.data.in_memory import ImageTensors
from shiftproof.data.plan import Batch
from shiftproof.data.transforms import (
    BatchTransform,
    CenterCrop,
    CircularAugment,
    Compose,
    EraseSquare,
    FlipBothAxes,
    Normalize,
    RandomCrop,
    RandomHorizontalFlip,
)
from shiftproof.extras import require
from shiftproof.files import replacing, write_text
from shiftproof.metrics import protocol
from shiftproof.recipes.outcome import (
    build_seeded,
    check_size,
    load_best,
    log_position,
    make_result,
    seconds_per_epoch,
    show_rate,
)
from shiftproof.results import EpochResult, RunResult, save_result
from shiftproof.training import RunFiles, TrainConfig, Trainer, evaluate
from shiftproof.training.allocator import keep_freed_memory
from shiftproof.training.config import describe
from shiftproof.training.distributed import Process, warn
from shiftproof.training.journal import Journal, write_csv
from shiftproof.training.unreadable import warn_left_out

_NORMALIZE = Normalize(CIFAR10_MEAN, CIFAR10_STD)


def supported_architectures() -> list[str]:
    """Names for ``--arch``: the CIFAR-10 trunks, plain and in each placement.

    Returns:
        The names; ``_lpf`` and ``_aps`` take their filter from ``--filter_size``.
    """
    names = [name.removeprefix("cifar_") for name in list_models("cifar_*")]
    return list(dict.fromkeys(re.sub(r"(_lpf|_aps)\d$", r"\1", name) for name in names))


def model_name(arch: str, filter_size: int) -> str:
    """Registered name of a network of the paper's CIFAR-10 command line.

    Args:
        arch: One of ``supported_architectures()``.
        filter_size: Taps of the binomial filter per axis.

    Returns:
        The name for ``shiftproof.create_model``.

    Raises:
        ValueError: If the architecture is unknown, or the filter size is not 1 to 7.

    Examples:
        >>> model_name("resnet18_aps", 3)
        'cifar_resnet18_aps3'
    """
    known = supported_architectures()
    if arch not in known:
        raise ValueError(
            f"--arch: the architecture must be one of {', '.join(known)}, got {arch!r}; "
            "the size of the filter goes into --filter_size"
        )
    filtered = arch.endswith(("_lpf", "_aps"))
    name = f"cifar_{arch}{filter_size}" if filtered else f"cifar_{arch}"
    if not 1 <= filter_size <= 7:
        raise ValueError(
            f"--filter_size: the size must be 1 to 7, got {filter_size}; 1 does not filter"
        )
    if not filtered and filter_size > 1:
        warn(f"--filter_size: {arch} has no filter, {filter_size} is ignored")
    return name


@dataclass(frozen=True)
class Cifar10Config:
    """One experiment on CIFAR-10.

    Attributes:
        train: How to train.
        files: Where to write.
        dataset_path: Folder with ``cifar-10-batches-py``, or with class folders.
        train_split: Share of the 50,000 training images that are trained on; the rest validates.
        center_crop: Height and width of the images that the network sees.
        augment: Whether training images are shifted: circularly, or with zero-padded convolutions
            by a random crop.
        max_shift: Largest shift of augmentation and of the consistency protocols.
        conv_pad_type: Padding of the convolutions, ``"circular"`` or ``"zeros"``.
        measure_consistency: Whether consistency is measured, on validation and test images.
        evaluate_only: Whether only the best checkpoint is tested.
        flip_test: Whether the test images are flipped along both axes.
        erase_test: Side of the square that is zeroed in the test images; none if None.
        pin_memory: Whether batches for a GPU go through page-locked memory.
        workers: Processes that load images; the data set is in memory and needs none.
        resume: Whether to go on from the last checkpoint in the folder.
        start_epoch: First epoch of a run that does not resume.
        print_every: Steps between two lines of progress where there is no terminal.
    """

    train: TrainConfig
    files: RunFiles
    dataset_path: Path
    train_split: float = 0.9
    center_crop: int = 32
    augment: bool = False
    max_shift: int = 3
    conv_pad_type: str = "circular"
    measure_consistency: bool = False
    evaluate_only: bool = False
    flip_test: bool = False
    erase_test: int | None = None
    pin_memory: bool = True
    workers: int = 0
    resume: bool = False
    start_epoch: int = 0
    print_every: int = 50

    @property
    def test_protocol(self) -> str:
        """Consistency protocol for the test images, which the convolutions' padding decides."""
        return "aps-cifar-test" if self.conv_pad_type == "circular" else "aps-cifar-crop"

    @property
    def val_protocol(self) -> str:
        """Consistency protocol for the validation images."""
        return "aps-cifar-val" if self.conv_pad_type == "circular" else "aps-cifar-crop"

    def train_transform(self) -> BatchTransform:
        """Transform of the training images: a flip, and a shift if asked for."""
        steps: list[BatchTransform] = [*self._crop(), RandomHorizontalFlip()]
        if self.augment:
            circular = self.conv_pad_type == "circular"
            shift = CircularAugment if circular else RandomCrop
            steps.append(shift(self.max_shift))
        return Compose((*steps, _NORMALIZE))

    def val_transform(self) -> BatchTransform:
        """Transform of the validation images: none but the crop."""
        return Compose((*self._crop(), _NORMALIZE))

    def test_transform(self) -> BatchTransform:
        """Transform of the test images: turned or erased if asked for."""
        steps: list[BatchTransform] = [self.val_transform()]
        if self.flip_test:
            steps.append(FlipBothAxes())
        if self.erase_test is not None:
            steps.append(EraseSquare(self.erase_test))
        return Compose(tuple(steps))

    def _crop(self) -> list[BatchTransform]:
        return [CenterCrop(self.center_crop)] if self.center_crop != 32 else []


def cifar10_files(root: Path, model_folder: str) -> RunFiles:
    """The places of the paper's CIFAR-10 script.

    Args:
        root: Folder of all results.
        model_folder: Folder of this run in it.

    Returns:
        The places.
    """
    return RunFiles(
        root / model_folder,
        last="models/model_and_optim_checkpoint.pt",
        best="models/model_and_optim_best_checkpoint.pt",
    )


def run_cifar10(config: Cifar10Config, process: Process) -> RunResult | None:
    """Train on CIFAR-10, then test the checkpoint of the best validation accuracy.

    Args:
        config: The experiment.
        process: This process.

    Returns:
        What was found, or None if a signal stopped the run.

    Raises:
        ValueError: If something in the configuration does not fit.
        RuntimeError: If the data or a checkpoint cannot be read, or training diverges.
    """
    if process.world_size > 1:
        raise ValueError(
            f"cifar10: the experiment must run in one process, got {process.world_size}; start it "
            "without torchrun"
        )
    keep_freed_memory()
    files, measured, test_protocol = config.files, None, None
    if config.measure_consistency:
        measured = protocol(config.val_protocol, max_shift=config.max_shift)
        test_protocol = protocol(config.test_protocol, max_shift=config.max_shift)
    train_config = dataclasses.replace(config.train, consistency=measured)
    model = build_seeded(train_config.model, train_config.seed)
    check_size(model, config.center_crop)
    last, best = files.path(files.last), files.path(files.best)
    resume = _find_start(config, last, best)
    splits = _load_splits(config)
    for path in (path for split in splits for path in split.unreadable):
        warn(f"cannot read {path}; it is left out")
    warn_left_out(path for split in splits for path in split.left_out)
    last.parent.mkdir(parents=True, exist_ok=True)
    if not config.evaluate_only:
        described = json.dumps(describe(config), indent=2)
        write_text(files.path("config_dict.txt"), described + "\n")
    position = log_position(resume, config.evaluate_only)
    journal = Journal(
        files.folder,
        print_every=config.print_every,
        position=position,
    )
    with journal:
        trainer = Trainer(
            train_config,
            model,
            splits[0],
            splits[1],
            process=process,
            files=files,
            journal=journal,
            workers=config.workers,
            pin_memory=config.pin_memory,
            on_epoch=lambda history: _write_history(files, history),
        )
        if not config.evaluate_only and not trainer.fit(resume, config.start_epoch):
            return None
        history = trainer.progress.history
        load_best(trainer.model, train_config.model, files, process)
        tested = evaluate(
            trainer.model,
            splits[2],
            process=process,
            batch_size=train_config.eval_batch_size,
            seed=train_config.seed,
            consistency=test_protocol,
            pin_memory=config.pin_memory,
            channels_last=train_config.channels_last,
            journal=journal,
            description="test",
        )
        assert tested is not None
        rates = {f"test {name}": rate for name, rate in tested.rates.items()}
        values = {"test loss": tested.loss}
        if history:
            best_epoch = max(history, key=lambda epoch: epoch.val_rates["top-1"].value)
            rates |= {f"val {name}": rate for name, rate in best_epoch.val_rates.items()}
            values |= seconds_per_epoch(history)
        result = make_result(
            config,
            train_config.model.name,
            trainer.model,
            process,
            history=history,
            rates=rates,
            values=values,
            unreadable=tuple(path for split in splits for path in split.unreadable),
        )
        _write_test(files, result, journal, "evaluate_only" if not history else "test_set")
        return result


def _find_start(config: Cifar10Config, last: Path, best: Path) -> Path | None:
    if config.evaluate_only:
        if not best.is_file():
            raise RuntimeError(
                f"--evaluate_only: there must be a trained network, got no file {best}; "
                "train first, or pass its --results_root_path and --model_folder"
            )
        return None
    if config.resume:
        if last.is_file():
            return last
        warn(f"--resume: there is no checkpoint {last} yet, starting from the beginning")
        return None
    if last.is_file():
        raise ValueError(
            f"--model_folder: a new run must not replace another, got {config.files.folder} with "
            "a checkpoint in it; pass --resume to go on with it, or choose another folder"
        )
    return None


def _load_splits(config: Cifar10Config) -> tuple[ImageTensors, ImageTensors, ImageTensors]:
    full = load_cifar10(config.dataset_path, train=True)
    test = load_cifar10(config.dataset_path, train=False)
    num_train = round(config.train_split * len(full))
    if not 0 < num_train < len(full):
        raise ValueError(
            "--train_split: the share must leave images to train and to validate on, got "
            f"{config.train_split} of {len(full)}; the paper uses 0.9"
        )
    train_indices, val_indices = paper_split(len(full), num_train)
    train = full.subset(train_indices).with_transform(config.train_transform())
    val = full.subset(val_indices).with_transform(config.val_transform())
    train = dataclasses.replace(train, unreadable=full.unreadable, left_out=full.left_out)
    test = test.with_transform(config.test_transform())
    for split in (train, val, test):
        # A transform that does not fit the images is better found now than after training.
        split[Batch(indices=(0,), seed=0, step_size=1)]
    return train, val, test


def _write_history(files: RunFiles, history: list[EpochResult]) -> None:
    """Write the tables, the status text and the arrays anew from all epochs."""
    rows = [result.row() for result in history]
    write_csv(files.path("epochs.csv"), rows)
    status = "".join(
        "  ".join(f"{k} {v:.6g}" if isinstance(v, float) else f"{k} {v}" for k, v in row.items())
        + "\n"
        for row in rows
    )
    write_text(files.path("train_val_epoch_status.txt"), status)
    numpy = require("numpy", extra="train")
    for name in rows[0] if rows else ():
        if name not in ("epoch", "lr", "seconds", "images_per_second"):
            with replacing(files.path(f"{name}.npy")) as file, io.BytesIO() as array:
                numpy.save(array, [row[name] for row in rows], allow_pickle=False)
                file.write(array.getvalue())


def _write_test(files: RunFiles, result: RunResult, journal: Journal, name: str) -> None:
    lines = [f"{name}: {show_rate(rate)}" for name, rate in result.rates.items()]
    lines += [f"{name}: {value:.4f}" for name, value in result.values.items()]
    for line in lines:
        journal.line(line)
    write_text(files.path(f"{name}_results.txt"), "\n".join(lines) + "\n")
    # Testing a trained network again must not replace the record of its training.
    save_result(result, files.path("result.json" if name == "test_set" else f"{name}_result.json"))
