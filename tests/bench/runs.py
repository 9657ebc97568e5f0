"""Running the cases: each round all contestants in turn, each on a database of its own, outside of the timing.

Owns the order, the folders and the proof that a run did its work: a tool that ended well and left less than the
files say has failed. A peer that fails, or takes too long, is not run again in that case; where a floor or we
ourselves do, nothing can be compared, and the benchmark ends.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from tests.bench import delay, dumps
from tests.bench.cases import Act, AnyCase, Case, Dump, Growth, Memory
from tests.bench.measure import Command, Measured, measure
from tests.bench.peers import Peer
from tests.bench.results import MEGABYTE, Row, Table, number, spread
from tests.bench.server import BenchDatabase, BenchServer
from tests.bench.tools import BareQuery, Files, Ours, Tool, tables

_PATIENCE = 1_200.0
"""Seconds for what no floor's time bounds: what takes longer hangs."""
_LEAST_PATIENCE = 10.0
"""Seconds that a peer has where the floor is short."""


class FailedError(Exception):
    """A contestant did not do its work; says which and how."""


@dataclass(slots=True)
class _Entry:
    """A contestant in one case: its times by round, its highest peak, and why it is out, where it is."""

    tool: Tool
    seconds: dict[int, float] = field(default_factory=dict)
    peak: int = 0
    remark: str = ""

    def row(self, floor: _Entry) -> Row:
        ratios = [seconds / floor.seconds[turn] for turn, seconds in self.seconds.items()]
        return Row(self.tool.name, self.tool.version, ratios, self.peak, self.remark, isinstance(self.tool, Ours))


