"""dbmate: files and rows."""

from __future__ import annotations

from pathlib import Path

from pgratchet.adopt.tools import (
    dbmate,
)
from pgratchet.adopt.tools.tool import ToolRow
from tests.unit.adopt.helpers import SQL, ups, write


def test_dbmate_files_and_rows_are_read(tmp_path: Path) -> None:
    text = "-- a comment\n-- migrate:up transaction:false\nselect 1;\n\n"
    text += "-- migrate:down\nselect 2;\n-- migrate:up\nselect 3;\n"
    write(tmp_path, **{"2_b.sql": text, "1_a.sql": "-- migrate:up\r\nselect 0;\r\n-- migrate:down\r\n", "3_c.sql": SQL})
    one, two, three = dbmate.files(tmp_path)
    assert ups([one, two]) == [("1", "select 0;", True), ("2", "select 1; select 3;", False)]
    assert three.obstacle == "It has no line `-- migrate:up`."
    assert dbmate.rows([{"version": "1"}], ()) == [ToolRow(("1",))]
