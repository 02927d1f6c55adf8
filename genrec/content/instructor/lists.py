"""Files of lists written by hand, as sentences.txt and works.txt: an entry a line, below the name of its list."""

from __future__ import annotations

from importlib.resources import files


def written_lists(file: str) -> dict[str, list[str]]:
    """The entries of a file of this package by the list that they stand in (``== name``); ``#`` begins a remark."""
    found: dict[str, list[str]] = {}
    name = ""
    for line in files(__package__).joinpath(file).read_text(encoding="utf-8").splitlines():
        if line.startswith("== "):
            name = line[3:]
        elif line and not line.startswith("#"):
            found.setdefault(name, []).append(line)
    return found
