"""Words made comparable: what people write to get past a list of words is undone first."""

from __future__ import annotations

import re
import unicodedata

LEET = str.maketrans(
    {"0": "o", "1": "i", "3": "e", "4": "a", "5": "s", "7": "t", "@": "a", "$": "s", "!": "i", "|": "l"}
)
LOOKALIKES = str.maketrans("аеорсухіјѕԁɡвкмнтοαεικνρτυβ", "aeopcyxijsdgbkmhtoaeiknptub")
"""Cyrillic and Greek letters that look like Latin ones."""
_SPELLED = re.compile(r"\b(?:[a-z][ .\-_*]){3,}[a-z]\b")
_INVISIBLE = re.compile(r"[\u00ad\u200b-\u200f\u2060\ufeff]")


def plain(text: str) -> str:
    """Lower case, no accents, look-alike letters as Latin, spelt-out words joined, single spaces."""
    text = unicodedata.normalize("NFKD", _INVISIBLE.sub("", text))
    text = "".join(letter for letter in text if not unicodedata.combining(letter)).lower().translate(LOOKALIKES)
    text = text.replace("\u2019", "'").replace("\u2018", "'")
    text = _SPELLED.sub(lambda match: re.sub(r"[ .\-_*]", "", match.group()), text)
    return re.sub(r"\s+", " ", text).strip()


def readings(text: str) -> tuple[str, ...]:
    """The plain text, and what it says once figures inside words are read as letters (b0mb)."""
    first = plain(text)
    words = [word.translate(LEET) if re.search(r"[a-z]", word) else word for word in first.split(" ")]
    second = " ".join(words)
    return (first,) if second == first else (first, second)


def squeezed(text: str) -> str:
    """Letters and figures alone, doubled letters once: what is left of a name however it is spelt."""
    kept = re.sub(r"[^a-z0-9]", "", plain(text))
    return re.sub(r"(.)\1+", r"\1", kept)
