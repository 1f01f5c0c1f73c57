"""Ctrl-C and SIGTERM as a request to finish the step and save."""

import contextlib
import signal
import threading
import time
from collections.abc import Callable, Iterator
from types import TracebackType

STOPPED = 128 + signal.SIGTERM
"""Exit status of a run that a signal stopped and that can be resumed."""

_SAME_REQUEST = 1.0
"""Seconds within which a repeated signal is the same request: a terminal and a launcher, or a batch
system and a launcher, may each deliver it to every process."""


@contextlib.contextmanager
def stop_signals(handler: Callable[[int], None]) -> Iterator[None]:
    """Have SIGINT and SIGTERM call a function; the old handlers come back at the end.

    Python delivers signals to the main thread only, so in any other thread this does nothing.

    Args:
        handler: Called with the number of the signal.

    Yields:
        Nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    old = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        for number in old:
            signal.signal(number, lambda received, _: handler(received))
        yield
    finally:
        for number, previous in old.items():
            # None stands for a handler that was not set from Python and cannot be put back.
            signal.signal(number, signal.SIG_DFL if previous is None else previous)


class GracefulStop:
    """Context in which the first SIGINT or SIGTERM only raises a flag.

    The second one, at least a second later, does what it does by default: ends the program.
    """

    def __init__(self) -> None:
        self._signal: signal.Signals | None = None
        self._since = 0.0
        self._handlers = contextlib.ExitStack()

    @property
    def requested(self) -> bool:
        """Whether a signal has come."""
        return self._signal is not None

    @property
    def signal_name(self) -> str | None:
        """Name of the first signal, for instance ``"SIGTERM"``; ``None`` before."""
        return None if self._signal is None else self._signal.name

    def _receive(self, number: int) -> None:
        now = time.monotonic()
        if self._signal is None:
            self._signal, self._since = signal.Signals(number), now
        elif now - self._since >= _SAME_REQUEST:
            if number == signal.SIGINT:
                raise KeyboardInterrupt
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)

    def __enter__(self) -> "GracefulStop":
        self._handlers.enter_context(stop_signals(self._receive))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._handlers.close()
