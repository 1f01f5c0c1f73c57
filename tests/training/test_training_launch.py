import contextlib
import os
import pickle
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import torch.distributed as dist
from torch import nn

from shiftproof.training import distributed
from shiftproof.training import launch as launching
from shiftproof.training.distributed import (
    all_true,
    any_true,
    barrier,
    broadcast_buffers,
)
from shiftproof.training.launch import ChildError, launch


def launch_two(function, *args, **options):
    return launch(function, args, processes_per_node=2, device="cpu", backend="gloo", **options)


def collect(process, folder):
    """Use everything that processes tell each other; keep what each one saw."""
    norm = nn.Sequential(nn.BatchNorm2d(2), nn.BatchNorm2d(2, track_running_stats=False))
    norm(torch.full((1, 2, 3, 3), float(process.rank + 1)))
    norm.register_buffer("view", torch.full((2, 3), process.rank).t(), persistent=False)
    before = norm[0].running_mean.clone()
    broadcast_buffers(norm)
    first = process.rank == 0
    torch.save(
        {
            "process": (process.rank, process.local_rank, process.world_size, str(process.device)),
            "before": before,
            "mean": norm[0].running_mean,
            "view": norm.view,
            "any": (any_true(first), any_true(not first), any_true(False)),
            "all": (all_true(first), all_true(not first), all_true(True)),
            "threads": torch.get_num_threads(),
        },
        folder / f"{process.rank}.pt",
    )
    barrier()
    # After the barrier the other's file is there.
    assert (folder / f"{1 - process.rank}.pt").exists()
    return f"returned by {process.rank}"


