"""Connection URLs: several servers, and parameters that are not libpq's or have no variable."""

from __future__ import annotations

import pytest

from pgratchet.errors import ConfigurationError
from tests.unit.config.helpers import resolve


@pytest.mark.parametrize(
    ("url", "host", "port"),
    [
        ("postgresql://a:5432,b:5433/d", "a,b", "5432,5433"),
        ("postgresql://a,b:5433/d", "a,b", "5432,5433"),
        ("postgresql://a:5433,b/d?target_session_attrs=read-write", "a,b", "5433,5432"),
        ("postgresql://[::1]:6000,[fe80::1]:6001/d", "::1,fe80::1", "6000,6001"),
        ("postgresql:///d?host=a,b,c&port=1,2,3", "a,b,c", "1,2,3"),
        ("postgresql:///d?host=a,b&port=6432", "a,b", "6432"),
        ("postgresql://%2Fsocket:5433/d", "/socket", "5433"),
        ("host=a,b port=5432,5433 dbname=d", "a,b", "5432,5433"),
        ("postgresql://h/d?ssl=true", "h", "5432"),
    ],
)
def test_a_url_may_name_several_servers(url: str, host: str, port: str) -> None:
    target = resolve({"URL": url}, pg_url="{{ env('URL') }}")
    assert (target.connection["host"], target.connection["port"]) == (host, port)


LIBPQ = [
    *("options", "application_name", "hostaddr", "sslcert", "sslkey", "sslcrl", "gssencmode", "krbsrvname", "passfile"),
    *("keepalives_idle", "load_balance_hosts", "sslnegotiation", "client_encoding", "replication"),
]
PRISMA = [
    *("schema", "connection_limit", "pool_timeout", "socket_timeout", "pgbouncer", "statement_cache_size"),
    *("sslaccept", "sslidentity"),
]
OTHERS = [
    *("search_path", "currentSchema", "ssl", "tls", "uselibpqcompat", "statement_timeout", "pool_max_conns", "pool"),
    *("x-migrations-table", "prepared_statements", "conn_max_age", "serverVersion", "charset", "encoding"),
    *("prepareThreshold", "reWriteBatchedInserts", "ApplicationName", "timezone", "server_settings", "pool_size"),
]


@pytest.mark.parametrize("name", [*LIBPQ, *PRISMA, *OTHERS])
def test_a_url_parameter_without_a_variable_is_named(name: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        resolve({"URL": f"postgresql://u:hunter2@h/d?sslmode=require&{name}=x"}, pg_url="{{ env('URL') }}")
    assert caught.value.message == f"the connection URL in URL has parameters that cannot be used: {name}"
    assert caught.value.detail.startswith(f"{name}: ")
    assert "hunter2" not in str(caught.value)


def test_advice_for_a_url_parameter_names_what_to_use_instead() -> None:
    for name, advice in (
        ("schema", "SET search_path"),
        ("currentSchema", "SET search_path"),
        ("statement_timeout", "migration_timeout"),
        ("ssl", "sslmode"),
        ("options", "pg_service.conf.j2"),
        ("sslmod", "Did you mean sslmode?"),
        ("sslModes", "Did you mean sslmode?"),
        ("connect_timeot", "Did you mean connect_timeout?"),
        ("ApplicationName", "Did you mean application_name?"),
        ("prepareThreshold", "configures an application's driver"),
    ):
        with pytest.raises(ConfigurationError) as caught:
            resolve(pg_url=f"postgresql://h/d?{name}=x")
        assert advice in caught.value.detail


def test_a_part_of_a_password_is_not_shown_as_a_parameter() -> None:
    for url in ("postgresql://h/d?password=a&hunter2=x", "postgresql://h/d?sslmode=disable&hunter2"):
        with pytest.raises(ConfigurationError, match="the connection URL in URL cannot be read") as caught:
            resolve({"URL": url}, pg_url="{{ env('URL') }}")
        assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("scheme", ["jdbc:postgresql", "postgresql+psycopg2", "postgis", "ecto", "PostgreSQL", "mysql"])
def test_a_url_of_another_library_is_refused_with_its_scheme(scheme: str) -> None:
    with pytest.raises(ConfigurationError, match="the connection URL in URL cannot be read") as caught:
        resolve({"URL": f"{scheme}://u:hunter2@h/d"}, pg_url="{{ env('URL') }}")
    assert f"{scheme}://" in caught.value.detail
    assert "hunter2" not in str(caught.value)
