"""Targets as an inventory describes them, for databases of tests."""

from __future__ import annotations

from pgratchet.config import settings
from pgratchet.config.inventory import InventoryTarget
from pgratchet.config.settings import RenderedTarget
from tests import ROOT
from tests.servers.databases import Database


def target_of(database: Database, **variables: object) -> RenderedTarget:
    """The target that leads to the database, with more variables."""
    connection_variables: dict[str, object] = {
        f"pg_{key}": value for key, value in database.parameters.items() if key != "password"
    }
    connection_variables["pg_password"] = "{{ env('SECRET', '') }}"
    target = InventoryTarget("env", "target", (), connection_variables | variables)
    secret = {"SECRET": database.parameters.get("password", "")}
    return settings.render_target(target, ROOT / "templates", secret, dict)
