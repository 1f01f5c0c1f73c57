import platform

import pytest
import torch

from shiftproof.training import precision
from shiftproof.training.precision import AMP_MODES, autocast, uses_bfloat16

CPU = torch.device("cpu")


def product_type(amp):
    x = torch.ones(2, 2)
    with autocast(CPU, amp):
        return (x @ x).dtype


def test_the_mode_decides_the_type_of_a_product():
    assert product_type("bfloat16") == torch.bfloat16
    assert product_type("off") == torch.float32


def test_off_ends_an_autocast_around_it():
    with autocast(CPU, "bfloat16"):
        assert product_type("off") == torch.float32


@pytest.mark.parametrize("native", [True, False])
def test_auto_asks_the_processor(monkeypatch, native):
    monkeypatch.setattr(precision, "_cpu_computes_bfloat16", lambda: native)
    assert uses_bfloat16(CPU, "auto") is native
    assert product_type("auto") == (torch.bfloat16 if native else torch.float32)


@pytest.mark.parametrize("native", [True, False])
def test_emulated_bfloat16_does_not_count_on_x86(monkeypatch, native):
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: native)
    assert precision._cpu_computes_bfloat16() is native


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_the_question_is_answered_on_any_processor(monkeypatch, machine):
    monkeypatch.setattr(platform, "machine", lambda: machine)
    assert precision._cpu_computes_bfloat16() in (True, False)


def test_auto_asks_the_cuda_device(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: True)
    assert uses_bfloat16(torch.device("cuda", 0), "auto")


def test_auto_is_off_on_other_devices():
    assert not uses_bfloat16(torch.device("meta"), "auto")


def test_unknown_modes_are_refused():
    assert "float16" not in AMP_MODES
    for function in (autocast, uses_bfloat16):
        with pytest.raises(ValueError, match=r"must be one of auto, bfloat16, off, got 'float16'"):
            function(CPU, "float16")
