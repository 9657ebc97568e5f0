"""Suitable servers, judged from what the server reports."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pgratchet.database.connection import describe, parse_url
from pgratchet.database.inspection import Server, refuse_unfit
from pgratchet.database.pooler import refuse_pooled
from pgratchet.errors import ConfigurationError

FIT = Server(
    version=180006,
    database="app",
    user="me",
    system_identifier="7",
    in_recovery=False,
    read_only=False,
    encoding="UTF8",
    pooled=False,
)


def test_a_suitable_server_is_accepted() -> None:
    refuse_unfit(FIT)
    refuse_unfit(FIT, "7")
    refuse_unfit(replace(FIT, version=130000))
    assert FIT.major == 18


@pytest.mark.parametrize(
    ("server", "pinned", "message"),
    [
        (replace(FIT, in_recovery=True, read_only=True), "", "is on a standby"),
        (replace(FIT, read_only=True), "", "is read-only"),
        (replace(FIT, version=120022), "", "the server is PostgreSQL 12"),
        (FIT, "8", "on another cluster than the pinned one"),
        (replace(FIT, in_recovery=True), "8", "the pinned one"),
    ],
)
def test_an_unsuitable_server_is_refused_with_a_hint(server: Server, pinned: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message) as caught:
        refuse_unfit(server, pinned)
    assert caught.value.detail
    assert caught.value.hint


def test_a_pooler_is_refused_with_a_hint_for_the_direct_address() -> None:
    refuse_pooled(FIT, "nothing works")
    with pytest.raises(ConfigurationError, match="through a connection pooler, where nothing works") as caught:
        refuse_pooled(replace(FIT, pooled=True), "nothing works")
    assert "pg_direct_host" in caught.value.hint


def test_a_database_is_described_without_its_password() -> None:
    parameters = parse_url("postgresql://me:s3cret@db:6000/app")
    assert describe(parameters) == 'database "app" on db, port 6000, as me'
