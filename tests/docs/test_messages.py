"""The errors are in plain English. `python -m tests.docs.messages` prints all of them to be read."""

from __future__ import annotations

import re

from tests.docs.messages import Entry, catalogue

_METAPHORS = re.compile(
    r"\b(told to|in the way|what it came to|was cut|broken off|of what|of that which|somebody|someone|comes along|"
    r"stands for|on the way|has not what|is for you to say|as it was|with those who|make sure where|no one|must not be "
    r"wondered|for known|goes on from there|tells\b(?! )|whatever it)\b",
    re.IGNORECASE,
)
_LONGEST_SENTENCE = 32
"""Words. The average is far below."""


def _sentences(entry: Entry) -> list[str]:
    """The sentences of an error; what is filled in counts as one word."""
    texts = [re.sub(r"<[^<>]*(?:<[^<>]*>[^<>]*)*>", "X", text) for text in (entry.message, entry.detail, entry.hint)]
    return [sentence for text in texts for sentence in re.split(r"(?<=[.:;?])\s+|\n", text) if sentence.strip()]


def test_the_catalogue_has_every_exit_code() -> None:
    assert {2, 4, 5, 6, 7, 8, 9, 10, 130} <= {entry.exit_code for entry in catalogue()}


def test_no_error_speaks_in_metaphors_or_riddles() -> None:
    found = [f"{entry.where}: {s}" for entry in catalogue() for s in _sentences(entry) if _METAPHORS.search(s)]
    assert not found, "\n" + "\n".join(found)


def test_sentences_of_errors_are_short() -> None:
    long = [f"{e.where}: {s}" for e in catalogue() for s in _sentences(e) if len(s.split()) > _LONGEST_SENTENCE]
    assert not long, "\n" + "\n".join(long)


def test_each_error_says_what_to_do() -> None:
    silent = [str(entry) for entry in catalogue() if not entry.hint]
    assert not silent, "\n" + "\n".join(silent)
