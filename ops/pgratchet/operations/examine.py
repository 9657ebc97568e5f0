"""Looks for problems that would make a migration fail, on the server and on the machine that connects to it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from pgratchet.backups.manifest import TableSize
from pgratchet.checks.findings import Finding
from pgratchet.checks.needs import Needs
from pgratchet.database.target import Target
from pgratchet.operations.base import Machine

if TYPE_CHECKING:
    from psycopg import Connection

    from pgratchet.variables import Variables


@dataclass(frozen=True, slots=True)
class Examine:
    """Examine the server and this machine. `extensions` are those that pending migrations create."""

    extensions: tuple[str, ...] = ()
    has_pending: bool = False
    has_files: bool = True
    without_first: bool = True

    def run(self, target: Target, machine: Machine) -> tuple[Finding, ...]:
        from pgratchet.checks import doctor
        from pgratchet.checks.findings import collecting

        variables = target.variables
        dumps = variables.backup_policy != "never" and not variables.backup_command
        # The bundled server has the roles as soon as they are needed.
        needs = _needs(variables) if dumps else Needs()
        if not variables.embedded:
            needs = replace(needs, roles=variables.roles, app_user=variables.app_user)
        options = doctor.DoctorOptions(
            target.history,
            variables.pg_system_identifier,
            dumps,
            self.extensions,
            self.has_pending,
            self.has_files,
            needs,
            without_first=self.without_first,
        )
        with closing(target.connect()) as connection:
            findings = list(doctor.check_server(connection, options))
            if dumps and not connection.closed:
                findings += _examine_machine(target, machine, connection)
                with collecting(findings, "databases"):
                    connection.close()  # it would look like a run that is using the server
                    findings += FindLeftovers().run(target, machine)
        return tuple(findings)


@dataclass(frozen=True, slots=True)
class ReadSizes:
    """Read the sizes of the tables from the catalog."""

    def run(self, target: Target, machine: Machine) -> dict[str, TableSize]:
        from pgratchet.database.data_size import read_table_sizes

        with target.connected() as connection:
            return {name: TableSize(*size) for name, *size in read_table_sizes(connection)}


@dataclass(frozen=True, slots=True)
class FindLeftovers:
    """Find the databases that restores kept, and those that killed runs left on the target's server."""

    def run(self, target: Target, machine: Machine) -> tuple[Finding, ...]:
        from pgratchet.checks.leftovers import find_leftovers
        from pgratchet.operations.restore import restore_server

        return tuple(find_leftovers(restore_server(target), target.connection["dbname"], target.environment))


def _needs(variables: Variables) -> Needs:
    """The needs of a run with a backup. A run holds the lock, counts rows and dumps, each in a session of its own."""
    has_folder = not variables.backup_store and not variables.backup_recipients
    workers = variables.backup_jobs if has_folder and variables.backup_jobs > 1 else 0
    maintenance, restores_elsewhere = variables.pg_maintenance_dbname, bool(variables.restore_environment)
    return Needs(3, workers, variables.backup_parallel_from, maintenance, restores_elsewhere)


def _examine_machine(target: Target, machine: Machine, connection: Connection) -> Iterator[Finding]:
    """Check the needs of a backup on this machine: programs, and free space."""
    from pgratchet import embedded
    from pgratchet.backups.backup import estimated_size
    from pgratchet.backups.pg_programs import find_programs
    from pgratchet.checks.findings import collecting
    from pgratchet.checks.machine import check_backup_folder, check_free_space, check_programs
    from pgratchet.database.connection import translate_errors

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
            estimate = estimated_size(store, connection)
        findings.append(check_free_space(store.location, store.free_space(), estimate))
    yield from findings
