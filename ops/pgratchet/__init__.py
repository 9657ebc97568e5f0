"""Forward-only PostgreSQL migrations, where a proven backup behind every step takes the place of rollback.

`from pgratchet import ns` gives the tasks as an Invoke collection, for the tasks.py of a project.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pgratchet.version import __version__ as __version__

if TYPE_CHECKING:
    from pgratchet.tasks import ns as ns


def __getattr__(name: str) -> Any:
    """Import the tasks on first use: hosts, tests and tools that need one module only do not have Invoke."""
    if name == "ns":
        from pgratchet.tasks import ns

        return ns
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
