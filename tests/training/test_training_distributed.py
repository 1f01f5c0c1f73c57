import socket

import pytest
import torch
from torch import nn

from shiftproof.training import distributed
from shiftproof.training.distributed import (
    Process,
    all_true,
    any_true,
    barrier,
    broadcast_buffers,
    in_group,
    pick_device,
    process_group,
)

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _no_torchrun(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def _no_cuda(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.fixture
def _two_cuda_devices(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)


@pytest.mark.usefixtures("_no_cuda")
@pytest.mark.parametrize("requested", [None, "cpu"])
def test_the_cpu_needs_no_warning(requested, capsys):
    assert pick_device(requested) == CPU
    assert capsys.readouterr().err == ""


@pytest.mark.usefixtures("_no_cuda")
@pytest.mark.parametrize("requested", [0, "0", "cuda", "cuda:1"])
def test_absent_cuda_gives_one_warning_line_per_node(requested, capsys):
    for local_rank in range(3):
        assert pick_device(requested, local_rank) == CPU
    assert capsys.readouterr().err == (
        f"warning: no CUDA device was found for {requested!r}, computing on the CPU\n"
    )


@pytest.mark.usefixtures("_two_cuda_devices")
@pytest.mark.parametrize(
    ("requested", "device"),
    [(None, "cuda:1"), ("cuda", "cuda:1"), (0, "cuda:0"), ("1", "cuda:1"), ("cuda:0", "cuda:0")],
)
def test_a_cuda_device_is_the_one_named_or_that_of_the_process(requested, device):
    assert pick_device(requested, local_rank=1) == torch.device(device)


@pytest.mark.usefixtures("_two_cuda_devices")
def test_cuda_devices_must_exist():
    with pytest.raises(ValueError, match=r"less than the 2 CUDA devices, got 2"):
        pick_device(2)
    with pytest.raises(ValueError, match=r"less than the 2 CUDA devices, got 5"):
        pick_device(None, local_rank=5)


@pytest.mark.parametrize("requested", ["gpu", "mps", "cuda:x", "-1", -1, ""])
def test_other_device_names_are_refused(requested):
    with pytest.raises(ValueError, match=r"pick_device: the device must be cpu or the index"):
        pick_device(requested)


def test_a_process_alone_is_in_no_group():
    with process_group(device="cpu") as process:
        assert process == Process(rank=0, local_rank=0, world_size=1, device=CPU)
        assert process.is_main
        assert not in_group()
        barrier()
        norm = nn.BatchNorm2d(2)
        broadcast_buffers(norm)
        for flag in (True, False):
            assert any_true(flag) is flag
            assert all_true(flag) is flag


def join(url, **options):
    """Join as the first of two processes, of which the other never comes."""
    options = {"rank": 0, "world_size": 2, "backend": "gloo", "device": "cpu", **options}
    process_group(init_method=url, **options).__enter__()


def test_the_place_comes_from_torchrun(monkeypatch):
    seen = []

    def initialise(backend, init_method, process, timeout):
        seen.append((backend, init_method, process))

    monkeypatch.setattr(distributed, "_initialise", initialise)
    environment = {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4"}
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    threads = torch.get_num_threads()
    monkeypatch.setattr(distributed, "_num_cores", lambda: 9)
    with process_group(backend="gloo", device="cpu") as process:
        assert process == Process(rank=5, local_rank=1, world_size=8, device=CPU)
        assert not process.is_main
        assert torch.get_num_threads() == 2
    assert torch.get_num_threads() == threads
    assert seen == [("gloo", "env://", process)]


@pytest.mark.usefixtures("_no_cuda")
@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("device", [None, "cpu", "0"])
def test_nccl_without_cuda_is_gloo_with_one_warning_line(rank, device, monkeypatch, capsys):
    seen = []
    monkeypatch.setattr(distributed, "_initialise", lambda backend, *_: seen.append(backend))
    with process_group(rank=rank, world_size=2, local_rank=rank, device=device):
        assert seen == ["gloo"]
    assert capsys.readouterr().err.count("warning: ") == (1 if rank == 0 else 0)


def test_half_a_place_is_an_error():
    with pytest.raises(ValueError, match=r"rank and world_size must come together, got rank=1"):
        process_group(rank=1).__enter__()


def test_unknown_backends_are_refused():
    with pytest.raises(ValueError, match=r"backend must be one of nccl, gloo, got 'mpi'"):
        process_group(rank=0, world_size=2, backend="mpi", device="cpu").__enter__()


def test_a_busy_port_is_named():
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"tcp://127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(RuntimeError, match=rf"--dist-url must be free, got {url}: address in"):
            join(url)
    assert not in_group()


def test_processes_that_do_not_meet_are_an_error():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(RuntimeError, match=r"all 2 processes must be able to meet, got tcp://"):
        join(f"tcp://127.0.0.1:{port}", timeout=1.0)
    with pytest.raises(RuntimeError, match=r"must be able to meet, got env://"):
        join("env://")
    assert not in_group()
