"""The manifest of a backup: read as written, and refused when changed."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgratchet.backups import manifest
from pgratchet.backups.manifest import Contents, MaterializedView, NotAManifest, SequenceState
from tests.unit.backups.helpers import CONTENTS, make_manifest


def test_a_manifest_is_read_as_it_was_written() -> None:
    assert manifest.loads(manifest.dumps(make_manifest())) == make_manifest()
    bare = replace(
        make_manifest(), database=replace(make_manifest().database, grants=None), label="ünï", recipients=("age1x",)
    )
    assert manifest.loads(manifest.dumps(bare)) == bare


def test_a_manifest_of_an_earlier_version_is_read_and_compared_without_sequences() -> None:
    shape = json.loads(manifest.dumps(make_manifest()))
    del shape["sha256"], shape["contents"]["sequences"], shape["contents"]["materialized_views"]
    text = json.dumps({**shape, "sha256": manifest.content_hash(shape)}).encode()
    earlier = manifest.loads(text).contents
    assert (earlier.sequences, earlier.materialized_views) == (None, None)
    assert manifest.differences(earlier, CONTENTS) == []


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
    text = json.dumps({**shape, "sha256": manifest.content_hash(shape)}).encode()
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


USED, UNUSED = SequenceState(5, True), SequenceState(5, False)


@pytest.mark.parametrize(
    ("before", "now", "sentence"),
    [
        (USED, USED, ""),
        (UNUSED, UNUSED, ""),
        (USED, SequenceState(4, True), "Sequence s: 4, and 5 in the backup."),
        (USED, SequenceState(6, True), "Sequence s: 6, and 5 in the backup."),
        (USED, UNUSED, "Sequence s: 5, not yet used, and 5 in the backup."),
        (USED, None, "Sequence s is absent."),
        (None, USED, "Sequence s is not in the backup."),
        (replace(USED, latest=7), SequenceState(4, True), "Sequence s: 4, and 5 to 7 in the backup."),
        (replace(USED, latest=7), SequenceState(5, True), ""),
        (replace(USED, latest=7), SequenceState(7, True), ""),
        (replace(USED, latest=7), SequenceState(8, True), "Sequence s: 8, and 5 to 7 in the backup."),
        (replace(USED, latest=3), SequenceState(3, True), ""),
        (replace(USED, latest=3), SequenceState(6, True), "Sequence s: 6, and 5 to 3 in the backup."),
        (replace(USED, went_back=True), SequenceState(1, True), ""),
    ],
)
def test_a_sequence_has_a_state_that_the_dump_can_have(
    before: SequenceState | None, now: SequenceState | None, sentence: str
) -> None:
    expected = replace(CONTENTS, sequences={"s": before} if before else {})
    actual = replace(CONTENTS, sequences={"s": now} if now else {})
    assert manifest.differences(expected, actual) == ([sentence] if sentence else [])


def test_schemas_are_compared() -> None:
    with_public, without = replace(CONTENTS, schemas=("a", "public")), replace(CONTENTS, schemas=("a",))
    assert manifest.differences(with_public, without) == ["Schema public is absent."]
    assert manifest.differences(without, with_public) == []
    assert manifest.notes(without, with_public) == [
        "The schema public is not in the backup. This role may not drop it."
    ]
    assert manifest.notes(with_public, with_public) == manifest.notes(with_public, CONTENTS) == []


def test_materialized_views_are_compared_by_state_and_noted_by_rows() -> None:
    expected = replace(CONTENTS, materialized_views={"v": MaterializedView(True, 3)})
    for views, differences, sentences in (
        ({"v": MaterializedView(True, 3)}, [], []),
        ({"v": MaterializedView(True)}, [], []),
        (
            {"v": MaterializedView(True, 5)},
            [],
            ["Materialized view v: 5 rows, and 3 rows in the backup. A restore refreshes it."],
        ),
        ({"v": MaterializedView(False)}, ["Materialized view v: not populated, and populated in the backup."], []),
        ({}, ["Materialized view v is absent."], []),
    ):
        actual = replace(CONTENTS, materialized_views=views)
        assert manifest.differences(expected, actual) == differences
        assert manifest.notes(expected, actual) == sentences


def test_another_version_of_an_extension_is_described() -> None:
    assert manifest.other_versions(CONTENTS, CONTENTS) == []
    other = replace(CONTENTS, extensions={"plpgsql": "1.1", "citext": "1"})
    assert manifest.other_versions(CONTENTS, other) == ["Extension plpgsql: 1.1, and 1.0 in the backup."]
    differences = manifest.other_versions(CONTENTS, replace(CONTENTS, extensions={}))
    assert differences == ["Extension plpgsql: absent, and 1.0 in the backup."]


HOSTILE_NAMES = [
    "../../.ssh/authorized_keys",
    "..",
    ".",
    "",
    "/etc/passwd",
    "//etc/passwd",
    "a/../../b",
    "a/b/c",
    "a//b",
    "./a",
    "a/.",
    "a/..",
    ".hidden",
    "a/.hidden",
    "-rf",
    "a\\..\\b",
    "a\x00b",
    "a\nb",
    "a b",
    "~/.profile",
    "C:evil",
    "ünï",
    manifest.NAME,
]


@pytest.mark.parametrize("name", HOSTILE_NAMES)
def test_a_manifest_that_names_a_file_outside_its_folder_is_refused(name: str) -> None:
    """A manifest may come from a host or a bucket, and its hash protects from accidents only."""
    files = {**make_manifest().files, name: next(iter(make_manifest().files.values()))}
    with pytest.raises(NotAManifest, match="file that no backup has"):
        manifest.loads(manifest.dumps(replace(make_manifest(), files=files)))


@pytest.mark.parametrize("backup_id", ["../x", "20261122T101500-3f2a/..", "", "20261122T101500-3f2a\n"])
def test_a_manifest_with_an_id_that_is_a_path_is_refused(backup_id: str) -> None:
    with pytest.raises(NotAManifest, match="id that no backup has"):
        manifest.loads(manifest.dumps(replace(make_manifest(), backup_id=backup_id)))
