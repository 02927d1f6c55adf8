"""The log of what was shown (contract 6): one JSON line a list, from the first request on.

A list that was not logged with its positions and propensities can never be learned from without bias
(counterfactual evaluation needs the probability with which the policy showed each item there), so the log
is written before the reply leaves. Lines are appended with one write each, so replicas of one machine may
share the file.
"""

import logging
import os
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from genrec.recommendation import FeedbackEvent, Source

logger = logging.getLogger(__name__)

DETERMINISTIC = 1.0
"""Propensity under beam search: the same request gets the same list."""


class ShownItem(BaseModel):
    """One place of a list."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    item_id: str
    position: int = Field(ge=0)
    propensity: float = Field(gt=0, le=1)
    score: float
    source: Source


class ShownList(BaseModel):
    """A list as it was shown, and what it was shown for."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    time: float = Field(description="Unix seconds")
    request_id: str
    user_id: str | None
    history: tuple[str, ...] | None = Field(description="the history sent along; none for a known user")
    k: int
    bundle_version: str
    sid_version: str
    items: tuple[ShownItem, ...]

    def impressions(self) -> list[FeedbackEvent]:
        """The list as contract 6's events, one impression an item."""
        shown = tuple(item.item_id for item in self.items)
        return [
            FeedbackEvent(
                event_id=f"{self.request_id}:{item.position}",
                request_id=self.request_id,
                user_id=self.user_id,
                shown=shown,
                item_id=item.item_id,
                position=item.position,
                propensity=item.propensity,
                action="impression",
                dwell_s=None,
                text=None,
                time=self.time,
            )
            for item in self.items
        ]


class ShownLog:
    """Appends to one file.

    Args:
        path: the file; its folder is made.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def append(self, shown: ShownList) -> None:
        """Write one line. A full disk must not stop serving: the loss is logged instead."""
        try:
            os.write(self._file, shown.model_dump_json().encode() + b"\n")
        except OSError as error:
            logger.error("%s: the list of request %s is not logged: %s", self.path, shown.request_id, error)

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)


def read_shown(path: Path) -> list[ShownList]:
    """Every list of a log."""
    with path.open("rb") as lines:
        return [ShownList.model_validate_json(line) for line in lines]
