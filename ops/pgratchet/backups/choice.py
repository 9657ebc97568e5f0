"""Chooses a backup among the stores of several targets: by an id as a person may write it, or the newest good one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pgratchet.backups.listing import BackupEntry, inspect_backup, list_backups, newer_refused, newest_good
from pgratchet.backups.signing import TrustedKeys
from pgratchet.backups.store import PARTIAL, Store
from pgratchet.errors import BackupFailed, ConfigurationError

NEWEST = ("latest", "newest")
"""Words for the newest backup, in place of an id."""
_SHORTEST = 4
"""The number of characters of an id that are enough, where no other id begins with them."""
_SIMILAR = 0.75


@dataclass(frozen=True, slots=True)
class TargetStore:
    """The store of a target's backups, with the keys that their signatures are checked with."""

    environment: str
    target: str
    store: Store
    keys: TrustedKeys | None = None

    def __str__(self) -> str:
        return f"{self.environment}: {self.target}"


@dataclass(frozen=True, slots=True)
class Choice:
    """A chosen backup, which may be unusable when an id was given, and the index of its store.

    `skipped` are the newer backups that were not chosen because they are damaged or not signed by a trusted key.
    """

    index: int
    entry: BackupEntry
    skipped: tuple[BackupEntry, ...] = ()


def choose_newest(stores: Sequence[TargetStore]) -> Choice:
    """Choose the newest good backup of the first store that has one. Raises BackupFailed when none has."""
    skipped: list[BackupEntry] = []
    for index, each in enumerate(stores):
        entries = list_backups(each.store, each.keys)
        chosen = newest_good(entries)
        skipped += newer_refused(entries, chosen)
        if chosen:
            return Choice(index, chosen, tuple(skipped))
    raise _no_backup(stores, " that is not damaged" if skipped else "", [each.describe_fault() for each in skipped])


def choose_named(stores: Sequence[TargetStore], text: str) -> Choice:
    """Choose the backup that a text names: an id in any case, the beginning of one, or the path of its folder.

    The stores are searched in order. Raises BackupFailed when none has the backup, and ConfigurationError when the text
    names no single backup.
    """
    if not text.strip():
        raise ConfigurationError("--backup is empty", detail="It needs the id of a backup.", hint=_list_them(stores))
    if text.strip().lower() in NEWEST:
        raise _not_an_id(stores, text)
    ids = [each.store.ids() for each in stores]
    all_ids = list(dict.fromkeys(backup_id for of_store in ids for backup_id in of_store))
    backup_id = _find_id(text, all_ids)
    for index, each in enumerate(stores):
        if backup_id in ids[index]:
            return Choice(index, inspect_backup(each.store, backup_id, each.keys))
    raise _no_backup(stores, f' "{text}"', _most_similar(text, all_ids))


def find_elsewhere(stores: Iterable[TargetStore], text: str) -> TargetStore | None:
    """The first store that has the backup that a text names by its whole id."""
    name = _written_id(text)
    return next((each for each in stores if name in map(str.lower, each.store.ids())), None)


def _written_id(text: str) -> str:
    """The last part of a path, in lower case."""
    return text.strip().replace("\\", "/").rstrip("/").rpartition("/")[2].lower()


def _find_id(text: str, ids: Sequence[str]) -> str | None:
    """The id that a text names, or None. Raises ConfigurationError for the beginning of several ids."""
    name = _written_id(text)
    if equal := next((each for each in ids if each.lower() == name), None):
        return equal
    longer = [each for each in ids if each.lower().startswith(name) and not each.endswith(PARTIAL)]
    if len(name) < _SHORTEST or not longer:
        return None
    if len(longer) > 1:
        raise ConfigurationError(
            f'{len(longer)} backups have an id that begins with "{text}"',
            detail=f"They are: {', '.join(longer)}.",
            hint="Give the whole id.",
        )
    return longer[0]


def _most_similar(text: str, ids: Sequence[str]) -> list[str]:
    """A sentence that names the most similar id; none when no id is similar."""
    import difflib

    by_lower = {each.lower(): each for each in ids}
    near = difflib.get_close_matches(_written_id(text), by_lower, n=1, cutoff=_SIMILAR)
    return [f"The most similar id is {by_lower[near[0]]}."] if near else []


def _not_an_id(stores: Sequence[TargetStore], text: str) -> ConfigurationError:
    choice = choose_newest(stores)
    sentences = [entry.describe_fault() for entry in choice.skipped]
    return ConfigurationError(
        f'"{text}" is not the id of a backup',
        detail="\n".join([*sentences, "The id is needed, so that no backup is restored that you did not choose."]),
        hint=f"The newest good backup is {choice.entry.backup_id}: add --backup={choice.entry.backup_id}.",
    )


def _no_backup(stores: Sequence[TargetStore], which: str, sentences: Sequence[str]) -> BackupFailed:
    searched = f"Searched: {', '.join(map(str, stores))}."
    return BackupFailed(f"there is no backup{which}", detail="\n".join([searched, *sentences]), hint=_list_them(stores))


def _list_them(stores: Sequence[TargetStore]) -> str:
    return f"`invoke backups --env={stores[0].environment}` lists them."
