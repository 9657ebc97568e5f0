"""The manifest of a backup: read back as written, refused when changed; and what may be deleted."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgratchet.backups import manifest
from pgratchet.backups.listing import BackupEntry
from pgratchet.backups.manifest import BackupFile, Contents, Database, Grant, Manifest, NotAManifest, Setting
from pgratchet.backups.retention import Retention, abandoned, expired

NOW = datetime(2026, 11, 24, 12, tzinfo=timezone.utc)
CONTENTS = Contents(
    tables={"public.t": 2, 'public."o\'dd"': 0},
    large_objects=1,
    extensions={"plpgsql": "1.0"},
    invalid_indexes=("public.bad",),
    roles=("owner",),
    history={"1_a": "c"},
)
DATABASE = Database("db", "owner", "UTF8", "i", "C", "C", "und", None, -1)


def made(hours_ago: float = 1, *, keep: bool = False) -> Manifest:
    moment = NOW - timedelta(hours=hours_ago)
    return Manifest(
        backup_id=manifest.new_id(moment, 0),
        environment="prod",
        target="db",
        created_at=moment.isoformat(timespec="milliseconds"),
        server_version=180006,
        system_identifier="7",
        client_version="18.6",
        tool_version="0",
        archive="custom",
        compression="gzip",
        files={"database.dump": BackupFile(10, "0" * 64, "1")},
        database=replace(DATABASE, settings=(Setting(None, "a", "b"),), grants=(Grant(None, "CONNECT", False),)),
        database_size=100,
        contents=CONTENTS,
        dump_ms=1,
        verify_ms=2,
        keep=keep,
    )


def test_a_manifest_is_read_as_it_was_written() -> None:
    assert manifest.loads(manifest.dumps(made())) == made()
    bare = replace(made(), database=replace(made().database, grants=None), label="ünï", recipients=("age1x",))
    assert manifest.loads(manifest.dumps(bare)) == bare


@given(st.data())
def test_a_manifest_that_was_changed_anywhere_is_none(data: st.DataObject) -> None:
    text = manifest.dumps(made())
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
    ("text", "told"),
    [
        (b"", "no JSON"),
        (b"[]", "not of the format"),
        (b'{"format": 1}', "not of the format 2"),
        (b'{"format": 2}', "was changed"),
        (b"\xff", "no JSON"),
    ],
)
def test_what_is_no_manifest_is_told(text: bytes, told: str) -> None:
    with pytest.raises(NotAManifest, match=told):
        manifest.loads(text)


@pytest.mark.parametrize("lacks", ["database", "files", "contents", "backup_id"])
def test_one_of_another_shape_with_its_hash_right_is_told_too(lacks: str) -> None:
    shape = json.loads(manifest.dumps(made()))
    del shape["sha256"]
    del shape[lacks]
    text = json.dumps({**shape, "sha256": manifest._hash(shape)}).encode()
    with pytest.raises(NotAManifest, match="lacks something"):
        manifest.loads(text)


@pytest.mark.parametrize(
    ("found", "told"),
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
def test_what_differs_is_told_in_sentences(found: Contents, told: list[str]) -> None:
    assert manifest.differences(CONTENTS, found) == told


def test_another_version_of_an_extension_is_told() -> None:
    assert manifest.other_versions(CONTENTS, CONTENTS) == []
    other = replace(CONTENTS, extensions={"plpgsql": "1.1", "citext": "1"})
    assert manifest.other_versions(CONTENTS, other) == ["Extension plpgsql: 1.1, and 1.0 in the backup."]
    gone = manifest.other_versions(CONTENTS, replace(CONTENTS, extensions={}))
    assert gone == ["Extension plpgsql: absent, and 1.0 in the backup."]


def listed(
    *, hours: tuple[float, ...], pinned: tuple[float, ...] = (), bad: tuple[float, ...] = ()
) -> list[BackupEntry]:
    found = [made(each, keep=each in pinned) for each in hours]
    return [
        BackupEntry(m.backup_id, None, "bad") if h in bad else BackupEntry(m.backup_id, m)
        for h, m in zip(hours, found, strict=True)
    ]


def ids(*hours: float) -> tuple[str, ...]:
    return tuple(made(each).backup_id for each in hours)


@pytest.mark.parametrize(
    ("retention", "found", "gone"),
    [
        (Retention(), listed(hours=(1, 30, 300)), ()),
        (Retention(count=2), listed(hours=(1, 30, 300, 400)), ids(300, 400)),
        (Retention(days=2), listed(hours=(1, 47, 48, 300)), ids(48, 300)),
        (Retention(count=3, days=2), listed(hours=(1, 30, 300, 400)), ids(400)),
        (Retention(count=1, days=20), listed(hours=(1, 30, 300)), ()),
        (Retention(days=1), listed(hours=(300,)), ()),
        (Retention(count=1), listed(hours=(1, 30, 300), pinned=(30,)), ids(300)),
        (Retention(count=1), listed(hours=(1, 30, 300), bad=(30,)), ids(300)),
        (Retention(count=1), listed(hours=(1, 30, 300), bad=(1,)), ()),
        (Retention(count=1), listed(hours=(-1, 30, 300)), ()),
        (Retention(count=1), [BackupEntry("20990101T000000-0000.partial", None, "x"), *listed(hours=(1, 30))], ids(30)),
        (Retention(count=1), [], ()),
    ],
)
def test_what_may_be_deleted(retention: Retention, found: list[BackupEntry], gone: tuple[str, ...]) -> None:
    assert expired(found, retention, NOW) == gone


@given(
    st.lists(st.integers(1, 2000), unique=True, max_size=12).map(sorted),
    st.integers(0, 5),
    st.integers(0, 60),
    st.data(),
)
def test_the_newest_good_one_and_pinned_ones_always_stay(
    hours: list[int], count: int, days: int, data: st.DataObject
) -> None:
    pinned = tuple(float(h) for h in hours if data.draw(st.booleans()))
    found = listed(hours=tuple(float(h) for h in hours), pinned=pinned)
    gone = expired(found, Retention(count, days), NOW)
    assert set(gone).isdisjoint(ids(*pinned))
    if found:
        assert found[0].backup_id not in gone
    assert len(found) - len(gone) >= min(len(found), count)


def test_drafts_that_no_one_writes_any_more_are_told_by_their_age() -> None:
    ids = ["20261124T110000-0000.partial", "20261120T000000-0000.removed.partial", "20261120T000000-0000", "x.partial"]
    assert abandoned(ids, NOW) == ("20261120T000000-0000.removed.partial",)
    assert abandoned(["20261123T115959-0000.partial"], NOW) == ("20261123T115959-0000.partial",)
    assert abandoned(["20261123T120000-0000.partial"], NOW) == ()
