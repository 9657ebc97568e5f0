"""Hides environment variables from libraries that read the process's environment on their own."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_lock = threading.RLock()


@contextmanager
def without_variables(pattern: str) -> Iterator[None]:
    """Remove environment variables for the block, and put them back however the block ends.

    A variable is removed when `pattern` matches at the beginning of its name, as `re.match` does. os.environ belongs to
    the whole process: other threads do not see these variables during the block either. Blocks of several threads run
    one after the other, so keep them short.
    """
    with _lock:
        hidden = {name: value for name, value in os.environ.items() if re.match(pattern, name)}
        try:
            for name in hidden:
                os.environ.pop(name, None)
            yield
        finally:
            os.environ.update(hidden)
