"""A list as it was shown (contract 6): what was asked, by which bundle it was answered, item by item.

A list that was not logged with its positions and propensities can never be learned from without bias
(counterfactual evaluation needs the probability with which the policy showed each item there), so it goes
to the store before the reply leaves.
"""

from pydantic import BaseModel, ConfigDict, Field

from genrec.recommendation import FeedbackEvent, Source

DETERMINISTIC = 1.0
"""Propensity under beam search: the same request gets the same list. A varied list (``diversity``) has those of its
draw, each given the places before it."""


class ShownItem(BaseModel):
    """One place of a list."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    item_id: str
    position: int = Field(ge=0)
    propensity: float | None = Field(gt=0, le=1, description="none where the policy defines none")
    score: float
    source: Source


class ShownList(BaseModel):
    """A list as it was shown, and what it was shown for."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    list_id: str = Field(description="made by the endpoint, unique; feedback names the list by it")
    request_id: str = Field(description="of the HTTP request; a client may send its own, even twice")
    time: float = Field(description="Unix seconds")
    user_id: str | None
    history: tuple[str, ...] | None = Field(description="the history sent along; none for a known user")
    recent: tuple[str, ...] = Field((), description="items of earlier feedback that extended the user's history")
    k: int
    bundle_version: str
    sid_version: str
    items: tuple[ShownItem, ...]

    def impressions(self) -> list[FeedbackEvent]:
        """The list as contract 6's events, one impression an item whose propensity is defined."""
        shown = tuple(item.item_id for item in self.items)
        return [
            FeedbackEvent(
                event_id=f"{self.list_id}:{item.position}",
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
            if item.propensity is not None
        ]
