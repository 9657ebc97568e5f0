"""Shows how to connect to a target's server."""

from __future__ import annotations

from pgratchet.console import commands
from pgratchet.console.output import data, talk


def show_connection(environment: str, target: str, variables: str, *, is_embedded: bool) -> None:
    """Print the URL of the bundled server on stdout, or on stderr where to find another server's settings.

    `variables` is the text of the target's env file.
    """
    if not is_embedded:
        talk(commands.typed(f"{environment}: {target}: a server of your own; `invoke render` shows the settings"))
        return
    talk(f"{environment}: {target}: the PostgreSQL of the package is running")
    data("\n".join(line for line in variables.splitlines() if line.startswith("DATABASE_URL")))
