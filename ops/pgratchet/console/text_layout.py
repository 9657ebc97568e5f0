"""Lays texts out in the columns of a terminal: lines broken between words, lines of files with a caret."""

from __future__ import annotations


def cell_width(text: str) -> int:
    """Return the number of columns that a terminal shows a text in: two for a wide character, none for an accent."""
    if text.isascii():
        return len(text)
    from rich.cells import cell_len

    return cell_len(text)


def wrap(text: str, width: int, indent: str = "") -> str:
    """Break the lines of a text between words, so that each has at most `width` columns where the words allow it.

    Every line after the first begins with `indent`, besides the spaces that a line of the text begins with. Commands in
    backticks stay whole if they fit on a line.
    """
    lines: list[str] = []
    for line in text.split("\n"):
        if cell_width(line) + (len(indent) if lines else 0) <= width:
            lines.append((indent if lines else "") + line)
            continue
        own = line[: len(line) - len(line.lstrip(" "))]
        current = own if not lines else indent + own
        is_empty = True
        for word in _words(line, width - len(indent + own)):
            if not is_empty and cell_width(current) + 1 + cell_width(word) > width:
                lines.append(current)
                current, is_empty = indent + own, True
            current, is_empty = current + ("" if is_empty else " ") + word, False
        lines.append(current)
    return "\n".join(lines)


def _words(line: str, width: int) -> list[str]:
    """The words of a line; a command in backticks is one word unless it is longer than `width`."""
    words: list[str] = []
    for index, part in enumerate(line.split("`")):
        pieces = [f"`{part}`"] if index % 2 and cell_width(part) + 2 <= width else part.split(" ")
        if index % 2 and len(pieces) > 1:
            pieces = [f"`{pieces[0]}", *pieces[1:-1], f"{pieces[-1]}`"]
        if words:
            words[-1] += pieces.pop(0)
        words += pieces
    return [word for word in words if word]


def format_excerpt(number: int, before: str, after: str, width: int) -> list[str]:
    """Format a line of a file and a second line with a caret below the position between `before` and `after`.

    Tabs become spaces and control characters question marks. A line that does not fit into `width` columns is cut at
    its ends, so that the position is seen.
    """
    gutter = f"{number:>5} | "
    whole = _printable(before + after).expandtabs(4)
    before = whole[: len(_printable(before).expandtabs(4))]
    after = whole[len(before) :]
    room = max(20, width - len(gutter))
    if cell_width(whole) > room:
        before = _last_cells(before, max(room // 2, room - cell_width(after)))
        after = _first_cells(after, room - cell_width(before))
    return [(gutter + before + after).rstrip(), f"{'':>5} | {' ' * cell_width(before)}^"]


def break_name(name: str, width: int) -> str:
    """Break a name of a file into lines of at most `width` columns, behind underscores where it has any."""
    lines = []
    while len(name) > width:
        cut = name.rfind("_", 0, width) + 1 or width
        lines.append(name[:cut])
        name = name[cut:]
    return "\n".join([*lines, name])


def cut_middle(text: str, width: int) -> str:
    """Cut a text to `width` columns. Most of its end is kept: names of files and tables differ there."""
    if len(text) <= width:
        return text
    start = min(4, max(0, width - 3) // 4)
    return f"{text[:start]}...{text[len(text) - max(0, width - 3 - start) :]}"


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() or c == "\t" or cell_width(c) == 0 else "?" for c in text.rstrip("\r"))


def _first_cells(text: str, cells: int) -> str:
    """The beginning of a text that fits into this number of columns, with dots where it was cut."""
    if cell_width(text) <= cells:
        return text
    while cell_width(text) > cells - 3:
        text = text[:-1]
    return text + "..."


def _last_cells(text: str, cells: int) -> str:
    return _first_cells(text[::-1], cells)[::-1]
