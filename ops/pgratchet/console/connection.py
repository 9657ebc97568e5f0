"""Shows how to connect to a target's server, and that the bundled server was stopped."""

from __future__ import annotations

from pgratchet.console import commands
from pgratchet.console.output import say, write, write_json


def show_connection(environment: str, target: str, variables: str, *, is_embedded: bool, json: bool) -> None:
    """Print the URL of the bundled server. For another server, only say how to see the settings.

    `variables` is the text of the target's env file.
    """
    lines = [line for line in variables.splitlines() if line.startswith("DATABASE_URL")]
    if json:
        url = lines[0].partition("=")[2].strip("'\"") if lines and is_embedded else None
        write_json({"env": environment, "target": target, "bundled": is_embedded, "url": url})
    elif is_embedded:
        say(f"{environment}: {target}: the bundled PostgreSQL is running")
        write("\n".join(lines))
    else:
        say(commands.typed(f"{environment}: {target}: your own server; `invoke render` shows the settings"))


def show_stopped(environment: str, *, stopped: bool, has_data: bool, removed: bool, json: bool) -> None:
    """Show the result of `down`. `has_data`: the bundled server had been created."""
    if json:
        write_json({"env": environment, "stopped": stopped, "removed": removed})
        return
    if not has_data:
        say(f"{environment}: the bundled PostgreSQL has not been created; nothing to stop")
        return
    state = "stopped" if stopped else "it was not running"
    say(f"{environment}: {state}; its data {'is deleted' if removed else 'is kept'}")
