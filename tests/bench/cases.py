"""The cases: what is done, by whom, against which floor, and how often. In full, and in a quick form."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tests.bench.tools import BareQuery, BareSend, Files, PsqlByFile, PsqlOneFile, Tool, inserts, mixed, tables

Act = Literal["migrate", "again", "status"]


@dataclass(frozen=True, slots=True)
class Case:
    """One comparison. A peer is ended, and left out of later rounds, when it takes `patience` times the floor."""

    name: str
    title: str
    files: Files
    floor: Tool
    rounds: int
    act: Act = "migrate"
    peers: bool = True
    delayed: bool = False
    patience: float = 20


@dataclass(frozen=True, slots=True)
class Growth:
    """What a file costs of a run, less what a run costs that finds nothing to do, as the number of files grows."""

    name: str
    title: str
    counts: tuple[int, ...]
    rounds: int


@dataclass(frozen=True, slots=True)
class Memory:
    """Our peak on one large input."""

    name: str
    title: str
    files: Files


@dataclass(frozen=True, slots=True)
class Dump:
    """Backups of a database of that size, beside bare pg_dump and pg_restore."""

    name: str
    title: str
    megabytes: int
    rounds: int


AnyCase = Case | Growth | Memory | Dump


def cases(*, quick: bool) -> list[AnyCase]:
    """All of them, in the order in which they are run and shown; the quick form leaves some out."""
    return [*_several_files(quick), *_nothing_to_do(quick), *_one_file(quick), *_backups(quick), *_ours_alone(quick)]


def _several_files(quick: bool) -> list[AnyCase]:
    psql, few, some = PsqlByFile(), tables(100), 2 if quick else 5
    small = Case("files-100", "100 files, a table and an index each", few, psql, some)
    far = Case("far", "100 files, over a line of 20 ms", few, BareSend(), 1 if quick else 3, delayed=True, patience=40)
    if quick:
        return [small, far]
    return [
        small,
        Case("files-1000", "1,000 files", tables(1_000), psql, 3),
        Case("files-5000", "5,000 files", tables(5_000), psql, 3, peers=False),
        far,
    ]


def _nothing_to_do(quick: bool) -> list[AnyCase]:
    count, rounds, bare = 200 if quick else 1_000, 5 if quick else 15, BareQuery()
    cases_list: list[AnyCase] = [
        Case("again", f"nothing to do, {count:,} applied", tables(count), bare, rounds, "again"),
        Case("status", f"status, {count:,} applied", tables(count), bare, rounds, "status"),
    ]
    if not quick:
        many = tables(10_000)
        cases_list.append(Case("again-10000", "nothing to do, 10,000 applied", many, bare, 7, "again", peers=False))
        cases_list.append(Case("status-10000", "status, 10,000 applied", many, bare, 7, "status", peers=False))
    return cases_list


def _one_file(quick: bool) -> list[AnyCase]:
    megabytes, statements, rounds = (5, 2_000, 1) if quick else (50, 20_000, 3)
    large, many = inserts(megabytes * 1_000_000), mixed(statements)
    return [
        Case("inserts", f"one file of {megabytes} MB, a row to a statement", large, PsqlOneFile(), rounds, patience=5),
        Case("statements", f"{statements:,} statements in one file", many, PsqlOneFile(), rounds),
    ]


def _backups(quick: bool) -> list[AnyCase]:
    megabytes, rounds = (100, 2) if quick else (1_100, 3)
    return [Dump("backup", f"a backup of {megabytes:,} MB, and reading it back", megabytes, rounds)]


def _ours_alone(quick: bool) -> list[AnyCase]:
    counts, rounds = ((100, 1_000), 1) if quick else ((100, 1_000, 5_000, 10_000), 3)
    megabytes = 10 if quick else 100
    return [
        Growth("growth", "a file's cost as their number grows", counts, rounds),
        Memory("memory", f"one file of {megabytes} MB, a row to a statement", inserts(megabytes * 1_000_000)),
    ]
