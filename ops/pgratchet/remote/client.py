"""Runs operations on a target's host: the same events, results and errors as when they run here.

Files are read, checked and planned on this machine, and applied on the host. A run outlives its connection.
"""

from __future__ import annotations

from collections.abc import Collection, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar, get_type_hints, overload

from pgratchet import events
from pgratchet.database.target import ReceivedTarget, Target, TargetStorage
from pgratchet.errors import Unreachable
from pgratchet.migrations.plan import Plan, lacks_first_version, make_plan, require_agreement
from pgratchet.migrations.scripts import Script, is_contract, prepare_plan
from pgratchet.operations import protocol
from pgratchet.operations.migrate import Migrate, ReadHistory, ReadTexts, TransferredMigration
from pgratchet.operations.protocol import Request, RunInfo
from pgratchet.remote.channel import ConnectionLost
from pgratchet.remote.host import HostConnection, connection_to
from pgratchet.remote.ssh import route_to
from pgratchet.variables import replaced

if TYPE_CHECKING:
    from pgratchet.backups.manifest import Manifest
    from pgratchet.backups.store import Store
    from pgratchet.migrations.files import Migration
    from pgratchet.operations.base import Query, StorageQuery, StorageTask, Task
    from pgratchet.operations.rehearse import Rehearse
    from pgratchet.rehearsal.report import Report

_T = TypeVar("_T")


def connection_of(target: TargetStorage) -> HostConnection:
    """The connection to the target's host, shared by all that this process does there."""
    return connection_to(route_to(target.variables))


@overload
def ask(target: Target, query: Query[_T]) -> _T: ...
@overload
def ask(target: TargetStorage, query: StorageQuery[_T]) -> _T: ...
def ask(target: TargetStorage, query: Any) -> Any:
    """The answer of the host to a query, read as the type that the query's `run` returns."""
    kind = get_type_hints(type(query).run)["return"]
    for message in _messages(target, query):
        if "result" in message:
            return protocol.loads(kind, message["result"])
    raise _cut(target)


def perform(target: TargetStorage, task: StorageTask) -> events.Stream:
    """Run a task that ends with its connection, and yield its events."""
    yield from _stream(target, task)


def rehearse(
    target: TargetStorage, task: Rehearse, files: Sequence[Migration], history: Collection[str]
) -> Generator[events.Event, None, Report | None]:
    """Rehearse on the host, with the files that are not in the history; returns the report."""
    from pgratchet.rehearsal.report import Report

    sent = tuple(_transferred(file, file.is_repeatable or file.name not in history) for file in files)
    shape = yield from _stream(target, replace(task, files=sent))
    return protocol.loads(Report, shape) if shape else None


def _stream(target: TargetStorage, task: StorageTask | Rehearse) -> Generator[events.Event, None, Any]:
    """Run a task on the host, yield its events, and return its result as JSON has it."""
    for message in _messages(target, task):
        if "event" in message:
            yield protocol.event_of(message)
        elif "result" in message:
            return message["result"]
    raise _cut(target)


def _messages(target: TargetStorage, operation: object) -> Iterator[dict[str, Any]]:
    """The host's messages about an operation. Its error is raised here; a lost connection is Unreachable."""
    try:
        with connection_of(target).start("ask") as agent:
            agent.send(protocol.encode_request(request_for(target, operation)))
            for message in agent.messages():
                if "error" in message:
                    raise protocol.error_of(message["error"])
                yield message
    except ConnectionLost as error:
        raise _cut(target) from error


def _cut(target: TargetStorage) -> Unreachable:
    return Unreachable(
        f"the connection to {target.variables.ssh_host} was lost",
        detail="The host stopped answering. The work that it was asked for ends with the connection.",
        hint="Run again when the host can be reached.",
    )


def request_for(
    target: TargetStorage, operation: object, run: RunInfo | None = None, *, hands_over: bool = False
) -> Request:
    """The request that asks the target's host for an operation, with the password inside it.

    Variables that only this machine uses are left out: how the password was fetched, object stores, signatures.
    """
    backup_dir = "backups" if hands_over else target.variables.backup_dir  # inside the run's own folder
    unused: dict[str, Any] = {"backup_store": "", "backup_store_options": {}, "backup_dir": backup_dir}
    unused |= {"backup_signing_key": "", "backup_verify_keys": ()}
    variables = replaced(target.variables, **unused)
    if not isinstance(target, Target):
        sent = TargetStorage(target.environment, target.target, variables)
        return Request(operation, sent, variables.ssh_silence, run, hands_over)
    received = ReceivedTarget(
        target.environment,
        target.target,
        replaced(target.variables, **unused, pg_password="", pg_url="", password_command=()),
        target.connection,
        target.service_file,
        target.others,
        target.password(),
        target.pgpass(),
        target.connection_origins(),
    )
    return Request(operation, received, variables.ssh_silence, run, hands_over)


