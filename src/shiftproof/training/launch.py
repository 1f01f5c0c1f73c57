"""Starting the processes of one node, passing signals on to them, noticing their failures."""

import contextlib
import multiprocessing
import multiprocessing.connection
import os
import pickle
import signal
import socket
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable
from multiprocessing.context import SpawnProcess
from multiprocessing.queues import SimpleQueue
from typing import Any, TypeVar, cast
from urllib.parse import urlsplit

from shiftproof.training.distributed import address_in_use, process_group
from shiftproof.training.interrupt import stop_signals

_R = TypeVar("_R")

_POLL = 0.2
"""Seconds between two looks at whether a process has reported."""

_GRACE = 5.0
"""Seconds that the other processes get to end by themselves once one has failed."""


class ChildError(Exception):
    """The trace of an error in another process; the cause of the error raised in this one."""


def _portable(error: Exception) -> Exception:
    """The error itself if it can cross to another process, otherwise its text."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


def _follow_parent() -> None:
    """Ask this process to stop once the one that started it is gone, killed perhaps."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)


def _run(
    local_rank: int,
    reports: "SimpleQueue[tuple[int, bool, Any]]",
    first_rank: int,
    group: dict[str, Any],
    function: Callable[..., object],
    args: tuple[Any, ...],
) -> None:
    """What each process runs; it ends with status 0, or with a report of its error."""
    threading.Thread(target=_follow_parent, daemon=True).start()
    with contextlib.ExitStack() as stack:
        try:
            process = stack.enter_context(
                process_group(rank=first_rank + local_rank, local_rank=local_rank, **group)
            )
            result = function(process, *args)
            if local_rank == 0:
                reports.put((0, True, result))
        except KeyboardInterrupt:
            sys.exit(128 + signal.SIGINT)
        except Exception as error:
            # Reported before the group is left, which makes the other processes fail in turn: so
            # the first report tells the cause.
            reports.put((local_rank, False, (_portable(error), traceback.format_exc())))
            sys.exit(1)


def _check_address(init_method: str, node_rank: int) -> None:
    # torch would find out as well, in a child and with several lines of its own on the terminal.
    if not init_method.startswith("tcp://"):
        return
    try:
        port = urlsplit(init_method).port
    except ValueError:
        port = None
    if not port:
        raise ValueError(
            f"launch: --dist-url must be tcp://ADDRESS:PORT, got {init_method}; "
            "put the number of a free port"
        )
    if node_rank != 0:
        return
    with socket.socket() as probe:
        # As torch does: a port that a finished run has just left counts as free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError as error:
            raise RuntimeError(address_in_use(init_method)) from error


def _end(processes: list[SpawnProcess]) -> None:
    """Let the processes that still run end by themselves, then end them."""
    for process in processes:
        if process.is_alive():
            process.terminate()
    deadline = time.monotonic() + _GRACE
    for process in processes:
        process.join(max(0.0, deadline - time.monotonic()))
        if process.is_alive():
            process.kill()
            process.join()


def _fate(process: SpawnProcess) -> str:
    status = process.exitcode or 0
    return f"signal {signal.Signals(-status).name}" if status < 0 else f"status {status}"


