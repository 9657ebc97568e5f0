"""Follows a run on a host, reconnects when the connection is cut, and finds out how a lost run ended."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from pgratchet import events
from pgratchet.database.target import Target, TargetStorage
from pgratchet.errors import HungUp, Interrupted, MigrationFailed, OutcomeUnknown, RatchetError, Unreachable
from pgratchet.formatting import were_applied
from pgratchet.migrations.repeatables import file_name_of_row
from pgratchet.operations import protocol
from pgratchet.operations.backups import prune
from pgratchet.operations.migrate import SettleRun
from pgratchet.operations.protocol import RunInfo
from pgratchet.remote import client
from pgratchet.remote.channel import ConnectionLost
from pgratchet.remote.host import AgentSession, HostConnection
from pgratchet.remote.ssh import UntrustedHostKey

if TYPE_CHECKING:
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
    _has_ended: bool = False
    _failure: RatchetError | None = None
    _signal: KeyboardInterrupt | None = None
    _is_cancelled: bool = False
    _deadline: float = 0.0

    def begin(self, request: bytes) -> events.Stream:
        """Start the run and follow it. A signal here, thrown into this generator too, and `close` cancel the run."""
        self._started_here = True
        try:
            yield from self._follow_to_end(lambda: self.connection.start("run"), request)
        except GeneratorExit:  # nobody sees the events any more, as after an error of the screen
            if not self._has_ended:
                with suppress(RatchetError, ConnectionLost):
                    client.cancel(self.target, self.run.run_id)
            raise

    def attach(self) -> events.Stream:
        """Follow a run that was started before. A signal here ends the following, not the run."""
        self._has_begun = True
        yield from self._follow_to_end(self._reopen, b"")

    def _reopen(self) -> AbstractContextManager[AgentSession]:
        silence = self.target.variables.ssh_silence
        return self.connection.start("follow", self.run.run_id, str(self.position), str(silence))

    def _follow_to_end(self, open_session: Open, request: bytes) -> events.Stream:
        """Events until the end of the run, over as many connections as needed. Raises the error of the run."""
        self._extend_deadline()
        pause = 0.0
        while not self._has_ended:
            try:
                time.sleep(pause)
                self._cancel_over_new_connection()
                yield from self._follow_session(open_session, request)
            except (ConnectionLost, Unreachable) as error:
                self._give_up_when_hopeless(error, bool(request))
                pause = _PAUSE
            except KeyboardInterrupt as signal:
                self._take_signal(signal)
                pause = 0.0 if self._has_begun else _PAUSE
            open_session, request = self._reopen, b""
        if self._failure:
            raise self._failure
        if self._signal:
            raise self._finished_before(self._signal)

    def _follow_session(self, open_session: Open, request: bytes) -> events.Stream:
        """Events over one connection; ConnectionLost when it ends before the run does.

        After a signal the same connection cancels the run, which is faster than a new one, and shows how it ends.
        """
        with open_session() as agent:
            if request:
                agent.send(request)
            while not self._has_ended:
                try:
                    yield from self._follow_messages(agent)
                except KeyboardInterrupt as signal:  # noqa: PERF203  one a signal
                    self._take_signal(signal)

    def _follow_messages(self, agent: AgentSession) -> events.Stream:
        cancels = self._ask_to_cancel(agent)
        for message in agent.messages():
            if message.keys() & {"seq", "beat", "started"}:  # not an agent that ends again and again
                self._extend_deadline()
            if message.get("seq", self.position) != self.position:
                raise ConnectionLost  # a message was missed: it is sent again over a new connection
            self.position += "seq" in message
            yield from self._handle(message, agent)
            if self._has_ended:
                return
            cancels = cancels or self._ask_to_cancel(agent)
        if self._has_begun or agent.exit_status() == 0:
            raise ConnectionLost
        self._end(self._never_began(agent.error_output()))

    def _ask_to_cancel(self, agent: AgentSession) -> bool:
        """After a signal, ask once over this connection that the run is cancelled. It has to have begun for that."""
        if self._signal is None or not self._has_begun or self._is_cancelled:
            return False
        agent.send(b"cancel\n")
        return True

    def _cancel_over_new_connection(self) -> None:
        """Cancel the run when a signal came while there was no connection, or before it was known to have begun."""
        if self._signal and not self._is_cancelled:
            self._is_cancelled = client.cancel(self.target, self.run.run_id)

    def _extend_deadline(self) -> None:
        self._deadline = time.monotonic() + self.target.variables.ssh_patience

    def _end(self, failure: RatchetError | None) -> None:
        self._has_ended, self._failure = True, failure

    def _handle(self, message: Mapping[str, Any], agent: AgentSession) -> events.Stream:
        if "event" in message:
            yield from self._event(protocol.event_of(message))
        elif "started" in message:
            self._has_begun = True
        elif "cancelled" in message:
            self._is_cancelled = True
        elif "hand_over" in message:
            yield from self._fetch_backup(message, agent, self.store) if self.store else ()
        elif "lost" in message:
            yield from self._settle()
        else:
            self._handle_end(message)

    def _handle_end(self, message: Mapping[str, Any]) -> None:
        if "result" in message:
            self._end(None)
        elif "error" in message:
            self._end(self._error(protocol.error_of(message["error"])))
        elif "unknown" in message:
            self._end(self._never_began())

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
        """The run's error. When a signal here ended the run, it is the error of that signal."""
        if self._signal and isinstance(error, Interrupted):
            return Interrupted(self._signal, detail=error.detail, hint=error.hint)
        return error

    def _fetch_backup(self, message: Mapping[str, Any], agent: AgentSession, store: Store) -> events.Stream:
        """Copy a backup here and confirm it; the run waits for that."""
        from pgratchet.backups import manifest as manifests
        from pgratchet.backups.copying import copy_backup, received_manifest
        from pgratchet.backups.signing import make_signer

        backup_id, started = str(message["hand_over"]), time.monotonic()
        folder, read = f"{message['where']}/{backup_id}", self.connection.read
        manifest = received_manifest(backup_id, b"".join(read(f"{folder}/{manifests.NAME}")))
        signer = make_signer(self.target.variables)
        yield from copy_backup(manifest, lambda name: read(f"{folder}/{name}"), store, signer)
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
        host = self.connection.route.host
        return OutcomeUnknown(
            f"the connection to {host} was lost, and the run {self.run.run_id} may continue there",
            detail=f"{self._were_applied()} before that. The outcome of the rest is not known here.",
            hint=f"`{self._task('attach')}` follows the run again; `invoke status --env={self.target.environment}` "
            "shows what the database has.",
        )

    def _task(self, name: str) -> str:
        return f"invoke {name} --env={self.target.environment} --run={self.run.run_id}"

    def _were_applied(self) -> str:
        if not self.applied:
            return "Nothing was applied"
        return were_applied(self.applied)

    def _never_began(self, output: str = "") -> RatchetError:
        host = self.connection.route.host
        if self._signal:
            return Interrupted(
                self._signal,
                detail=f"The run {self.run.run_id} was not begun on {host}. Nothing was changed.",
                hint="Run it again.",
            )
        reason = f"It printed: {output}" if output else "The connection was lost before the request arrived."
        return Unreachable(
            f"the run {self.run.run_id} was not begun on {host}",
            detail=f"Nothing was changed. {reason}",
            hint="Run again.",
        )

    def _finished_before(self, signal: KeyboardInterrupt) -> Interrupted:
        applied = f" {self._were_applied()}." if self.applied else ""
        return Interrupted(
            signal,
            detail=f"The run {self.run.run_id} on {self.connection.route.host} finished before it could be cancelled."
            f"{applied}",
            hint=f"`{self._task('attach')}` shows its result again.",
        )

    def _settle(self) -> events.Stream:
        """The run ended without a message: its rows in the history show what it applied."""
        if not isinstance(self.target, Target):
            return self._end(self._out_of_sight())
        try:
            rows = client.ask(self.target, SettleRun(self.run.run_id, self.run.names))
        except RatchetError:
            return self._end(self._out_of_sight())
        for row in rows:
            name = file_name_of_row(row.name)
            if row.executed_at and name not in self.applied:
                self.applied.append(name)
                yield events.MigrationApplied(name, row.duration_ms or 0)
        return self._end(
            MigrationFailed(
                f"the process of the run {self.run.run_id} on {self.connection.route.host} ended without a result",
                detail=f"It was killed, or the host was restarted. The history shows: {self._were_applied()}.",
                hint="Run again: the next run continues where this one ended.",
            )
        )

    def _take_signal(self, signal: KeyboardInterrupt) -> None:
        """A signal cancels a run that was started here, except the hang-up of a terminal: then the run continues."""
        if isinstance(signal, HungUp) or self._signal or not self._started_here:
            verb = "may continue" if self._signal or not self._has_begun else "continues"
            raise Interrupted(
                signal,
                detail=f"The run {self.run.run_id} {verb} on {self.connection.route.host}.",
                hint=f"`{self._task('attach')}` follows it; `{self._task('cancel')}` cancels it.",
            ) from None
        self._signal = signal
