"""Optional packages, imported where they are needed."""

import importlib
from typing import Any


def require(module: str, *, extra: str) -> Any:
    """Import a package that an extra installs.

    Args:
        module: Dotted name of the module.
        extra: Extra of this project that installs it, for instance ``"train"``.

    Returns:
        The module.

    Raises:
        RuntimeError: If the package is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or module.split(".")[0] != error.name.split(".")[0]:
            raise
        raise RuntimeError(
            f"shiftproof: this needs the package {error.name}, which is not installed; "
            f"run pip install 'shiftproof[{extra}]'"
        ) from error
