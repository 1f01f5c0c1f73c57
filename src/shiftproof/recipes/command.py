"""What every command line does around its work: errors in one line, and an exit status."""

import os
import sys
from collections.abc import Callable

from shiftproof.training.distributed import report_error, under_agent


def run_command(function: Callable[[], int], failed: int = 1) -> int:
    """Run a command; what a user can fix becomes one line.

    Under torch's elastic agent the line is left to the agent, which knows whose error came first.

    Args:
        function: The command; returns its exit status.
        failed: Exit status after an error.

    Returns:
        The exit status.  With ``SHIFTPROOF_TRACEBACK=1`` in the environment, errors are raised
        instead, with their trace.
    """
    try:
        return function()
    except KeyboardInterrupt:
        print("error: interrupted", file=sys.stderr)
        return 130
    except (ValueError, RuntimeError, OSError) as error:
        if os.environ.get("SHIFTPROOF_TRACEBACK") == "1":
            raise
        if under_agent():
            report_error(error)
            return failed
        text = " ".join(str(error).split()) or type(error).__name__
        print(f"error: {text}", file=sys.stderr)
        return failed
