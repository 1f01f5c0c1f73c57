"""A function in several processes, started as the fronts start theirs: ``run_together``."""

import importlib
import pickle
import sys
import tempfile
from pathlib import Path

from shiftproof.training.distributed import process_group
from shiftproof.training.launch import launch


def run_together(function, *args, processes=2, **options):
    """Call ``function(process, *args)`` in each process; returns what the first returned."""
    with tempfile.TemporaryDirectory() as folder:
        call = Path(folder) / "call"
        name = (function.__module__, function.__qualname__)
        call.write_bytes(pickle.dumps((sys.path, name, args)))
        command = [sys.executable, "-W", "error", __file__, str(call)]
        status = launch(command, processes_per_node=processes, **options)
        result = call.with_name("result")
        return pickle.loads(result.read_bytes()) if result.is_file() else status


def main(call):
    path, (module, name), args = pickle.loads(call.read_bytes())
    sys.path[:] = path
    function = getattr(importlib.import_module(module), name)
    with process_group(backend="gloo", device="cpu", timeout=120) as process:
        result = function(process, *args)
        if process.is_main:
            call.with_name("result").write_bytes(pickle.dumps(result))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
