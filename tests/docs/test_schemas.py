"""The JSON Schemas of the manual. Every test that runs a task with `--json` validates what it prints."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

from pgratchet.errors import ERRORS_BY_EXIT_CODE
from pgratchet.tasks import ns
from tests.support.schemas import SCHEMAS, check_printed_json, validator


@pytest.mark.parametrize("file", sorted(SCHEMAS.glob("*.json")), ids=lambda file: file.stem)
def test_schema_is_valid_and_describes_every_key(file: Path) -> None:
    schema = json.loads(file.read_text("utf-8"))
    Draft202012Validator.check_schema(schema)
    assert schema["$id"] == file.name
    assert schema["title"]
    assert schema["description"]


def test_every_task_that_prints_json_has_a_schema() -> None:
    printing = {name for name, task in ns.tasks.items() if any(flag.name == "json" for flag in task.get_arguments())}
    assert printing == {file.stem for file in SCHEMAS.glob("*.json")} - {"error", "failed", "manifest"}


def test_every_exit_code_of_an_error_is_listed() -> None:
    codes = json.loads((SCHEMAS / "error.json").read_text("utf-8"))["properties"]["code"]["enum"]
    assert set(codes) == {1, 129, 143, *ERRORS_BY_EXIT_CODE}


def test_an_unknown_key_is_a_mistake() -> None:
    shape = {"env": "dev", "target": "app", "backup": "20261122T101500-3f2a", "path": "backups", "left_out": []}
    validator("backup").validate(shape)
    with pytest.raises(Exception, match="'size' was unexpected"):
        check_printed_json(["backup", "--json"], json.dumps({**shape, "size": 1}))
