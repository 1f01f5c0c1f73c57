import signal
import subprocess
import sys
import threading

import pytest

from shiftproof.training import interrupt
from shiftproof.training.interrupt import GracefulStop

SIGNALS = [signal.SIGINT, signal.SIGTERM]


def handlers():
    return [signal.getsignal(number) for number in SIGNALS]


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_raises_the_flag_and_nothing_else(number):
    before = handlers()
    with GracefulStop() as stop:
        assert not stop.requested
        assert stop.signal_name is None
        signal.raise_signal(number)
        assert stop.requested
        assert stop.signal_name == number.name
    assert handlers() == before


def test_a_signal_delivered_twice_at_once_is_one_request():
    with GracefulStop() as stop:
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGTERM)
        assert stop.signal_name == "SIGTERM"


def test_a_second_ctrl_c_interrupts_at_once(monkeypatch):
    monkeypatch.setattr(interrupt, "_SAME_REQUEST", 0.0)
    before = handlers()
    with GracefulStop():
        signal.raise_signal(signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert handlers() == before


def test_a_second_sigterm_ends_the_program():
    program = """
import signal
from shiftproof.training import interrupt
interrupt._SAME_REQUEST = 0.0
with interrupt.GracefulStop():
    signal.raise_signal(signal.SIGTERM)
    print("once", flush=True)
    signal.raise_signal(signal.SIGTERM)
    print("twice", flush=True)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=60)
    assert done.stdout == b"once\n"
    assert done.returncode == -signal.SIGTERM


def test_the_handlers_come_back_after_an_error():
    before = handlers()
    with pytest.raises(ZeroDivisionError), GracefulStop():
        raise ZeroDivisionError
    assert handlers() == before


def test_in_another_thread_nothing_happens():
    before = handlers()
    seen = []

    def work():
        with GracefulStop() as stop:
            seen.append((handlers() == before, stop.requested))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [(True, False)]