def launch(
    function: Callable[..., _R],
    args: tuple[Any, ...] = (),
    *,
    processes_per_node: int,
    num_nodes: int = 1,
    node_rank: int = 0,
    init_method: str | None = None,
    backend: str = "nccl",
    device: str | int | None = None,
    timeout: float | None = None,
) -> _R:
    """Run a function in every process of this node, joined to those of the other nodes.

    SIGINT and SIGTERM are passed on to the processes.  When one process fails, the others are ended
    and its error is raised here, with the trace of that process as the cause.  A single process
    needs no other: the function is then called directly.

    Args:
        function: Called as ``function(process, *args)`` inside ``process_group``; a function at the
            top level of a module.  The calling script must be guarded by
            ``if __name__ == "__main__"``.
        args: Further arguments, picklable.
        processes_per_node: Processes on each node.
        num_nodes: Number of nodes; ``launch`` is called once on each.
        node_rank: Number of this node, from 0.
        init_method: Where the processes meet, for instance ``tcp://127.0.0.1:23456``; may be
            ``None`` on one node.
        backend: ``"nccl"`` or ``"gloo"``.
        device: Where to compute; see ``pick_device``.
        timeout: Seconds to wait for other processes; ``None`` for torch's own limit.

    Returns:
        What the function returned in the first process of this node.

    Raises:
        ValueError: If the numbers of processes and nodes make no sense, or the address has no port.
        RuntimeError: If the port is in use, or a process ended without a report of its own.
        SystemExit: If a process was ended by a signal passed on to it.
    """
    if processes_per_node < 1 or not 0 <= node_rank < num_nodes:
        raise ValueError(
            "launch: there must be at least 1 process per node and 0 <= rank of the node < nodes, "
            f"got {processes_per_node} processes, rank {node_rank} of {num_nodes} nodes; "
            "check --world-size and --rank"
        )
    world_size = processes_per_node * num_nodes
    if world_size == 1:
        with process_group(rank=0, world_size=1, device=device) as process:
            return function(process, *args)
    if init_method is None and num_nodes > 1:
        raise ValueError(
            f"launch: {num_nodes} nodes must have an address to meet at, got none; "
            "pass --dist-url tcp://ADDRESS:PORT"
        )
    if init_method is not None:
        _check_address(init_method, node_rank)
    with tempfile.TemporaryDirectory() as folder:
        group = {
            "world_size": world_size,
            "processes_per_node": processes_per_node,
            "init_method": init_method or f"file://{folder}/meeting",
            "backend": backend,
            "device": device,
            "timeout": timeout,
        }
        first_rank = node_rank * processes_per_node
        return cast(_R, _supervise(processes_per_node, first_rank, group, function, args))


def _supervise(
    count: int,
    first_rank: int,
    group: dict[str, Any],
    function: Callable[..., object],
    args: tuple[Any, ...],
) -> object:
    spawn = multiprocessing.get_context("spawn")
    processes: list[SpawnProcess] = []
    signals: list[int] = []
    result: object = None
    failures: dict[int, tuple[Exception, str]] = {}
    lost: list[int] = []

    def pass_on(number: int) -> None:
        for process in processes:
            if process.pid is not None and process.exitcode is None:
                os.kill(process.pid, number)

    def receive(number: int) -> None:
        signals.append(number)
        pass_on(number)

    with stop_signals(receive), contextlib.closing(spawn.SimpleQueue()) as reports:
        try:
            for local_rank in range(count):
                values = (local_rank, reports, first_rank, group, function, args)
                process = spawn.Process(target=_run, args=values)
                process.start()
                processes.append(process)
            for number in tuple(signals):  # came before every process was there
                pass_on(number)
            running = list(processes)
            while running and not failures and not lost:
                ended = multiprocessing.connection.wait([p.sentinel for p in running], _POLL)
                for process in running:
                    if process.sentinel in ended:
                        process.join()
                # Read after the processes have ended: all that these had to say is here by now.
                while not reports.empty():
                    local_rank, done, report = reports.get()
                    if done:
                        result = report
                    else:
                        failures[local_rank] = report
                running = [process for process in running if process.exitcode is None]
                lost = [i for i, p in enumerate(processes) if p.exitcode and i not in failures]
        finally:
            _end(processes)
    if lost and signals:
        raise SystemExit(128 + signals[0])
    # First, because the failures of the others may be its consequences.
    if lost:
        raise RuntimeError(
            f"launch: every process must run to its end, got process {first_rank + lost[0]} ended "
            f"by {_fate(processes[lost[0]])}; look at the lines above and at the free memory"
        )
    for error, trace in failures.values():
        raise error from ChildError(trace)
    return result
