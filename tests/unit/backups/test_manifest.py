"""The manifest of a backup: read as written, and refused when changed."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgratchet.backups import manifest
from pgratchet.backups.manifest import Contents, NotAManifest
from tests.unit.backups.helpers import CONTENTS, make_manifest


def test_a_manifest_is_read_as_it_was_written() -> None:
    assert manifest.loads(manifest.dumps(make_manifest())) == make_manifest()
    bare = replace(
        make_manifest(), database=replace(make_manifest().database, grants=None), label="ünï", recipients=("age1x",)
    )
    assert manifest.loads(manifest.dumps(bare)) == bare


@given(st.data())
def test_a_manifest_changed_anywhere_is_refused(data: st.DataObject) -> None:
    text = manifest.dumps(make_manifest())
    at = data.draw(st.integers(0, len(text) - 1))
    byte = data.draw(st.integers(0, 255).filter(lambda value: value != text[at]))
    changed = text[:at] + bytes([byte]) + text[at + 1 :]
    try:
        assert json.loads(changed) == json.loads(text), "another manifest is never read"
    except ValueError:
        with pytest.raises(NotAManifest):
            manifest.loads(changed)
    except AssertionError:
        with pytest.raises(NotAManifest):
            manifest.loads(changed)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"", "no JSON"),
        (b"[]", "not of the format"),
        (b'{"format": 1}', "not of the format 2"),
        (b'{"format": 2}', "was changed"),
        (b"\xff", "no JSON"),
    ],
)
def test_a_file_that_is_not_a_manifest_is_named(text: bytes, reason: str) -> None:
    with pytest.raises(NotAManifest, match=reason):
        manifest.loads(text)


@pytest.mark.parametrize("lacks", ["database", "files", "contents", "backup_id"])
def test_a_manifest_of_another_shape_with_a_correct_hash_is_refused(lacks: str) -> None:
    shape = json.loads(manifest.dumps(make_manifest()))
    del shape["sha256"]
    del shape[lacks]
    text = json.dumps({**shape, "sha256": manifest._hash(shape)}).encode()
    with pytest.raises(NotAManifest, match="lacks something"):
        manifest.loads(text)


@pytest.mark.parametrize(
    ("contents", "sentences"),
    [
        (CONTENTS, []),
        (
            replace(CONTENTS, tables={**CONTENTS.tables, "public.t": 1}),
            ["Table public.t: 1 row, and 2 rows in the backup."],
        ),
        (replace(CONTENTS, tables={"public.t": 2}), ['Table public."o\'dd": absent, and 0 rows in the backup.']),
        (replace(CONTENTS, tables={**CONTENTS.tables, "x.y": 1}), ["Table x.y is not in the backup."]),
        (replace(CONTENTS, large_objects=0), ["Large objects: 0, and 1 in the backup."]),
        (replace(CONTENTS, invalid_indexes=("public.bad", "public.new")), ["Index public.new is INVALID."]),
        (replace(CONTENTS, invalid_indexes=()), []),
        (replace(CONTENTS, history={"1_a": "other"}), ["The history differs: 1_a."]),
        (replace(CONTENTS, history={"1_a": "c", "2_b": "d"}), ["The history differs: 2_b."]),
    ],
)
def test_differences_are_described_in_sentences(contents: Contents, sentences: list[str]) -> None:
    assert manifest.differences(CONTENTS, contents) == sentences


def test_another_version_of_an_extension_is_described() -> None:
    assert manifest.other_versions(CONTENTS, CONTENTS) == []
    other = replace(CONTENTS, extensions={"plpgsql": "1.1", "citext": "1"})
    assert manifest.other_versions(CONTENTS, other) == ["Extension plpgsql: 1.1, and 1.0 in the backup."]
    differences = manifest.other_versions(CONTENTS, replace(CONTENTS, extensions={}))
    assert differences == ["Extension plpgsql: absent, and 1.0 in the backup."]
