"""What every experiment needs around its training: a seeded network, and its result file."""

import secrets
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn

from shiftproof.models.sizes import describe_misfit
from shiftproof.results import Environment, EpochResult, RateResult, RunResult
from shiftproof.training import ModelConfig, RunFiles
from shiftproof.training.checkpoint import check_model, load_checkpoint
from shiftproof.training.config import describe
from shiftproof.training.distributed import Process, any_true, broadcast_state, in_group


def choose_seed(resume: Path | None) -> int:
    """The seed of a run that was given none: that of the run it goes on with, or a new one.

    Args:
        resume: Checkpoint to go on from; none if None.

    Returns:
        The seed.

    Raises:
        RuntimeError: If the checkpoint cannot be read.
    """
    plan = {} if resume is None else load_checkpoint(resume).get("plan", {})
    return int(plan.get("seed", secrets.randbits(31)))


def agree_on_resume(resume: Path | None) -> None:
    """Refuse that some processes go on from a checkpoint and others start anew.

    Args:
        resume: Checkpoint that this process goes on from; none if None.

    Raises:
        ValueError: If it is none on some process only.
    """
    if any_true(resume is None) and any_true(resume is not None):
        raise ValueError(
            "resume: every process must find the checkpoint, got it on some only; put the folder "
            "of the run on a disk that all nodes share"
        )


def agree_on_seed(seed: int) -> int:
    """Take the seed of the first process, where each may have drawn its own.

    Args:
        seed: The seed of this process.

    Returns:
        The common seed.
    """
    seeds = [seed]
    if in_group():
        dist.broadcast_object_list(seeds, src=0)
    return seeds[0]


def build_seeded(model: ModelConfig, seed: int) -> nn.Module:
    """Build a network whose initial weights follow from the seed.

    Args:
        model: Which network.
        seed: The seed.

    Returns:
        The network, on the CPU.

    Raises:
        ValueError: If the name or an option is unknown.
    """
    torch.manual_seed(seed)
    return model.build()


def check_size(model: nn.Module, size: int) -> None:
    """Refuse an image size that a shift-invariant network cannot keep its promise for.

    Args:
        model: A network of the zoo.
        size: Height and width of its input.

    Raises:
        ValueError: If the network chooses phases and the size is not a multiple of its stride.
    """
    misfit = describe_misfit((size, size), getattr(model, "places", ()))
    if misfit is not None:
        raise ValueError(f"image size: {misfit}")


def load_trained(model: nn.Module, config: ModelConfig, path: Path) -> None:
    """Load the weights of a training run into the network that was trained.

    Args:
        model: The network.
        config: What it was built from.
        path: A checkpoint of the run.

    Raises:
        ValueError: If the checkpoint is of another network.
        RuntimeError: If the file cannot be read.
    """
    data = load_checkpoint(path)
    check_model(data, describe(config), path)
    model.load_state_dict(data["model"])


def load_best(model: nn.Module, config: ModelConfig, files: RunFiles, process: Process) -> None:
    """Load the weights of the best validation accuracy into a network, on every process.

    Only the first process reads: on another node there may be no such file.

    A run that went on in another folder may not have beaten the best of the old one: then the last
    weights are taken, and after no epoch at all the network stays as it is.

    Args:
        model: The network, on the device of the process.
        config: What it was built from.
        files: The places of the run.
        process: This process.

    Raises:
        ValueError: If the checkpoint is of another network.
        RuntimeError: If the file cannot be read.
    """
    found = [path for path in map(files.path, (files.best, files.last)) if path.is_file()]
    if process.is_main and found:
        load_trained(model, config, found[0])
    broadcast_state(model)


def log_position(resume: Path | None, evaluate_only: bool) -> int | None:
    """How much of an earlier run's log stays when a run opens it.

    Args:
        resume: Checkpoint that the run goes on from; None if it starts anew.
        evaluate_only: Whether nothing is trained, so that the whole log stays.

    Returns:
        The number of bytes for ``Journal``; None for nothing.

    Raises:
        RuntimeError: If the checkpoint cannot be read.
    """
    if evaluate_only:
        return sys.maxsize
    return None if resume is None else int(load_checkpoint(resume).get("journal", 0))


def seconds_per_epoch(history: list[EpochResult]) -> dict[str, float]:
    """The mean time of training an epoch, by its name in a result.

    Args:
        history: Results of the epochs.

    Returns:
        One value, or none for no epochs.
    """
    if not history:
        return {}
    return {"seconds per epoch": sum(epoch.seconds for epoch in history) / len(history)}


def device_name(device: torch.device) -> str:
    """Name of a device as a reader of results knows it.

    Args:
        device: The device.

    Returns:
        ``"cpu"`` or the name of the GPU.
    """
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def make_result(
    config: object,
    model_name: str,
    model: nn.Module,
    process: Process,
    *,
    history: list[EpochResult],
    rates: dict[str, RateResult],
    values: dict[str, float],
    unreadable: tuple[str, ...],
) -> RunResult:
    """Gather what a run found.

    Args:
        config: The complete configuration, a dataclass.
        model_name: Registered name of the network.
        model: The network.
        process: This process.
        history: Results of the epochs.
        rates: Final measurements by name.
        values: Other numbers by name.
        unreadable: Broken files.

    Returns:
        The result.
    """
    return RunResult(
        model=model_name,
        num_parameters=sum(parameter.numel() for parameter in model.parameters()),
        epochs=len(history),
        config=describe(config),
        environment=Environment.collect(device_name(process.device), torch.get_num_threads()),
        rates=rates,
        values=values,
        history=tuple(history),
        unreadable=unreadable,
    )


def show_rate(rate: RateResult) -> str:
    """One measurement as a reader needs it: with its number of images and interval.

    Args:
        rate: The measurement.

    Returns:
        For instance ``"99.10 % (n=10000, 95 % interval 98.90 to 99.27)"``, and after the number of
        images "in 40 batches that share their shifts" where that is what the interval counts.
    """
    if not rate.n:
        return "no images"
    clusters = rate.num_clusters
    text = f"{rate.percent:.2f} % (n={rate.n}"
    if clusters == 1:
        text += " in 1 batch that shares its shift, which gives no interval"
    else:
        text += "" if clusters is None else f" in {clusters} batches that share their shifts"
        text += f", 95 % interval {100 * rate.low:.2f} to {100 * rate.high:.2f}"
    if rate.batch_mean is not None:
        text += f"; mean of batch means {100 * rate.batch_mean:.2f}"
    return text + ")"
