"""Moving in from another tool: the real tool, then `invoke adopt`, then a migration of ours on top."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import Database, Server
from tests.movers import MOVERS, Mover
from tests.movers.sample import CONTENT, LABELS, SAMPLE

pytestmark = pytest.mark.parametrize("server", ["embedded"], indirect=True)
every_mover = pytest.mark.parametrize("mover", MOVERS, ids=lambda mover: mover.label)


@every_mover
def test_the_real_tool_makes_the_history_that_we_take_over(mover: Mover, database: Database, tmp_path: Path) -> None:
    mover.lay_out(tmp_path, SAMPLE)
    mover.migrate(tmp_path, database)
    assert database.rows(CONTENT) == LABELS
    for table, columns in mover.history.items():
        assert dict(database.rows(_COLUMNS, table)) == columns


_COLUMNS = """\
SELECT attname::text, format_type(atttypid, atttypmod) FROM pg_attribute
WHERE attrelid = %s::regclass AND attnum > 0 AND NOT attisdropped
"""
