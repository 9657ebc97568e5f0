"""Validates what tasks print with `--json` against the schemas in docs/schemas."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from jsonschema import Draft202012Validator
from referencing import Registry, Resource

from tests import ROOT

SCHEMAS = ROOT / "docs" / "schemas"


@lru_cache(maxsize=1)
def _registry() -> Registry[Any]:
    schemas = [json.loads(file.read_text("utf-8")) for file in SCHEMAS.glob("*.json")]
    return Registry().with_resources([(schema["$id"], Resource.from_contents(schema)) for schema in schemas])


@lru_cache
def validator(name: str) -> Draft202012Validator:
    """The validator for docs/schemas/NAME.json."""
    schema = json.loads((SCHEMAS / f"{name}.json").read_text("utf-8"))
    return Draft202012Validator(schema, registry=_registry(), format_checker=Draft202012Validator.FORMAT_CHECKER)


def check_printed_json(arguments: Sequence[str], stdout: str) -> None:
    """Check each object that a task printed with `--json`. An error before any result has a schema of its own."""
    if "--json" not in arguments:
        return
    for line in stdout.splitlines():
        shape = json.loads(line)
        validator("failed" if shape.keys() == {"error"} else arguments[0]).validate(shape)
