"""A job on another host, as one that is done here: the same events, the same result, the same errors.

Owns what of a run is done where: files are read, judged and planned here, applied there. Owns the way back to a run
whose line was cut, and what is true of one that was not heard to its end: the database is asked. Refuses to know how a
host is reached.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeVar

from pgratchet import events
from pgratchet.errors import HungUp, Interrupted, MigrationFailed, OutcomeUnknown, RatchetError, Unreachable
from pgratchet.migrations.files import Migration
from pgratchet.migrations.plan import HistoryRow, make_plan, require_agreement
from pgratchet.migrations.scripts import prepare
from pgratchet.operations import operations, protocol, wiring
from pgratchet.remote import ssh
from pgratchet.remote.ssh import AgentSession, ConnectionLost, HostConnection, UntrustedHostKey

if TYPE_CHECKING:
    from pgratchet.backups.manifest import Manifest
    from pgratchet.backups.store import Store
    from pgratchet.database.target import Target

_T = TypeVar("_T")
_PAUSE = 1.0
"""Seconds between two tries to come back to a run; the inventory says for how long."""


def connection_of(given: Target) -> HostConnection:
    return ssh.connection_to(ssh.route_to(given.variables))


def perform(given: Target, job: operations.Operation[_T], kind: type[_T] | Any) -> Generator[events.Event, None, _T]:
    """Do a job that ends with its line; returns its result, which is of that type."""
    line = connection_of(given)
    try:
        with line.talk("ask") as talk:
            talk.send(_request(given, job))
            for told in talk.lines():
                if "event" in told:
                    yield protocol.event_of(told)
                elif "error" in told:
                    raise protocol.error_of(told["error"])
                elif "result" in told:
                    return protocol.loads(kind, told["result"])  # type: ignore[no-any-return]
            raise ConnectionLost
    except ConnectionLost as error:
        raise Unreachable(
            f"the line to {line.way.host} was cut",
            detail="What was asked of it was not heard to its end, and ends there with the line.",
            hint="Run again when the host answers.",
        ) from error


def done(given: Target, job: operations.Operation[_T], kind: type[_T] | Any) -> _T:
    """The result of a job of which nothing is shown while it goes on."""
    result: _T = events.drain(perform(given, job, kind))
    return result


def _request(
    given: Target, job: operations.Operation[Any], about: RunInfo | None = None, *, hands_over: bool = False
) -> bytes:
    """A job and its settings, the secret in them, as they travel: a length, the line of that length, what follows."""
    variables = {name: getattr(given.variables, name) for name in given.variables.__struct_fields__} | _KEPT_HERE
    if hands_over:  # what is staged there, is staged in a folder of the run's own
        variables["backup_dir"] = "backups"
    access = {
        "environment": given.environment,
        "target": given.target,
        "variables": variables,
        "connection": given.connection,
        "service_file": given.service_file,
        "secret": given.password(),
        "passfile": given.pgpass(),
    }
    shape = {"job": type(job).__name__, "of": job, "access": access, "about": about, "hands_over": hands_over}
    text, behind = protocol.dumps({**shape, "silence": given.variables.ssh_silence})
    return b"".join([b"%d " % len(text), text.encode(), *behind])


_KEPT_HERE: dict[str, object] = {
    **dict.fromkeys(("pg_password", "pg_url", "backup_store"), ""),
    "password_command": (),
    "backup_store_options": {},
}
"""Variables that are of no use there: the secret travels once, and what it was fetched by not at all."""


def migrate(
    given: Target, files: Sequence[Migration], job: operations.Migrate, kept: Store | None
) -> Generator[events.Event, None, None]:
    """Apply what is pending of the files, which are here: planned here, by the history there, and done there.

    The first event is Planned. Backups go to `kept`, or stay there. Of the files only what is pending is sent.
    """
    records = yield from perform(given, operations.ReadHistory(fit=True), tuple[HistoryRow, ...])
    made = make_plan(files, records, job.to)
    changed = made.names("changed")
    require_agreement(
        made, (yield from perform(given, operations.ReadTexts(changed), dict[str, str])) if changed else {}
    )
    prepare(made.todo)
    names = tuple(migration.name for migration in made.todo)
    yield events.Planned(names, total=len(made.entries), pending=made.left)
    if not names:
        yield events.Finished(total=len(made.entries), pending=made.left)
        return
    job = replace(job, files=tuple(_sent(file, file.name in names) for file in files))
    for happened in run(given, job, RunInfo(job.run_id, "migrate", names), kept):
        if not isinstance(happened, events.Planned):
            yield happened


def _sent(file: Migration, pending: bool) -> operations.TransferredMigration:
    return operations.TransferredMigration(
        file.name, file.version, file.checksum, file.path, file.text() if pending else None
    )


def upload_backup(given: Target, store: Store, made: Manifest, run_id: str) -> Generator[events.Event, None, None]:
    """Carry a backup that is kept here to the host, where a run of that id will find it."""
    from pgratchet.backups import manifest

    line = connection_of(given)
    folder = f"{line.home()}/runs/{run_id}/backups/{given.environment}/{given.target}/{made.backup_id}"
    size = 0
    for name, file in made.files.items():
        line.write(f"{folder}/{name}", store.read(made.backup_id, name))
        size += file.size
        yield events.BackupProgress("copy", size, made.size)
    line.write(f"{folder}/{manifest.NAME}", store.read(made.backup_id, manifest.NAME))


@dataclass(frozen=True, slots=True)
class RunInfo:
    """What a run is: its id, its task, and the migrations that it set out to apply."""

    run_id: str
    task: str
    names: tuple[str, ...] = ()
    env: str = ""
    target: str = ""
    started: str = ""
    state: str = ""
    status: str | None = None


def run(
    given: Target, job: operations.Operation[None], about: RunInfo, kept: Store | None
) -> Generator[events.Event, None, None]:
    """Do a job that outlives its line, and follow it, by another line where the first is cut.

    Where backups come here, `kept` is where.
    """
    about = replace(about, env=given.environment, target=given.target)
    request = _request(given, job, about, hands_over=kept is not None)
    yield from _Following(given, connection_of(given), about, kept).begin(request)


def attach(given: Target, about: RunInfo) -> Generator[events.Event, None, None]:
    """Follow a run again, from its first event on."""
    yield from _Following(given, connection_of(given), about, None).again()


def list_runs(given: Target) -> list[RunInfo]:
    """The runs that the host knows of this target, newest first."""
    found = [protocol.loads(RunInfo, each) for each in _ask(given, "runs")]
    return [each for each in found if (each.env, each.target) == (given.environment, given.target)]


def cancel(given: Target, run_id: str) -> bool:
    """Let a run end itself: its statement is cancelled and its lock released. False where it is over."""
    return bool(_ask(given, "cancel", run_id))


def _ask(given: Target, *words: str) -> Any:
    line = connection_of(given)
    try:
        with line.talk(*words) as talk:
            if "result" in talk.greeting:
                return talk.greeting["result"]
    except ConnectionLost:
        pass
    raise Unreachable(f"{line.way.host} did not answer", detail="The line was cut.", hint="Run again.")


@dataclass(slots=True)
class _Following:
    """A run there, followed from here. `heard` counts what has been heard of it, `applied` what it has applied."""

    given: Target
    line: HostConnection
    about: RunInfo
    kept: Store | None
    heard: int = 0
    applied: list[str] = field(default_factory=list)
    _ours: bool = False
    _begun: bool = False
    _cancelled: bool = False
    _signal: KeyboardInterrupt | None = None
    _deadline: float = 0.0

    def begin(self, request: bytes) -> Generator[events.Event, None, None]:
        self._ours = True
        yield from self._told(lambda: self.line.talk("run"), request)

    def again(self) -> Generator[events.Event, None, None]:
        self._begun = True
        yield from self._told(self._follow, b"")

    def _follow(self) -> AbstractContextManager[AgentSession]:
        return self.line.talk("follow", self.about.run_id, str(self.heard), str(self.line.way.silence))

    def _told(
        self, opened: Callable[[], AbstractContextManager[AgentSession]], request: bytes
    ) -> Generator[events.Event, None, None]:
        """Events until the end, over as many lines as it takes."""
        self._hear()
        pause = 0.0
        while True:
            try:
                time.sleep(pause)
                self._cancel()
                yield from self._over_one(opened, request)
                return
            except (ConnectionLost, Unreachable) as error:
                self._refuse_hopeless(error, bool(request))
                pause = _PAUSE
            except KeyboardInterrupt as signal:
                self._stop(signal)
                pause = 0.0 if self._begun else _PAUSE
            except GeneratorExit as end:  # a signal came while what was told was shown
                self._leave(end.__context__)
                raise
            opened, request = self._follow, b""

    def _over_one(
        self, opened: Callable[[], AbstractContextManager[AgentSession]], request: bytes
    ) -> Generator[events.Event, None, None]:
        """Events over one line; Dropped where that does not last to the end of the run."""
        with opened() as talk:
            if request:
                talk.send(request)
            for told in talk.lines():
                self._hear()
                if "seq" in told:
                    self.heard = int(told["seq"]) + 1
                if "result" in told:
                    return
                yield from self._one(told, talk)
        raise ConnectionLost

    def _hear(self) -> None:
        self._deadline = time.monotonic() + self.given.variables.ssh_patience

    def _one(self, told: Mapping[str, Any], talk: AgentSession) -> Iterator[events.Event]:
        if "event" in told:
            yield from self._happened(protocol.event_of(told))
        elif "started" in told:
            self._begun = True
        elif "hand_over" in told:
            yield from self._take_over(told, talk, self.kept) if self.kept else ()
        else:
            yield from self._end(told)

    def _happened(self, happened: events.Event) -> Iterator[events.Event]:
        if isinstance(happened, events.MigrationApplied):
            self.applied.append(happened.name)
        if not isinstance(happened, events.BackupTaken):
            yield happened
        elif self.kept is None:  # else it is told of once it has come here
            yield replace(happened, path=f"{self.line.way.host}:{happened.path}")

    def _end(self, told: Mapping[str, Any]) -> Iterator[events.Event]:
        if "error" in told:
            raise self._error(protocol.error_of(told["error"]))
        if "unknown" in told:
            raise self._never_began()
        if "lost" in told:
            yield from self._settled()

    def _error(self, error: RatchetError) -> RatchetError:
        """Where the run was ended from here, it ends as the signal here has it."""
        if self._signal and isinstance(error, Interrupted):
            return Interrupted(self._signal, detail=error.detail, hint=error.hint)
        return error

    def _take_over(self, told: Mapping[str, Any], talk: AgentSession, here: Store) -> Iterator[events.Event]:
        """Copy a backup here, and say so there: only then does it go on."""
        from pgratchet.backups import backup, manifest

        backup_id, started = str(told["hand_over"]), time.monotonic()
        folder = f"{told['where']}/{backup_id}"
        made = manifest.loads(b"".join(self.line.read(f"{folder}/{manifest.NAME}")))
        yield from backup.copy(made, lambda name: self.line.read(f"{folder}/{name}"), here)
        talk.send(f"have {backup_id}\n".encode())
        took = made.dump_ms + made.verify_ms + round((time.monotonic() - started) * 1000)
        yield events.BackupTaken(backup_id, f"{here.where}/{backup_id}", made.size, took)
        yield from wiring.prune(self.given.variables, here)

    def _refuse_hopeless(self, error: Exception, sending: bool) -> None:
        """Raise where there is no way back, or nothing to come back to."""
        if isinstance(error, Unreachable) and sending and not self._begun:
            raise error
        if time.monotonic() >= self._deadline or isinstance(error, UntrustedHostKey):
            raise self._out_of_sight() from error

    def _out_of_sight(self) -> OutcomeUnknown:
        env, host = self.given.environment, self.line.way.host
        return OutcomeUnknown(
            f"the line to {host} was cut, and the run {self.about.run_id} may go on there",
            detail=f"{_named(self.applied)} applied by then. What came of the rest is not known here.",
            hint=f"`invoke attach --env={env}` follows it again; `invoke status --env={env}` asks the database.",
        )

    def _never_began(self) -> Unreachable:
        return Unreachable(
            f"the run {self.about.run_id} was not begun on {self.line.way.host}",
            detail="The line was cut before the job was there. Nothing was changed.",
            hint="Run again.",
        )

    def _settled(self) -> Iterator[events.Event]:
        """The run was ended without a word: its rows in the history tell what it came to."""
        try:
            settle = operations.SettleRun(self.about.run_id, self.about.names)
            records = yield from perform(self.given, settle, tuple[HistoryRow, ...])
        except RatchetError as error:
            raise self._out_of_sight() from error
        done = [record for record in records if record.executed_at and record.name not in self.applied]
        for record in done:
            self.applied.append(record.name)
            yield events.MigrationApplied(record.name, record.duration_ms or 0)
        raise MigrationFailed(
            f"the run {self.about.run_id} was ended on {self.line.way.host}, by no doing of its own",
            detail=f"The history has it: {_named(self.applied)} applied, and nothing else.",
            hint="Run again; it goes on where this one was ended.",
        )

    def _stop(self, signal: KeyboardInterrupt) -> None:
        """A signal here ends the run there, where it was begun from here; but not that of a terminal that is gone."""
        if isinstance(signal, HungUp) or self._signal or not self._ours:
            raise Interrupted(
                signal,
                detail=f"The run {self.about.run_id} goes on, on {self.line.way.host}.",
                hint=f"`invoke attach --env={self.given.environment}` follows it, `invoke cancel` ends it.",
            ) from None
        self._signal = signal

    def _cancel(self) -> None:
        """Once a signal has come, end the run; once, since a second signal would cut its own end short."""
        if self._signal and not self._cancelled:
            self._cancelled = cancel(self.given, self.about.run_id)

    def _leave(self, reason: BaseException | None) -> None:
        if self._ours and self._begun and isinstance(reason, KeyboardInterrupt) and not isinstance(reason, HungUp):
            with suppress(RatchetError):
                cancel(self.given, self.about.run_id)


def _named(names: Sequence[str]) -> str:
    return "Nothing was" if not names else f"{', '.join(names)} {'was' if len(names) == 1 else 'were'}"
