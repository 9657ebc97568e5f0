"""Shows how to connect to a target's server."""

from __future__ import annotations

from pgratchet.console import commands
from pgratchet.console.output import say, write


def show_connection(environment: str, target: str, variables: str, *, is_embedded: bool) -> None:
    """Print the URL of the bundled server. For another server, only say how to see the settings.

    `variables` is the text of the target's env file.
    """
    if not is_embedded:
        say(commands.typed(f"{environment}: {target}: a server of your own; `invoke render` shows the settings"))
        return
    say(f"{environment}: {target}: the PostgreSQL of the package is running")
    write("\n".join(line for line in variables.splitlines() if line.startswith("DATABASE_URL")))
