"""The tasks of this clone: those of the package, and those for changing it."""

import atexit
import gc
import sys
from importlib.util import find_spec
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "ops"))

# This process runs one task, so its start-up counts. Invoke turns byte code off, and Python would compile the package
# at each start. The garbage collector's passes during imports and at exit free nothing that matters.
sys.dont_write_bytecode = bool(sys.flags.dont_write_bytecode)
gc.set_threshold(50_000)
atexit.register(gc.freeze)

from pgratchet import ns

if find_spec("mypy"):  # the development packages are installed: this clone is used to change pgratchet
    from pgratchet.tasks import development

    development.add_to(ns)
