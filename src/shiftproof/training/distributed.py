"""Processes that train together: where each one stands, and what they tell each other."""

import contextlib
import gc
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch._C._distributed_c10d import PrefixStore
from torch.distributed.elastic.multiprocessing.errors import get_error_handler
from torch.distributed.rendezvous import rendezvous

BACKENDS = ("nccl", "gloo")
"""What ``--dist-backend`` accepts."""


@dataclass(frozen=True)
class Process:
    """The place of this process among those that train together.

    Attributes:
        rank: Number of the process, from 0, over all nodes.
        local_rank: Number of the process on its node, from 0.
        world_size: Number of processes on all nodes.
        device: Where this process computes.
    """

    rank: int
    local_rank: int
    world_size: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        """Whether this process, rank 0, is the one that writes and prints."""
        return self.rank == 0


def warn(text: str) -> None:
    """Write one line to standard error.

    Args:
        text: What the user should know; the program goes on.
    """
    print(f"warning: {text}", file=sys.stderr, flush=True)


def under_agent() -> bool:
    """Whether torch's elastic agent, torchrun's or ours, started this process."""
    return bool(os.environ.get("TORCHELASTIC_ERROR_FILE"))


def report_error(error: Exception) -> None:
    """Tell the elastic agent why this process fails; the first report counts.

    Args:
        error: What was raised.
    """
    if under_agent() and not Path(os.environ["TORCHELASTIC_ERROR_FILE"]).exists():
        get_error_handler().record_exception(error)


def _follow_parent() -> None:
    """Ask this process to stop once the agent that started it is gone, killed perhaps."""
    agent = os.getppid()
    while os.getppid() == agent:
        time.sleep(1)
    os.kill(os.getpid(), signal.SIGTERM)


def pick_device(requested: str | int | None, local_rank: int = 0) -> torch.device:
    """Choose where a process computes.

    Where CUDA is asked for and absent, the first process of the node writes one warning line and
    all of them get the CPU.

    Args:
        requested: ``"cpu"``; the index of a CUDA device, as a number, ``"0"`` or ``"cuda:0"``; or
            ``"cuda"`` or ``None``, the CUDA device numbered as the process, where ``None`` means
            the CPU if there is no CUDA.
        local_rank: Number of the process on its node.

    Returns:
        The device, with its index if it is a CUDA device.

    Raises:
        ValueError: If the name is another one, or there are fewer CUDA devices.
    """
    name = str(local_rank if requested in (None, "cuda") else requested).removeprefix("cuda:")
    if name == "cpu":
        return torch.device("cpu")
    if not name.isdecimal():
        raise ValueError(
            "pick_device: the device must be cpu or the index of a CUDA device, got "
            f"{requested!r}; use for instance cpu or 0"
        )
    if not torch.cuda.is_available():
        if requested is not None and local_rank == 0:
            warn(f"no CUDA device was found for {requested!r}, computing on the CPU")
        return torch.device("cpu")
    if int(name) >= torch.cuda.device_count():
        raise ValueError(
            f"pick_device: the index must be less than the {torch.cuda.device_count()} CUDA "
            f"devices, got {name}; use another device or fewer processes"
        )
    return torch.device("cuda", int(name))


def _usable_backend(backend: str, process: Process, requested: str | int | None) -> str:
    if backend not in BACKENDS:
        raise ValueError(
            f"process_group: backend must be one of {', '.join(BACKENDS)}, got {backend!r}; "
            "nccl is for CUDA devices, gloo for CPUs"
        )
    if backend == "nccl" and process.device.type != "cuda":
        # Asked for a CUDA device by name, pick_device has said already that there is none.
        if process.is_main and requested in (None, "cpu"):
            warn("nccl needs CUDA devices, computing on the CPU with gloo")
        return "gloo"
    return backend


def _initialise(backend: str, init_method: str, process: Process, timeout: float | None) -> None:
    place: dict[str, Any] = {"init_method": init_method}
    try:
        if init_method == "env://" and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
            # torchrun's store outlives the processes: after a restart it still holds the addresses
            # of those that are gone, and torch 2.14 would wait for them.
            store, _, _ = next(rendezvous(init_method))
            count = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
            place = {"store": PrefixStore(f"start {count}", store)}
        dist.init_process_group(
            backend,
            **place,
            rank=process.rank,
            world_size=process.world_size,
            timeout=None if timeout is None else timedelta(seconds=timeout),
            device_id=process.device if backend == "nccl" else None,
        )
    except (RuntimeError, ValueError) as error:
        if "EADDRINUSE" in str(error):
            raise RuntimeError(address_in_use(init_method)) from error
        reason = str(error).splitlines()[0]
        raise RuntimeError(
            f"process_group: all {process.world_size} processes must be able to meet, got "
            f"{init_method} ({reason}); check --dist-url, --world-size and --rank"
        ) from error


def address_in_use(init_method: str) -> str:
    """Message for a meeting point that another program occupies.

    Args:
        init_method: The address.

    Returns:
        The text of the error.
    """
    return (
        f"process_group: the port of --dist-url must be free, got {init_method}: address in use; "
        "choose another port"
    )


