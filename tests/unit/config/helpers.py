"""Renders the settings of a target for the tests of this folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pgratchet.config import settings
from pgratchet.config.inventory import InventoryTarget
from pgratchet.config.settings import RenderedTarget
from tests import ROOT

TEMPLATES = ROOT / "templates"
SHIPPED = ROOT / "inventory"


def write_files(folder: Path, **files: str) -> Path:
    """Write an inventory; "__" in a name stands for a slash."""
    for name, text in files.items():
        path = folder / (name.replace("__", "/") + ".yml")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def no_server() -> Mapping[str, str]:
    raise AssertionError("the embedded server was asked for")


def resolve(environ: dict[str, str] | None = None, **variables: object) -> RenderedTarget:
    target_variables = {"pg_dbname": "d", "pg_user": "u", "pg_host": "h"} | variables
    return settings.render_target(
        InventoryTarget("env", "target", ("all",), target_variables), TEMPLATES, environ or {}, no_server
    )
