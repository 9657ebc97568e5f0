"""Fetches a target's password from the password command, and names the variables with secrets."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from typing import TYPE_CHECKING

from pgratchet.errors import RatchetError, Unreachable

if TYPE_CHECKING:
    from pgratchet.variables import Variables

MASK = "********"
"""The text shown in place of a secret."""

SECRET_VARIABLES = ("pg_password", "pg_url", "app_password")
"""The inventory's variables that hold a secret once they are rendered."""


def run_password_command(variables: Variables, environ: Mapping[str, str]) -> str:
    """Run `password_command` without a shell, and return its output without the line end.

    Unreachable when the command fails, takes longer than `password_timeout` or prints anything but a line. No error
    contains the output.
    """
    command = list(variables.password_command)
    try:
        result = subprocess.run(
            command,
            capture_output=True,
            stdin=subprocess.DEVNULL,
            timeout=variables.password_timeout,
            check=False,
            env=dict(environ),
        )
    except subprocess.TimeoutExpired:
        raise _no_password(command[0], f"No answer came within {variables.password_timeout} s.") from None
    except FileNotFoundError:
        raise _missing_program(command[0]) from None
    except (OSError, ValueError) as error:
        reason = f"{command[0]} cannot be run: {getattr(error, 'strerror', error)}."
        raise _no_password(command[0], reason) from None
    if result.returncode != 0:
        reason = f"It ended with status {result.returncode}.\n{result.stderr.decode(errors='replace').strip()}"
        raise _no_password(command[0], reason)
    password = result.stdout.decode(errors="replace").removesuffix("\n").removesuffix("\r")
    if not password or any(character in password for character in "\r\n\0\ufffd"):
        raise _no_password(command[0], "It must print the password as one line in UTF-8.")
    return password


def _missing_program(program: str) -> RatchetError:
    is_path = "/" in program
    return Unreachable(
        f"the password command {program} cannot be run",
        detail=f"{program} does not exist." if is_path else f"{program} is not installed, or not in PATH.",
        hint="Correct the path in the password_command of the inventory."
        if is_path
        else f"Install {program} on this machine, or write its path in the password_command of the inventory.",
    )


def _no_password(program: str, detail: str) -> RatchetError:
    return Unreachable(
        f"the password command {program} returned no password",
        detail=detail.strip(),
        hint="Run the password_command of the inventory by hand, and log in to its secret store if it asks for that.",
    )