def _place(
    rank: int | None, world_size: int | None, local_rank: int, processes_per_node: int
) -> tuple[int, int, int, int]:
    if (rank is None) != (world_size is None):
        raise ValueError(
            f"process_group: rank and world_size must come together, got rank={rank} and "
            f"world_size={world_size}; pass both, or neither under torchrun"
        )
    if rank is not None and world_size is not None:
        return rank, world_size, local_rank, processes_per_node
    if "RANK" in os.environ and "WORLD_SIZE" in os.environ:
        world = os.environ["WORLD_SIZE"]
        return (
            int(os.environ["RANK"]),
            int(world),
            int(os.environ.get("LOCAL_RANK", "0")),
            int(os.environ.get("LOCAL_WORLD_SIZE", world)),
        )
    return 0, 1, 0, 1


def _num_cores() -> int:
    if sys.platform == "linux":  # the cores this process may use, perhaps not all there are
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@contextlib.contextmanager
def process_group(
    *,
    rank: int | None = None,
    world_size: int | None = None,
    local_rank: int = 0,
    processes_per_node: int = 1,
    init_method: str = "env://",
    backend: str = "nccl",
    device: str | int | None = None,
    timeout: float | None = None,
) -> Iterator[Process]:
    """Join the processes that train together, and leave them at the end.

    Without ``rank`` the place comes from the environment that torchrun sets, and where that is
    missing too, or with ``world_size=1``, the process is alone and no group is made.  Processes
    that share the CPU of a node share its cores: each gets an equal number of threads.

    Args:
        rank: Number of this process, from 0, over all nodes.
        world_size: Number of processes on all nodes.
        local_rank: Number of this process on its node, with ``rank``.
        processes_per_node: Number of processes on this node, with ``rank``.
        init_method: Where the processes meet, for instance ``tcp://127.0.0.1:23456``.
        backend: ``"nccl"``, or ``"gloo"``, which also replaces nccl on CPUs, with a warning.
        device: Where to compute; see ``pick_device``.
        timeout: Seconds to wait for the other processes; ``None`` for torch's own limit.

    Yields:
        The place of this process.

    Raises:
        ValueError: If only one of ``rank`` and ``world_size`` is given, or the backend or the
            device has another name.
        RuntimeError: If the processes cannot meet, for instance because the port is in use.
    """
    rank, world_size, local_rank, processes_per_node = _place(
        rank, world_size, local_rank, processes_per_node
    )
    process = Process(rank, local_rank, world_size, pick_device(device, local_rank))
    if process.device.type == "cuda":
        torch.cuda.set_device(process.device)
    if world_size == 1:
        yield process
        return
    if under_agent():
        threading.Thread(target=_follow_parent, daemon=True).start()
    backend = _usable_backend(backend, process, device)
    num_threads = torch.get_num_threads()
    if process.device.type == "cpu" and processes_per_node > 1:
        torch.set_num_threads(max(1, _num_cores() // processes_per_node))
    try:
        _initialise(backend, init_method, process, timeout)
        yield process
    except Exception as error:
        report_error(error)  # before the group is left, which makes the others fail in turn
        raise
    finally:
        if in_group():
            gc.collect()  # whatever still held the group could abort the process at its very end
            dist.destroy_process_group()
        torch.set_num_threads(num_threads)


def in_group() -> bool:
    """Whether this process trains together with others."""
    return dist.is_available() and dist.is_initialized()


def barrier() -> None:
    """Wait until every process is here; without a group, do nothing."""
    if in_group():
        any_true(False)  # its answer needs all of them, and it knows the device of each backend


def broadcast_buffers(module: nn.Module, src: int = 0) -> None:
    """Give every process the buffers of one, the running statistics of batch norm above all.

    Without a group, do nothing.

    Args:
        module: The model; the same on every process but for the values.
        src: Rank whose values all get.
    """
    if not in_group():
        return
    with torch.no_grad():
        for buffer in module.buffers():
            values = buffer.contiguous()
            dist.broadcast(values, src)
            buffer.copy_(values)


def broadcast_state(module: nn.Module) -> None:
    """Give every process the parameters and buffers of the first.  Without a group, do nothing.

    Args:
        module: The model; the same on every process but for the values.
    """
    if not in_group():
        return
    with torch.no_grad():
        for parameter in module.parameters():
            values = parameter.contiguous()
            dist.broadcast(values, 0)
            parameter.copy_(values)
    broadcast_buffers(module)


def _reduce(flag: bool, operation: "dist.ReduceOp.RedOpType") -> bool:
    if not in_group():
        return flag
    value = torch.tensor(int(flag), device="cuda" if dist.get_backend() == "nccl" else "cpu")
    dist.all_reduce(value, operation)
    return bool(value.item())


def any_true(flag: bool) -> bool:
    """Whether the flag is true on some process; the same answer on all of them.

    Args:
        flag: The value on this process.

    Returns:
        The common answer; without a group, the flag.
    """
    return _reduce(flag, dist.ReduceOp.MAX)


def all_true(flag: bool) -> bool:
    """Whether the flag is true on every process; the same answer on all of them.

    Args:
        flag: The value on this process.

    Returns:
        The common answer; without a group, the flag.
    """
    return _reduce(flag, dist.ReduceOp.MIN)
