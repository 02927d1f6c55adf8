"""Contract 6: what is recommended and what comes back. Both are logged from the first request."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Source = Literal["generated-id", "retrieved", "edited", "created"]


class Recommendation(BaseModel):
    """One entry of a recommended list."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    item_id: str = Field(description="raw item id of the catalog, or the id of a generated asset")
    title: str
    score: float = Field(description="log-probability; of several tables' lists (average), their score")
    source: Source = "generated-id"
    evidence: dict[str, Any] = Field(default_factory=dict, description="semantic ID, history items leaned on, ...")
    fidelity: dict[str, Any] | None = Field(None, description="report of the checks; always set for edited or created")


class FeedbackEvent(BaseModel):
    """What a user did with a list that was shown."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    event_id: str
    request_id: str
    user_id: str | None = None
    shown: tuple[str, ...] = Field(description="the whole list, in the order shown")
    item_id: str
    position: int = Field(ge=0, description="0-based position of the item in the list")
    propensity: float = Field(gt=0, le=1, description="probability with which the policy showed it there")
    action: Literal["impression", "click", "like", "skip", "dislike", "purchase", "consume"]
    dwell_s: float | None = Field(None, ge=0)
    text: str | None = Field(None, max_length=2000)
    time: float = Field(description="Unix seconds")
