"""The red-team sets, and what is clean.

Written by hand, one JSON line a case (``redteam/``); each has a half: ``dev`` may be looked at while rules are made and
heads are trained, ``test`` is only ever reported. Clean are the prompts of ``clean_prompts.jsonl`` and the titles of
real catalogs; a title's half follows from its hash.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

from genrec.errors import DataError

Half = Literal["dev", "test"]


def cases(name: str, half: Half | None = None) -> list[dict[str, Any]]:
    """Cases of one set; all, or one half."""
    text = (files(__package__) / "redteam" / f"{name}.jsonl").read_text(encoding="utf-8")
    rows: list[dict[str, Any]] = [json.loads(line) for line in text.splitlines() if line]
    return rows if half is None else [row for row in rows if row["half"] == half]


def half_of(text: str) -> Half:
    """The half that a text of a catalog belongs to, by its hash."""
    return "dev" if hashlib.sha256(text.encode()).digest()[0] % 2 == 0 else "test"


def movie_titles() -> list[str]:
    """Titles of MovieLens-100K, from the package that carries them; empty where it is not installed."""
    from genrec.data.readers.movielens import packaged_ml_100k

    try:
        folder = packaged_ml_100k()
    except DataError:
        return []
    lines = (folder / "ml-100k.item").read_text(encoding="utf-8").splitlines()[1:]
    return sorted({line.split("\t")[1] for line in lines})


def beauty_titles(path: Path | None, most: int = 3000) -> list[str]:
    """Titles of Amazon Beauty's research form below ``path``; empty where it is not there."""
    if path is None or not (path / "items.jsonl").is_file():
        return []
    found = []
    with (path / "items.jsonl").open(encoding="utf-8") as stream:
        for line in stream:
            title = json.loads(line).get("title")
            if title:
                found.append(str(title))
            if len(found) >= most:
                break
    return found


def of_half(texts: Sequence[str], half: Half) -> list[str]:
    """Those of a half."""
    return [text for text in texts if half_of(text) == half]
