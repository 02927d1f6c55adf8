"""What a picture maker accepts from a stranger: one place, so that every provider refuses the same things."""

from __future__ import annotations

from genrec.errors import DataError

LONGEST_PROMPT = 2000
MOST_PICTURES = 16


def checked_prompt(prompt: str, negative: str = "") -> None:
    """Refuse empty and too long texts.

    Raises:
        DataError: names the text and the limit.
    """
    for name, text in (("prompt", prompt), ("negative", negative)):
        if len(text) > LONGEST_PROMPT:
            raise DataError(f"{name}: {len(text)} characters; write at most {LONGEST_PROMPT}")
    if not prompt.strip():
        raise DataError("prompt: empty; say what is to be seen")


def checked_count(count: int) -> None:
    """Refuse counts that nobody needs.

    Raises:
        DataError: less than 1 or more than ``MOST_PICTURES``.
    """
    if not 1 <= count <= MOST_PICTURES:
        raise DataError(f"count: {count}; make 1 to {MOST_PICTURES} pictures at once")


def checked_strength(strength: float) -> None:
    """Refuse strengths outside 0 to 1.

    Raises:
        DataError: names the value.
    """
    if not 0 <= strength <= 1:
        raise DataError(f"strength: {strength}; write 0 (leaves the picture) to 1 (keeps nothing of it)")