def test_two_processes_agree(tmp_path):
    assert launch_two(collect, tmp_path) == "returned by 0"
    seen = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    assert [s["process"] for s in seen] == [(0, 0, 2, "cpu"), (1, 1, 2, "cpu")]
    assert not torch.equal(seen[0]["before"], seen[1]["before"])
    for s in seen:
        assert torch.equal(s["mean"], seen[0]["before"])
        assert torch.equal(s["view"], torch.zeros(3, 2, dtype=torch.int64))
        assert s["any"] == (True, True, False)
        assert s["all"] == (False, False, True)
        assert s["threads"] == max(1, distributed._num_cores() // 2)
    assert not dist.is_initialized()


def whoami(process, greeting):
    return greeting, process.rank, process.world_size, os.getpid(), dist.is_initialized()


def test_one_process_runs_here_without_a_group():
    seen = launch(whoami, ("hello",), processes_per_node=1, device="cpu")
    assert seen == ("hello", 0, 1, os.getpid(), False)


def join_and_fail(process, kind):
    if process.rank == 1:
        raise kind("train: the loss must be finite, got nan at step 7; lower the learning rate")
    barrier()  # fails too, when the other process has gone


class UnpicklableError(Exception):
    def __init__(self, text, *, step):
        super().__init__(text, step)


def fail_beside_a_stubborn_process(process):
    if process.rank == 1:
        raise OSError(28, "No space left on device")
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    time.sleep(600)


def vanish(process):
    if process.rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    barrier()


def no_result(process):
    return lambda: process.rank


def test_the_first_error_is_raised_here_and_nothing_is_printed(capfd):
    with pytest.raises(ValueError, match=r"^train: the loss must be finite, got nan at") as caught:
        launch_two(join_and_fail, ValueError)
    assert isinstance(caught.value.__cause__, ChildError)
    assert "in join_and_fail" in str(caught.value.__cause__)
    assert capfd.readouterr().err == ""


def test_an_error_that_cannot_travel_is_told_in_words():
    known = FileNotFoundError(2, "No such file or directory", "train")
    assert launching._portable(known) is known
    told = launching._portable(UnpicklableError("odd", step=7))
    assert type(told) is RuntimeError
    assert str(told) == "UnpicklableError: ('odd', 7)"


def test_a_process_that_will_not_end_is_killed(monkeypatch):
    monkeypatch.setattr(launching, "_GRACE", 0.2)
    start = time.monotonic()
    with pytest.raises(OSError, match=r"No space left on device"):
        launch_two(fail_beside_a_stubborn_process)
    assert time.monotonic() - start < 60


def test_a_process_that_vanishes_is_named():
    with pytest.raises(RuntimeError, match=r"got process 1 ended by signal SIGKILL; look at"):
        launch_two(vanish)


def test_a_result_that_cannot_travel_is_an_error():
    with pytest.raises((AttributeError, pickle.PicklingError), match=r"no_result"):
        launch_two(no_result)


def test_a_busy_port_is_found_before_anything_starts(capfd):
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"tcp://127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(RuntimeError, match=rf"must be free, got {url}: address in use; choose"):
            launch_two(whoami, init_method=url)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("url", ["tcp://127.0.0.1:FREE-PORT", "tcp://127.0.0.1", "tcp://h:99999"])
def test_an_address_without_a_port_is_an_error(url):
    with pytest.raises(ValueError, match=rf"must be tcp://ADDRESS:PORT, got {url}; put"):
        launch_two(whoami, init_method=url)


def test_two_nodes_number_their_processes_in_turn(tmp_path):
    options = {
        "processes_per_node": 1,
        "num_nodes": 2,
        "init_method": f"file://{tmp_path}/meeting",
        "backend": "gloo",
        "device": "cpu",
    }
    with ThreadPoolExecutor(2) as nodes:
        ends = [
            nodes.submit(launch, whoami, ("hi",), node_rank=node, **options) for node in range(2)
        ]
        seen = [end.result(timeout=120) for end in ends]
    assert [(greeting, rank, size, group) for greeting, rank, size, _, group in seen] == [
        ("hi", 0, 2, True),
        ("hi", 1, 2, True),
    ]


def test_nodes_need_an_address():
    with pytest.raises(ValueError, match=r"2 nodes must have an address to meet at, got none"):
        launch(whoami, ("hello",), processes_per_node=1, num_nodes=2)


@pytest.mark.parametrize(("count", "nodes", "rank"), [(0, 1, 0), (1, 0, 0), (1, 2, 2), (1, 1, -1)])
def test_numbers_of_processes_and_nodes_must_make_sense(count, nodes, rank):
    with pytest.raises(ValueError, match=r"launch: there must be at least 1 process per node"):
        launch(whoami, processes_per_node=count, num_nodes=nodes, node_rank=rank)


PROGRAM = """
import contextlib
import sys
import time
from pathlib import Path

from shiftproof.training.distributed import any_true
from shiftproof.training.interrupt import GracefulStop
from shiftproof.training.launch import launch


def train(process, folder, graceful):
    step = 0
    with GracefulStop() if graceful else contextlib.nullcontext() as stop:
        (folder / f"ready{process.rank}").touch()
        while not any_true(graceful and stop.requested):
            step += 1
            time.sleep(0.01)
    saving = folder / f"saving{process.rank}"
    saving.write_text(str(step))
    saving.rename(folder / f"saved{process.rank}")
    return "stopped"


if __name__ == "__main__":
    graceful = sys.argv[2] == "graceful"
    arguments = (Path(sys.argv[1]), graceful)
    print(launch(train, arguments, processes_per_node=2, backend="gloo", device="cpu"))
"""


def wait_for(folder, name, parent=None):
    deadline = time.monotonic() + 60
    while not all((folder / f"{name}{rank}").exists() for rank in range(2)):
        assert parent is None or parent.poll() is None, parent.communicate()[1]
        assert time.monotonic() < deadline, f"no {name} files"
        time.sleep(0.05)


@contextlib.contextmanager
def training(folder, style):
    """The program above in a session of its own, once both of its processes train."""
    program = folder / "program.py"
    program.write_text(PROGRAM)
    with subprocess.Popen(
        [sys.executable, program, folder, style],
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as parent:
        try:
            wait_for(folder, "ready", parent)
            yield parent
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(parent.pid, signal.SIGKILL)


def both_saved_at_the_same_step(folder):
    wait_for(folder, "saved")
    first, second = ((folder / f"saved{rank}").read_text() for rank in range(2))
    return first == second


@pytest.mark.parametrize(
    ("send", "number"),
    [(os.kill, signal.SIGTERM), (os.killpg, signal.SIGINT)],
    ids=["to the parent", "ctrl-c at the terminal"],
)
def test_a_signal_lets_every_process_finish_the_same_step(tmp_path, send, number):
    with training(tmp_path, "graceful") as parent:
        send(parent.pid, number)
        output, errors = parent.communicate(timeout=60)
    assert (parent.returncode, output, errors) == (0, "stopped\n", "")
    assert both_saved_at_the_same_step(tmp_path)


def test_the_processes_do_not_outlive_a_killed_parent(tmp_path):
    with training(tmp_path, "graceful") as parent:
        parent.kill()
        wait_for(tmp_path, "saved")
        assert both_saved_at_the_same_step(tmp_path)


def test_a_signal_ends_processes_that_do_not_catch_it(tmp_path):
    with training(tmp_path, "abrupt") as parent:
        parent.terminate()
        output, errors = parent.communicate(timeout=60)
    assert (parent.returncode, output, errors) == (128 + signal.SIGTERM, "", "")
    assert not list(tmp_path.glob("saved*"))
