"""One self-contained page: templates of this package, filled by jinja2."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from shiftproof.extras import require
from shiftproof.results import Environment

ASSETS = Path(__file__).parent / "assets"


def render(template: str, **values: Any) -> str:
    """Fill a template; whatever is put into it is escaped.

    Args:
        template: Name of a file in the folder of assets.
        values: What it needs.

    Returns:
        The page.

    Raises:
        RuntimeError: If jinja2 is not installed.
    """
    jinja2 = require("jinja2", extra="report")
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(ASSETS),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    style, script = (asset(name) for name in ("page.css", "page.js"))
    page: str = environment.get_template(template).render(style=style, script=script, **values)
    return page


def asset(name: str) -> Any:
    """A file of this package as it is, for inside of a page.

    Args:
        name: Name of the file.

    Returns:
        Its text, which is not escaped.
    """
    return safe((ASSETS / name).read_text(encoding="utf-8"))


def safe(text: str) -> Any:
    """Markup that this package wrote itself, and that is not escaped again.

    Args:
        text: The markup.

    Returns:
        The same, marked.
    """
    return require("markupsafe", extra="report").Markup(text)


def embedded(data: object) -> Any:
    """JSON inside of a script element, which no text in it can end.

    Args:
        data: Plain values.

    Returns:
        The JSON.
    """
    text = json.dumps(data, separators=(",", ":"))
    return safe(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))


def environment_rows(environment: Environment) -> list[tuple[str, str]]:
    """Machine and versions.

    Args:
        environment: The machine.

    Returns:
        Names and values.
    """
    versions = ", ".join(f"{name} {version}" for name, version in environment.versions.items())
    return [
        ("versions", f"Python {environment.python}, {versions}"),
        ("machine", f"{environment.platform}, {environment.processor}"),
        ("computed on", f"{environment.device}, {environment.num_threads} threads"),
    ]
