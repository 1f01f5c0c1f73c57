"""Starting the processes of one node under torch's elastic agent, and telling why one failed."""

import contextlib
import json
import logging
import os
import signal
import socket
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure
from torch.distributed.elastic.rendezvous import RendezvousError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from shiftproof.training.distributed import address_in_use, under_agent, warn
from shiftproof.training.interrupt import STOPPED

_TIME_TO_SAVE = 300
"""Seconds that processes get to finish their step and save once a signal has come; torch before 2.9
gives them 30, whatever this says."""


def first_error(folder: Path) -> str | None:
    """What the first process to fail wrote into its error file.

    Args:
        folder: Where the processes of one attempt have their error files.

    Returns:
        The text of its error, or ``None`` if no process has written any.
    """
    # Written before the group is left, which makes the other processes fail in turn: the oldest
    # tells the cause.
    files = sorted(folder.glob("*/error.json"), key=lambda path: path.stat().st_mtime_ns)
    if not files:
        return None
    text: str = json.loads(files[0].read_text())["message"]["message"]
    return text.partition(": ")[2] or text


def tell_restart(resume: Path | None) -> None:
    """Warn that torch's elastic agent has started this process again, and why.

    Args:
        resume: Checkpoint that the run goes on from; none if None.
    """
    count = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))
    if count and under_agent():
        logs = Path(os.environ["TORCHELASTIC_ERROR_FILE"]).parents[2]
        reason = first_error(logs / f"attempt_{count - 1}") or "a process ended"
        source = "from the start" if resume is None else f"from {resume}"
        warn(
            f"restart {count} of {os.environ['TORCHELASTIC_MAX_RESTARTS']}, {source}: "
            f"{' '.join(reason.split())}"
        )


def _cause(failures: Mapping[int, ProcessFailure], logs: Path) -> str:
    """Why the last attempt failed, in one line."""
    # Killed from outside: whatever else failed did so for want of it.  SIGTERM is how the agent
    # ends the others.
    for rank, failure in failures.items():
        if failure.exitcode < 0 and failure.exitcode != -signal.SIGTERM:
            return (
                f"launch: every process must run to its end, got process {rank} ended by signal "
                f"{failure.signal_name()}; look at the lines above and at the free memory"
            )
    attempts = sorted(logs.glob("*/attempt_*"), key=lambda path: int(path.name.split("_")[1]))
    text = first_error(attempts[-1]) if attempts else None
    if text is not None:
        return text
    rank, failure = next(iter(failures.items()))
    return (
        f"launch: every process must run to its end, got process {rank} ended with status "
        f"{failure.exitcode}; look at the lines above"
    )


def _check_url(url: str, is_host: bool) -> str:
    """The address and port of a URL; refuses a port that is missing or taken."""
    try:
        address, port = urlsplit(url).hostname, urlsplit(url).port
    except ValueError:
        address = port = None
    if not url.startswith("tcp://") or not address or not port:
        raise ValueError(
            f"launch: --dist-url must be tcp://ADDRESS:PORT, got {url}; "
            "put the number of a free port"
        )
    if is_host:
        # torch would find out as well, with several lines of its own on the terminal.
        with socket.socket() as probe:
            # As torch does: a port that a finished run has just left counts as free.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("", port))
            except OSError as error:
                raise RuntimeError(address_in_use(url)) from error
    return f"{address}:{port}"


@contextlib.contextmanager
def _silent_agent() -> Iterator[None]:
    """Keep the agent's own log off the terminal; what it has to say is told in one line."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)


def launch(
    command: Sequence[str],
    *,
    processes_per_node: int,
    num_nodes: int = 1,
    node_rank: int = 0,
    url: str | None = None,
    max_restarts: int = 0,
) -> int:
    """Run a command in every process of this node, as ``torchrun`` does.

    The processes find their place in the environment that torch's elastic agent sets (``RANK``,
    ``WORLD_SIZE``, ``LOCAL_RANK``, ...).  SIGINT and SIGTERM are passed on to them.  When one ends
    with an error, the others are ended, and up to ``max_restarts`` times all are started again.

    Args:
        command: Program and arguments.
        processes_per_node: Processes on each node.
        num_nodes: Number of nodes; ``launch`` is called once on each.
        node_rank: Number of this node, from 0; node 0 is the one that the others ask.
        url: Where the nodes meet, ``tcp://ADDRESS:PORT``; may be ``None`` on one node.
        max_restarts: How often to start the processes again.

    Returns:
        0, or ``STOPPED`` if a signal stopped the processes.

    Raises:
        ValueError: If the numbers of processes and nodes make no sense, or the URL has no port.
        RuntimeError: If the port is in use, the nodes do not meet, or a process failed; with the
            text of its error, where it left one.

    References:
        PyTorch, "Torch Distributed Elastic", documentation of ``torch.distributed.launcher``.
    """
    if processes_per_node < 1 or not 0 <= node_rank < num_nodes or max_restarts < 0:
        raise ValueError(
            "launch: there must be at least 1 process per node, 0 <= rank of the node < nodes and "
            f"restarts >= 0, got {processes_per_node} processes, rank {node_rank} of {num_nodes} "
            f"nodes and {max_restarts} restarts; check --world-size, --rank and --max-restarts"
        )
    if url is None and num_nodes > 1:
        raise ValueError(
            f"launch: {num_nodes} nodes must have an address to meet at, got none; "
            "pass --dist-url tcp://ADDRESS:PORT"
        )
    # On one node any free port will do where none is named.
    endpoint = "127.0.0.1:0" if url is None else _check_url(url, node_rank == 0)
    os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", str(_TIME_TO_SAVE))
    # A store of their own for each start: the agent's still holds the addresses of dead processes.
    os.environ["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"
    with tempfile.TemporaryDirectory() as logs, _silent_agent():
        config = LaunchConfig(
            min_nodes=num_nodes,
            max_nodes=num_nodes,
            nproc_per_node=processes_per_node,
            run_id="shiftproof",
            rdzv_backend="c10d",
            rdzv_endpoint=endpoint,
            rdzv_configs={"is_host": node_rank == 0},
            # The name of the machine need not be known to itself.
            local_addr="127.0.0.1" if num_nodes == 1 else None,
            max_restarts=max_restarts,
            logs_specs=DefaultLogsSpecs(log_dir=logs),
        )
        try:
            elastic_launch(config, command[0])(*command[1:])
        except SignalException:
            return STOPPED
        except ChildFailedError as error:
            # Who had saved already may have been ended while it waited for the others.
            ends = {failure.exitcode for failure in error.failures.values()} - {-signal.SIGTERM}
            if ends == {STOPPED}:
                return STOPPED
            raise RuntimeError(_cause(error.failures, Path(logs))) from error
        except RendezvousError as error:
            raise RuntimeError(
                f"launch: all {num_nodes} nodes must be able to meet, got {url or endpoint} "
                f"({type(error).__name__}: {error}); check --dist-url, --world-size and --rank"
            ) from error
    return 0