@dataclass(slots=True)
class Bench:
    """A server, a folder to work in, and the peers that take part. `bare_peak`: see `warm`."""

    server: BenchServer
    folder: Path
    peers: Sequence[Tool]
    bare_peak: int = 0
    _laid_out: dict[tuple[str, str], Path] = field(default_factory=dict)
    _applied: dict[tuple[str, str], BenchDatabase] = field(default_factory=dict)

    def warm(self) -> list[str]:
        """Run everyone once on one file, so that byte code and caches are there; and learn the bare task's peak.

        Returns what is wrong with the peers that do not work here, and leaves those out.
        """
        self._try(Ours())
        wrong = {peer: self._mistake(peer) for peer in self.peers}
        self.peers = [peer for peer in self.peers if not wrong[peer]]
        bare, files = BareQuery(), tables(1)
        command = self._command(bare, files, self._database_with(bare, files), "again")
        self.bare_peak = int(median(self._run(command, bare, _PATIENCE).peak for _ in range(3)))
        return [mistake for mistake in wrong.values() if mistake]

    def run(self, case: AnyCase) -> Table:
        if isinstance(case, Growth):
            return self._growth(case)
        if isinstance(case, Memory):
            return self._memory(case)
        if isinstance(case, Dump):
            return dumps.compare(case, self.server, self.folder, lambda command: self._run(command, Ours(), _PATIENCE))
        return self._compare(case)

    def _try(self, tool: Tool) -> None:
        with self._migrated(tool, tables(1), _PATIENCE) as (_, database):
            self._run(self._command(tool, tables(1), database, "status"), tool, _PATIENCE)

    def _mistake(self, peer: Tool) -> str:
        try:
            self._try(peer)
        except FailedError as error:
            return str(error)
        return ""

    def _compare(self, case: Case) -> Table:
        entries = [_Entry(tool) for tool in (case.floor, Ours(), *(self.peers if case.peers else ()))]
        for turn in range(case.rounds):
            for entry in entries:
                if not entry.remark:
                    self._take_turn(case, entry, turn, entries[0])
        self._forget(case.files)
        rows = [entry.row(entries[0]) for entry in entries]
        return Table(case.name, case.title, f"time, to that of {case.floor.name}", rows, _fastest(entries))

    def _take_turn(self, case: Case, entry: _Entry, turn: int, floor: _Entry) -> None:
        bound = _PATIENCE
        if isinstance(entry.tool, Peer):
            bound = max(floor.seconds[turn] * case.patience, _LEAST_PATIENCE)
        try:
            done = self._once(case, entry.tool, bound)
        except FailedError as error:
            if not isinstance(entry.tool, Peer):
                raise
            entry.remark = str(error)
            return
        if done.late:
            entry.remark = f"more than {number(bound / floor.seconds[turn])}"
            return
        entry.seconds[turn] = done.seconds
        entry.peak = max(entry.peak, done.peak)

    def _once(self, case: Case, tool: Tool, bound: float) -> Measured:
        if case.act != "migrate":
            database = self._database_with(tool, case.files)
            return self._run(self._command(tool, case.files, database, case.act), tool, bound)
        with self._migrated(tool, case.files, bound, delayed=case.delayed) as (done, _):
            return done

    def _growth(self, case: Growth) -> Table:
        costs: dict[int, list[float]] = {count: [] for count in case.counts}
        peaks = dict.fromkeys(case.counts, 0)
        for _ in range(case.rounds):
            for count in case.counts:
                # Of few files the cost is a small difference of two times: it takes more of them.
                for _ in range(max(1, 500 // count)):
                    cost, peak = self._cost(count)
                    costs[count].append(cost)
                    peaks[count] = max(peaks[count], peak)
        first = median(costs[case.counts[0]])
        rows = [
            Row(f"{count:,} files", Ours.version, [cost / first for cost in costs[count]], peaks[count], ours=True)
            for count in case.counts
        ]
        measured = f"time a file, to that at {case.counts[0]}"
        return Table(case.name, case.title, measured, rows, [self._above(rows[-1])])

    def _cost(self, count: int) -> tuple[float, int]:
        """Seconds that a file takes beyond what a run takes that finds nothing to do; and the run's peak."""
        tool, files = Ours(), tables(count)
        with self._migrated(tool, files, _PATIENCE) as (done, database):
            nothing = self._run(self._command(tool, files, database, "again"), tool, _PATIENCE)
        return (done.seconds - nothing.seconds) / count, done.peak

    def _memory(self, case: Memory) -> Table:
        with self._migrated(Ours(), case.files, _PATIENCE) as (done, _):
            row = Row(Ours.name, Ours.version, peak=done.peak, ours=True)
        self._forget(case.files)
        return Table(case.name, case.title, "peak memory", [row], [self._above(row)])

    def _above(self, row: Row) -> str:
        above, bare = (row.peak - self.bare_peak) / MEGABYTE, self.bare_peak / MEGABYTE
        return f"{row.tool}: {above:.1f} MB above the bare task's {bare:.1f} MB"

    @contextmanager
    def _migrated(
        self, tool: Tool, files: Files, bound: float, *, delayed: bool = False
    ) -> Iterator[tuple[Measured, BenchDatabase]]:
        """How the tool migrated a fresh database, and that database, for the block; FailedError where it did not."""
        database = self.server.create()
        try:
            with _way(database, delayed) as way:
                done = self._run(self._command(tool, files, way, "migrate"), tool, bound)
            if not done.late:
                _prove(tool, files, database)
            yield done, database
        finally:
            self.server.drop(database.name)

    def _database_with(self, tool: Tool, files: Files) -> BenchDatabase:
        """A database with the files applied by the tool; made once, since what is then run changes nothing in it."""
        key = (tool.name, files.name)
        if key not in self._applied:
            database = self.server.create()
            self._run(self._command(tool, files, database, "migrate"), tool, _PATIENCE)
            _prove(tool, files, database)
            self._run(self._command(tool, files, database, "again"), tool, _PATIENCE)
            self._applied[key] = database
        return self._applied[key]

    def _command(self, tool: Tool, files: Files, database: BenchDatabase, act: Act) -> Command:
        key = (tool.name, files.name)
        if key not in self._laid_out:
            folder = self.folder / f"{tool.name}-{files.name}".replace(" ", "-")
            folder.mkdir()
            tool.lay_out(folder, files)
            self._laid_out[key] = folder
        verbs = {"migrate": tool.migrate, "again": tool.again, "status": tool.status}
        return verbs[act](self._laid_out[key], database)

    def _run(self, command: Command, tool: Tool, bound: float) -> Measured:
        done = measure(command, bound)
        if done.late and bound == _PATIENCE:
            raise FailedError(f"{tool.name} did not end")
        if done.status and not done.late:
            raise FailedError(f"{tool.name} failed: {_reason(done.output)}")
        return done

    def _forget(self, files: Files) -> None:
        """Delete what was laid out of a large file."""
        for key in [key for key in self._laid_out if key[1] == files.name and files.count == 1]:
            shutil.rmtree(self._laid_out.pop(key))


@contextmanager
def _way(database: BenchDatabase, delayed: bool) -> Iterator[BenchDatabase]:
    if not delayed:
        yield database
        return
    with delay.line(database.host, database.port) as port:
        yield database.by(port)


def _prove(tool: Tool, files: Files, database: BenchDatabase) -> None:
    if (number := database.number(files.proof)) != files.proven:
        raise FailedError(f"{tool.name} ended well, but did {number} of {files.proven}")


def _fastest(entries: Sequence[_Entry]) -> list[str]:
    """How we stand to the fastest of the peers that did it."""
    floor, ours, *peers = entries
    ranked = sorted((median(peer.row(floor).ratios), n) for n, peer in enumerate(peers) if peer.seconds)
    if not ranked:
        return []
    best = peers[ranked[0][1]]
    ratios = [ours.seconds[turn] / seconds for turn, seconds in best.seconds.items()]
    return [f"{ours.tool.name} to {best.tool.name}, the fastest peer: {number(median(ratios))} ({spread(ratios)})"]


def _reason(output: str) -> str:
    """The line of a tool's output that most likely says why it failed: the last that speaks of an error."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    telling = [line for line in lines if "error" in line.lower()]
    return next(reversed(telling or lines), "it said nothing")[:80]