@contextmanager
def prepare_migration(
    target: Target, files: Sequence[Migration], request: Migrate, store: Store | None
) -> Iterator[PreparedHostRun]:
    """Plan a run by the host's history. The block may show the plan, ask for consent and call `apply()`.

    Backups are copied to `store`, or stay on the host when it is None.
    """
    must_be_empty, without_first = bool(files) and not request.not_empty, lacks_first_version(files)
    query = ReadHistory(check_server=True, must_be_empty=must_be_empty, without_first=without_first)
    plan = make_plan(files, ask(target, query).rows, request.to, is_contract if request.stops_at_contract else None)
    names = plan.compared_names
    require_agreement(plan, ask(target, ReadTexts(names)) if names else {})
    yield PreparedHostRun(target, files, request, store, plan, prepare_plan(plan))


@dataclass(frozen=True, slots=True)
class PreparedHostRun:
    """A planned run that has changed nothing yet on the host."""

    target: Target
    files: Sequence[Migration]
    request: Migrate
    store: Store | None
    plan: Plan
    scripts: tuple[Script, ...]

    @property
    def planned(self) -> events.Planned:
        names = tuple(script.name for script in self.scripts)
        return events.Planned(names, total=self.plan.total, pending=self.plan.pending_count)

    def apply(self) -> events.Stream:
        """Apply what is pending on the host. Only the texts of pending migrations are sent."""
        names = self.planned.todo
        if not names:
            yield events.Finished(total=self.plan.total, pending=self.plan.pending_count)
            return
        files = tuple(_transferred(file, file.name in names) for file in self.files)
        request = replace(self.request, files=files)
        if self.plan.stopped_before:  # the host does not have the text of the contract file
            request = replace(request, to=self.plan.todo[-1].name, stops_at_contract=False)
        yield from run(self.target, request, RunInfo(request.run_id, "migrate", names), self.store)


def _transferred(file: Migration, pending: bool) -> TransferredMigration:
    text = file.text() if pending else None
    return TransferredMigration(file.name, file.version, file.checksum, file.path, text, replaces=file.replaces)


def run(target: Target, task: Task, run: RunInfo, store: Store | None) -> events.Stream:
    """Run a task that outlives its connection, and follow it over as many connections as needed.

    Backups are copied to `store`, or stay on the host when it is None.
    """
    from pgratchet.remote.following import RunFollower

    run = replace(run, env=target.environment, target=target.target)
    request = protocol.encode_request(request_for(target, task, run, hands_over=store is not None))
    return RunFollower(target, connection_of(target), run, store).begin(request)


def attach(target: TargetStorage, run: RunInfo) -> events.Stream:
    """Follow a run again, from its first event."""
    from pgratchet.remote.following import RunFollower

    return RunFollower(target, connection_of(target), run, None).attach()


def list_runs(target: TargetStorage) -> list[RunInfo]:
    """The target's runs that the host knows: those that are running, then the newest first."""
    runs = [protocol.loads(RunInfo, shape) for shape in _command(target, "runs")]
    return [run for run in runs if (run.env, run.target) == (target.environment, target.target)]


def cancel(target: TargetStorage, run_id: str) -> bool:
    """Ask a run to end: the host cancels its statement and releases its lock. False when it has already finished."""
    return bool(_command(target, "cancel", run_id))


def _command(target: TargetStorage, *words: str) -> Any:
    """The answer of the host to a command that needs no request."""
    try:
        with connection_of(target).start(*words) as agent:
            if "result" in agent.greeting:
                return agent.greeting["result"]
    except ConnectionLost:
        pass
    raise _cut(target)


def upload_backup(target: Target, store: Store, manifest: Manifest, run_id: str) -> events.Stream:
    """Copy a backup that is kept here to the host, into the folder where the run of that id looks for it.

    The manifest is sent as it was read and checked before. The host compares the files with it.
    """
    from pgratchet.backups.manifest import NAME, dumps

    connection = connection_of(target)
    backups = f"{connection.home()}/runs/{run_id}/backups"
    folder = f"{backups}/{target.environment}/{target.target}/{manifest.backup_id}"
    size = 0
    for name, file in manifest.files.items():
        connection.write(f"{folder}/{name}", store.read(manifest.backup_id, name))
        size += file.size
        yield events.BackupProgress("copy", size, manifest.size)
    connection.write(f"{folder}/{NAME}", iter((dumps(manifest),)))
