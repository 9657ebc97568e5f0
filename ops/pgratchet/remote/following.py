"""Follows a run on a host, reconnects when the connection is cut, and finds out how a lost run ended."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from pgratchet import events
from pgratchet.database.target import Target, TargetStorage
from pgratchet.errors import HungUp, Interrupted, MigrationFailed, OutcomeUnknown, RatchetError, Unreachable
from pgratchet.operations import protocol
from pgratchet.operations.backups import prune
from pgratchet.operations.migrate import SettleRun
from pgratchet.operations.protocol import RunInfo
from pgratchet.remote import client
from pgratchet.remote.host import AgentSession, ConnectionLost, HostConnection
from pgratchet.remote.ssh import UntrustedHostKey

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pgratchet.backups.store import Store

_PAUSE = 1.0
"""Seconds between two attempts to reconnect; `ssh_patience` limits them all."""

Open = Callable[[], AbstractContextManager[AgentSession]]


@dataclass(slots=True)
class RunFollower:
    """A run on a host, as seen from here. `position` is the number of the next message, `applied` the names so far.

    Backups are copied to `store`, or stay on the host when it is None.
    """

    target: TargetStorage
    connection: HostConnection
    run: RunInfo
    store: Store | None
    position: int = 0
    applied: list[str] = field(default_factory=list)
    _started_here: bool = False
    _has_begun: bool = False
    _is_cancelled: bool = False
    _signal: KeyboardInterrupt | None = None
    _deadline: float = 0.0

    def begin(self, request: bytes) -> events.Stream:
        """Start the run and follow it. A signal here, thrown into this generator too, cancels the run."""
        self._started_here = True
        yield from self._follow_to_end(lambda: self.connection.start("run"), request)

    def attach(self) -> events.Stream:
        """Follow a run that was started before. A signal here ends the following, not the run."""
        self._has_begun = True
        yield from self._follow_to_end(self._reopen, b"")

    def _reopen(self) -> AbstractContextManager[AgentSession]:
        silence = self.target.variables.ssh_silence
        return self.connection.start("follow", self.run.run_id, str(self.position), str(silence))

    def _follow_to_end(self, open_session: Open, request: bytes) -> events.Stream:
        """Events until the end of the run, over as many connections as needed."""
        self._extend_deadline()
        pause = 0.0
        while True:
            try:
                time.sleep(pause)
                self._cancel_once()
                yield from self._follow_session(open_session, request)
                return
            except (ConnectionLost, Unreachable) as error:
                self._give_up_when_hopeless(error, bool(request))
                pause = _PAUSE
            except KeyboardInterrupt as signal:
                self._interrupt(signal)
                pause = 0.0 if self._has_begun else _PAUSE
            open_session, request = self._reopen, b""

    def _follow_session(self, open_session: Open, request: bytes) -> events.Stream:
        """Events over one connection; ConnectionLost when it ends before the run does."""
        with open_session() as agent:
            if request:
                agent.send(request)
            for message in agent.messages():
                self._extend_deadline()
                if "seq" in message:
                    self.position = int(message["seq"]) + 1
                if "result" in message:
                    return
                yield from self._handle(message, agent)
        raise ConnectionLost

    def _extend_deadline(self) -> None:
        self._deadline = time.monotonic() + self.target.variables.ssh_patience

    def _handle(self, message: Mapping[str, Any], agent: AgentSession) -> events.Stream:
        if "event" in message:
            yield from self._event(protocol.event_of(message))
        elif "started" in message:
            self._has_begun = True
        elif "hand_over" in message:
            yield from self._fetch_backup(message, agent, self.store) if self.store else ()
        elif "error" in message:
            raise self._error(protocol.error_of(message["error"]))
        elif "unknown" in message:
            raise self._never_began()
        elif "lost" in message:
            yield from self._settle()

    def _event(self, event: events.Event) -> events.Stream:
        if isinstance(event, events.MigrationApplied):
            self.applied.append(event.name)
        if isinstance(event, events.Planned) and self._started_here:
            return  # the plan was made here, and shown before the run began
        if not isinstance(event, events.BackupTaken):
            yield event
        elif self.store is None:  # otherwise it is reported once it has been copied here
            yield replace(event, path=f"{self.connection.route.host}:{event.path}")

    def _error(self, error: RatchetError) -> RatchetError:
        """The run's error. When a signal here ended the run, the error is of that signal."""
        if self._signal and isinstance(error, Interrupted):
            return Interrupted(self._signal, detail=error.detail, hint=error.hint)
        return error

    def _fetch_backup(self, message: Mapping[str, Any], agent: AgentSession, store: Store) -> events.Stream:
        """Copy a backup here and confirm it; the run waits for that."""
        from pgratchet.backups import manifest as manifests
        from pgratchet.backups.copying import copy_backup

        backup_id, started = str(message["hand_over"]), time.monotonic()
        folder, read = f"{message['where']}/{backup_id}", self.connection.read
        manifest = manifests.loads(b"".join(read(f"{folder}/{manifests.NAME}")))
        yield from copy_backup(manifest, lambda name: read(f"{folder}/{name}"), store)
        agent.send(f"have {backup_id}\n".encode())
        duration = manifest.dump_ms + manifest.verify_ms + round((time.monotonic() - started) * 1000)
        yield events.BackupTaken(backup_id, f"{store.location}/{backup_id}", manifest.size, duration)
        yield from prune(self.target.variables, store)

    def _give_up_when_hopeless(self, error: Exception, sending: bool) -> None:
        """Raise when the run never began, the time to reconnect is over, or the host is not the known one."""
        if isinstance(error, Unreachable) and sending and not self._has_begun:
            raise error
        if time.monotonic() >= self._deadline or isinstance(error, UntrustedHostKey):
            raise self._out_of_sight() from error

    def _out_of_sight(self) -> OutcomeUnknown:
        env, host = self.target.environment, self.connection.route.host
        return OutcomeUnknown(
            f"the line to {host} was cut, and the run {self.run.run_id} may go on there",
            detail=f"{_were(self.applied)} applied by then. What came of the rest is not known here.",
            hint=f"`invoke attach --env={env}` follows it again; `invoke status --env={env}` asks the database.",
        )

    def _never_began(self) -> Unreachable:
        return Unreachable(
            f"the run {self.run.run_id} was not begun on {self.connection.route.host}",
            detail="The line was cut before the job was there. Nothing was changed.",
            hint="Run again.",
        )

    def _settle(self) -> events.Stream:
        """The run ended without a message: its rows in the history show what it applied."""
        if not isinstance(self.target, Target):
            raise self._out_of_sight()
        try:
            rows = client.ask(self.target, SettleRun(self.run.run_id, self.run.names))
        except RatchetError as error:
            raise self._out_of_sight() from error
        for row in rows:
            if row.executed_at and row.name not in self.applied:
                self.applied.append(row.name)
                yield events.MigrationApplied(row.name, row.duration_ms or 0)
        raise MigrationFailed(
            f"the run {self.run.run_id} was ended on {self.connection.route.host}, by no doing of its own",
            detail=f"The history has it: {_were(self.applied)} applied, and nothing else.",
            hint="Run again; it goes on where this one was ended.",
        )

    def _interrupt(self, signal: KeyboardInterrupt) -> None:
        """A signal cancels a run that was started here, except the hang-up of a terminal: then the run goes on."""
        if isinstance(signal, HungUp) or self._signal or not self._started_here:
            raise Interrupted(
                signal,
                detail=f"The run {self.run.run_id} goes on, on {self.connection.route.host}.",
                hint=f"`invoke attach --env={self.target.environment}` follows it, `invoke cancel` ends it.",
            ) from None
        self._signal = signal

    def _cancel_once(self) -> None:
        """After a signal, cancel the run. Once: a second cancel would cut its orderly end short."""
        if self._signal and not self._is_cancelled:
            self._is_cancelled = client.cancel(self.target, self.run.run_id)


def _were(names: Sequence[str]) -> str:
    return "Nothing was" if not names else f"{', '.join(names)} {'was' if len(names) == 1 else 'were'}"
