"""Looks for problems that would make a migration fail, on the server and on the machine that connects to it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pgratchet.checks.doctor import Finding
from pgratchet.database.target import Target
from pgratchet.operations.base import Machine

if TYPE_CHECKING:
    from psycopg import Connection


@dataclass(frozen=True, slots=True)
class Examine:
    """Examine the server and this machine. `extensions` are those that pending migrations create."""

    extensions: tuple[str, ...] = ()

    def run(self, target: Target, machine: Machine) -> tuple[Finding, ...]:
        from pgratchet.checks import doctor

        variables = target.variables
        dumps = variables.backup_policy != "never" and not variables.backup_command
        options = doctor.DoctorOptions(target.history, variables.pg_system_identifier, dumps, self.extensions)
        with closing(target.connect()) as connection:
            findings = list(doctor.check_server(connection, options))
            if dumps and not connection.closed:
                findings += _examine_machine(target, machine, connection)
        return tuple(findings)


def _examine_machine(target: Target, machine: Machine, connection: Connection) -> Iterator[Finding]:
    """Check the needs of a backup on this machine: programs, and free space."""
    from pgratchet import embedded
    from pgratchet.backups.backup import expected_size
    from pgratchet.backups.pg_programs import find_programs
    from pgratchet.checks.doctor import collecting
    from pgratchet.checks.machine import check_backup_folder, check_free_space, check_programs
    from pgratchet.database.connection import translate_errors
    from pgratchet.database.inspection import database_size

    version, tls = connection.info.server_version, connection.pgconn.ssl_in_use
    findings: list[Finding] = []
    with collecting(findings, "pg_dump"):
        programs = find_programs(version, tls=tls)
        packaged = embedded.installed_programs()
        findings.append(check_programs(programs.version, programs.folder, version, tls=tls, packaged=packaged))
    with collecting(findings, "room"):
        if not target.variables.backup_store:
            findings += check_backup_folder(machine.root / target.variables.backup_dir)
        store = machine.backup_store(target)
        with translate_errors():
            size = database_size(connection)
        findings.append(check_free_space(store.location, store.free_space(), expected_size(store, size), size))
    yield from findings
