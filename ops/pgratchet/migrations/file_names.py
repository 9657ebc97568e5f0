"""Names of migration files: their form, what is wrong with another name, and names made of descriptions."""

from __future__ import annotations

import re
import unicodedata

FILE_NAME = re.compile(r"(?P<version>[0-9]{1,40}(?:T[0-9]{1,20})?)_[A-Za-z0-9_.-]{1,180}\.sql")
REPEATABLE_FOLDER = "repeatable"
"""The sub-folder of the migrations folder with the repeatable migrations."""
SCHEMA_FILE = "schema.sql"
"""The file with the schema that all migrations make. It is written by `invoke snapshot`, and never run."""
_REPEATABLE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*\.sql")
_LONGEST_REPEATABLE = 100
_FLYWAY_VERSION = re.compile(r"[vu][0-9][0-9._]*__", re.IGNORECASE)
_FLYWAY_REPEATABLE = re.compile(r"r__(?P<name>.+\.sql)", re.IGNORECASE)
_DOWN = re.compile(r"\.(down|undo|rollback)\.sql$|^u[0-9][0-9._]*__.*\.sql$", re.IGNORECASE)
"""The forms by which other tools name the file that undoes a migration."""
_NAMING = (
    "Name it <version>_<name>.sql, such as 0042_add_email.sql or 20250111T093000_add_email.sql; `invoke new` does. "
    "The name has letters from A to Z, digits, underscores, hyphens and dots."
)
_PARTS = r"""(?xsi)
    (?P<before> \s*v?\s* )
    (?P<version> [0-9]+ (?: [-.:T] [0-9]+ )* Z? (?![A-Za-z0-9]) | [0-9]+ )
    (?P<name> .*? )
    (?P<suffix> \.sql\s* )
"""
"""The parts of a name that somebody may have meant as that of a migration. Compiled only for a wrong name."""
_LONGEST_NAME = 180
_LETTERS = str.maketrans(
    {"ß": "ss", "ẞ": "SS", "æ": "ae", "Æ": "AE", "œ": "oe", "Œ": "OE", "ø": "o", "Ø": "O", "ł": "l", "Ł": "L"}
    | {"đ": "d", "Đ": "D", "ð": "d", "Ð": "D", "þ": "th", "Þ": "TH", "ı": "i", "ħ": "h", "Ħ": "H"}
)
"""Latin letters that are no letter of ASCII with an accent."""


def undoes(name: str) -> bool:
    """Return whether a file has the name that another tool gives to a file that undoes a migration."""
    return bool(_DOWN.search(name))


def describe_fault(name: str) -> str:
    """Return what is wrong with the name of a file that ends in .sql, and a right name, in sentences."""
    if repeatable := _FLYWAY_REPEATABLE.fullmatch(name):
        path = f"{REPEATABLE_FOLDER}/{_right_repeatable(repeatable['name'])}"
        return f"a repeatable migration of Flyway. Move it to {path}, from where it runs when its text has changed."
    parts = re.fullmatch(_PARTS, name)
    if parts is None:
        return f"not the file name of a migration: it does not begin with a version. {_NAMING}"
    faults = ", and ".join(_faults(parts))
    better = right_name(name)
    advice = f"Rename it to {better}." if better else _NAMING
    moves_in = " `invoke adopt --from=flyway` takes over the files of Flyway." if _is_flyway(parts) else ""
    return f"not the file name of a migration: {faults}. {advice}{moves_in}"


def describe_repeatable_fault(name: str) -> str | None:
    """Return what is wrong with the name of a repeatable, in sentences; None for a right name."""
    if undoes(name):
        return "a down migration. It would run as the next step: delete it, or move it elsewhere."
    if FILE_NAME.fullmatch(name) or _FLYWAY_VERSION.match(name):
        return (
            "named like a versioned migration. Move it up into the migrations folder if it runs once, or rename it to "
            f"{_right_repeatable(re.sub('^[^_]*_+', '', name))} if it runs whenever its text has changed."
        )
    if len(name) > _LONGEST_REPEATABLE:
        return f"the name has {len(name)} characters, and the longest has {_LONGEST_REPEATABLE}. Shorten it."
    if _REPEATABLE.fullmatch(name):
        return None
    return (
        f"not the name of a repeatable migration. Rename it to {_right_repeatable(name)}. The name has letters from A "
        "to Z, digits, underscores, hyphens and dots, and ends in .sql."
    )


