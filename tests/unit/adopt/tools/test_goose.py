"""goose: files and rows."""

from __future__ import annotations

from pathlib import Path

from pgratchet.adopt.tools import (
    goose,
)
from tests.unit.adopt.helpers import ups, write


def test_goose_files_and_rows_are_read(tmp_path: Path) -> None:
    text = (
        "-- +goose NO TRANSACTION\n-- +goose Up\n-- +goose StatementBegin\nselect 1\n-- +goose StatementEnd\n"
        "select 2;\n-- +goose Down\n-- +goose StatementBegin\nselect 3;\n-- +goose StatementEnd\nselect 4;\n"
    )
    write(
        tmp_path,
        **{
            "00001_a.sql": text,
            "00002_b.go": "package x",
            "00002_b_test.go": "",
            "00003_c.sql": "-- +goose Up\n-- +goose ENVSUB ON\nselect '${X}';\n",
        },
    )
    files = goose.files(tmp_path)
    assert ups(files[:1]) == [("00001", "select 1 ; select 2;", False)]
    assert [each.obstacle for each in files] == [
        "",
        "It is Go, not SQL.",
        "goose replaces environment variables in it.",
    ]
    raw = [
        {"id": at, "version_id": version, "is_applied": applied, "tstamp": "t"}
        for at, (version, applied) in enumerate([(0, True), (1, True), (2, True), (2, False), (1, False), (1, True)])
    ]
    assert [(row.keys, row.outcome) for row in goose.rows(raw, ())] == [(("1",), "applied"), (("2",), "undone")]
