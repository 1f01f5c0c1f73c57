import contextlib
import os
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

from processes import run_together
from shiftproof.training import distributed
from shiftproof.training.distributed import (
    all_true,
    any_true,
    barrier,
    broadcast_buffers,
)
from shiftproof.training.interrupt import STOPPED
from shiftproof.training.launch import launch, tell_restart


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
    assert run_together(collect, tmp_path) == "returned by 0"
    seen = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    assert [s["process"] for s in seen] == [(0, 0, 2, "cpu"), (1, 1, 2, "cpu")]
    assert not torch.equal(seen[0]["before"], seen[1]["before"])
    for s in seen:
        assert torch.equal(s["mean"], seen[0]["before"])
        assert torch.equal(s["view"], torch.zeros(3, 2, dtype=torch.int64))
        assert s["any"] == (True, True, False)
        assert s["all"] == (False, False, True)
        assert s["threads"] == max(1, distributed._num_cores() // 2)


def whoami(process):
    return process.rank, process.world_size, dist.is_initialized()


@pytest.mark.slow
def test_one_process_is_alone():
    assert run_together(whoami, processes=1) == (0, 1, False)


def join_and_fail(process, failing):
    if process.rank == failing:
        raise ValueError("train: the loss must be finite, got nan; lower the learning rate")
    barrier()  # fails too, when the other process has gone


def fail_outside_of_the_group(process):
    dist.destroy_process_group()
    raise OSError(28, "No space left on device")


def vanish(process):
    if process.rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    barrier()


@pytest.mark.parametrize("failing", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_the_error_of_the_first_to_fail_is_raised_here(failing):
    with pytest.raises(RuntimeError, match=r"^train: the loss must be finite, got nan; lower the"):
        run_together(join_and_fail, failing)


@pytest.mark.slow
def test_an_error_of_the_machine_keeps_its_words():
    with pytest.raises(RuntimeError, match=r"No space left on device"):
        run_together(fail_outside_of_the_group)


@pytest.mark.slow
def test_a_process_that_vanishes_is_named():
    with pytest.raises(RuntimeError, match=r"got process 1 ended by signal SIGKILL; look at"):
        run_together(vanish)


def test_a_command_that_fails_without_a_word_is_told_by_its_status():
    command = [sys.executable, "-c", "import sys; sys.exit(7)"]
    with pytest.raises(RuntimeError, match=r"got process 0 ended with status 7; look at"):
        launch(command, processes_per_node=1)


def test_a_command_that_is_not_there_is_one_line():
    with pytest.raises((RuntimeError, OSError), match=r"no-such-program"):
        launch(["no-such-program"], processes_per_node=1)


def fail_at_first(process, folder):
    tell_restart(folder / "checkpoint.pt")
    attempt = int(os.environ["TORCHELASTIC_RESTART_COUNT"])
    barrier()  # who fails first is ended before the other has told
    if attempt == 0:
        vanish(process)
    elif attempt == 1:
        join_and_fail(process, 1)
    return attempt


@pytest.mark.slow
def test_processes_are_started_again_and_told_why(tmp_path, capfd):
    assert run_together(fail_at_first, tmp_path, max_restarts=3) == 2
    lines = sorted(capfd.readouterr().err.splitlines())
    told = [line for line in lines if line.startswith("warning: restart ")]
    assert len(told) == 4  # by both processes; the front lets the first one tell it
    assert told[0].startswith(f"warning: restart 1 of 3, from {tmp_path / 'checkpoint.pt'}: ")
    assert told[2].endswith("train: the loss must be finite, got nan; lower the learning rate")


@pytest.mark.slow
def test_the_last_start_counts():
    with pytest.raises(RuntimeError, match=r"^train: the loss must be finite, got nan"):
        run_together(join_and_fail, 1, max_restarts=1)


def test_a_busy_port_is_found_before_anything_starts(capfd):
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"tcp://127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(RuntimeError, match=rf"must be free, got {url}: address in use; choose"):
            launch(["true"], processes_per_node=2, url=url)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    "url",
    ["tcp://127.0.0.1:FREE-PORT", "tcp://127.0.0.1", "tcp://h:99999", "tcp://:123", "h:80", ""],
)
def test_an_address_without_a_port_is_an_error(url):
    with pytest.raises(ValueError, match=rf"must be tcp://ADDRESS:PORT, got {url}; put"):
        launch(["true"], processes_per_node=2, url=url)


def free_url():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return f"tcp://127.0.0.1:{server.getsockname()[1]}"


def note_place(process, folder):
    (folder / f"{process.rank}").write_text(f"{process.local_rank} of {process.world_size}")
    barrier()


@pytest.mark.slow
def test_two_nodes_meet(tmp_path):
    options = {"processes": 1, "num_nodes": 2, "url": free_url()}
    with ThreadPoolExecutor(2) as nodes:
        ends = [
            nodes.submit(run_together, note_place, tmp_path, node_rank=node, **options)
            for node in range(2)
        ]
        for end in ends:
            end.result(timeout=120)
    assert [(tmp_path / f"{rank}").read_text() for rank in range(2)] == ["0 of 2"] * 2


def test_nodes_need_an_address():
    with pytest.raises(ValueError, match=r"2 nodes must have an address to meet at, got none"):
        launch(["true"], processes_per_node=1, num_nodes=2)


@pytest.mark.parametrize(
    ("count", "nodes", "rank", "restarts"),
    [(0, 1, 0, 0), (1, 0, 0, 0), (1, 2, 2, 0), (1, 1, -1, 0), (1, 1, 0, -1)],
)
def test_numbers_of_processes_and_nodes_must_make_sense(count, nodes, rank, restarts):
    options = {"num_nodes": nodes, "node_rank": rank, "max_restarts": restarts}
    with pytest.raises(ValueError, match=r"launch: there must be at least 1 process per node"):
        launch(["true"], processes_per_node=count, **options)


PROGRAM = """
import contextlib
import sys
import time
from pathlib import Path

from shiftproof.training.distributed import any_true, process_group
from shiftproof.training.interrupt import STOPPED, GracefulStop
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
    return STOPPED


if __name__ == "__main__":
    folder, graceful = Path(sys.argv[1]), sys.argv[2] == "graceful"
    if sys.argv[3:]:
        with process_group(backend="gloo", device="cpu") as process:
            status = train(process, folder, graceful)
    else:
        status = launch([sys.executable, *sys.argv, "child"], processes_per_node=2)
    sys.exit(status)
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


def own_lines(output):
    """Without what gloo says of itself in torch 2.10."""
    return "".join(line for line in output.splitlines(True) if not line.startswith("[Gloo]"))


def both_saved_at_the_same_step(folder):
    wait_for(folder, "saved")
    first, second = ((folder / f"saved{rank}").read_text() for rank in range(2))
    return first == second


@pytest.mark.parametrize(
    ("send", "number"),
    [
        pytest.param(os.kill, signal.SIGTERM, id="to the parent"),
        pytest.param(os.killpg, signal.SIGINT, id="ctrl-c at the terminal", marks=pytest.mark.slow),
    ],
)
def test_a_signal_lets_every_process_finish_the_same_step(tmp_path, send, number):
    with training(tmp_path, "graceful") as parent:
        send(parent.pid, number)
        output, errors = parent.communicate(timeout=60)
    assert (parent.returncode, own_lines(output), errors) == (STOPPED, "", "")
    assert both_saved_at_the_same_step(tmp_path)


@pytest.mark.slow
def test_the_processes_do_not_outlive_a_killed_parent(tmp_path):
    with training(tmp_path, "graceful") as parent:
        parent.kill()
        wait_for(tmp_path, "saved")
        assert both_saved_at_the_same_step(tmp_path)


@pytest.mark.slow
def test_a_signal_ends_processes_that_do_not_catch_it(tmp_path):
    with training(tmp_path, "abrupt") as parent:
        parent.terminate()
        output, errors = parent.communicate(timeout=60)
    assert (parent.returncode, own_lines(output), errors) == (STOPPED, "", "")
    assert not list(tmp_path.glob("saved*"))
