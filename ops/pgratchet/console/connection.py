"""Shows how to connect to a target."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pgratchet.console import commands
from pgratchet.console.output import say, write

if TYPE_CHECKING:
    pass


def show_connection(environment: str, target: str, variables: str, embedded: bool) -> None:
    """How to connect, on stdout; what it is, beside it."""
    if not embedded:
        say(commands.typed(f"{environment}: {target}: a server of your own; `invoke render` shows the settings"))
        return
    say(f"{environment}: {target}: the PostgreSQL of the package is running")
    write("\n".join(line for line in variables.splitlines() if line.startswith("DATABASE_URL")))