def _right_repeatable(name: str) -> str:
    """The name of a repeatable for a file with another name, which ends in .sql and perhaps in spaces."""
    stem = re.sub(r"[^A-Za-z0-9_.-]+", "_", _latin(name.strip()[:-4])).strip("_.-")
    return f"{stem[: _LONGEST_REPEATABLE - 4] or 'view'}.sql"


def right_name(name: str) -> str | None:
    """Return the name of a migration for a file that ends in .sql; None when its parts give none."""
    parts = re.fullmatch(_PARTS, name)
    if parts is None or "." in parts["version"]:
        return None
    version = re.sub("[-:Z]", "", parts["version"].upper())
    slug = re.sub(r"[^A-Za-z0-9_.-]+", "_", _latin(parts["name"])).strip("_.-")
    better = f"{version}_{slug[:_LONGEST_NAME]}.sql"
    return better if FILE_NAME.fullmatch(better) else None


def make_slug(description: str) -> str:
    """Return the part of a file's name behind the version, for a description or a path; empty when nothing is left."""
    return re.sub(r"[^a-z0-9]+", "_", _latin(description_of(description)).lower()).strip("_")


def description_of(text: str) -> str:
    """Return a description; of the path of an SQL file, its name without the version and the ending."""
    text = text.strip()
    if not text.lower().endswith(".sql"):
        return text
    stem = re.split(r"[/\\]", text)[-1][:-4]
    return re.sub(r"^v?[0-9]+(T[0-9]+)?[_-]+(?=.)", "", stem, flags=re.IGNORECASE)


def _latin(text: str) -> str:
    """Replace letters with accents by the plain letters, as far as there are any."""
    decomposed = unicodedata.normalize("NFKD", text.translate(_LETTERS))
    return "".join(character for character in decomposed if not unicodedata.combining(character))


def _is_flyway(parts: re.Match[str]) -> bool:
    return bool(parts["before"].strip()) and parts["name"].startswith("__")


def _faults(parts: re.Match[str]) -> list[str]:
    version, name, suffix = parts["version"], parts["name"], parts["suffix"]
    before, bad = parts["before"], re.search(r"[^A-Za-z0-9_.-]", unicodedata.normalize("NFC", name[1:]))
    is_version = re.fullmatch(r"[0-9]{1,40}(T[0-9]{1,20})?", version)
    faults = (
        (before, f"{before.strip() or 'a space'} is in front of the version"),
        (not is_version, f"the version {version[:60]} is neither a number nor a time such as 20250111T093000"),
        (not name.strip("_"), "no name follows the version"),
        (name.strip("_") and name[0] != "_", f"{_spell(name[:1])} follows the version, and not an underscore"),
        (bad, f"it has {_spell(bad.group() if bad else '')}"),
        (len(name) > _LONGEST_NAME, f"it has more than {_LONGEST_NAME} characters behind the version"),
        (suffix.strip() != ".sql", f"it ends in {suffix.strip()} and not in .sql"),
        (suffix != suffix.strip(), "a space follows .sql"),
    )
    return [fault for is_so, fault in faults if is_so]


def _spell(character: str) -> str:
    """Return a character as a sentence names it."""
    names = {" ": "a space", "-": "a hyphen", ".": "a dot", "\n": "a line end", "\t": "a tab"}
    if character in names:
        return names[character]
    if character.isascii() and character.isalnum():
        return f"the letter {character}"
    code = "" if character.isascii() and character.isprintable() else "".join(f" (U+{ord(c):04X})" for c in character)
    return f"the character{f' {character}' if character.isprintable() else ''}{code}"
