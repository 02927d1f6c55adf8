"""Request and reply models of instructions and media.

(No ``from __future__ import annotations`` here: FastAPI reads these annotations at run time.)
"""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from genrec.config import ServeSettings
from genrec.content.contracts import Action
from genrec.recommendation import Recommendation
from serve.models import DEFAULT_K, MAX_ID_LENGTH, ItemId, SessionId, StoredId, WholeNumber


class InstructionBody(BaseModel):
    """What a user says or shows."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    text: str = Field("", pattern=r"^[^\x00]*$", description="the words; may be empty beside a picture")
    picture: str | None = Field(None, description="an example: a PNG or JPEG file in base64")
    session_id: SessionId | None = Field(None, description="goes on with a dialogue; none: a new one begins")
    user_id: StoredId | None = Field(None, description="raw id of the user")
    history: list[ItemId] | None = Field(None, description="raw item ids, oldest first, in place of the user's own")
    k: WholeNumber = Field(DEFAULT_K, ge=1, description="length of the list")
    list_id: StoredId | None = Field(None, description="the list before the user; none: the session's newest")


class Slots(BaseModel):
    """What the instruction asks for, as far as it says so."""

    target: str | None
    source_item: str | None = Field(description="id of the item or asset to edit")
    operation: str | None
    style: str | None
    medium: str | None
    constraints: list[str]
    negatives: list[str]


class DecisionReply(BaseModel):
    """What was decided, and why."""

    action: Action
    probabilities: dict[Action, float]
    slots: Slots
    sufficiency: float = Field(description="probability that the catalog holds an item that satisfies")
    question: str | None = Field(description="what to ask the user back, where the action is clarify")
    trace: list[str] = Field(description="the reasons, a sentence each")


class MediaEntry(BaseModel):
    """A file that was made."""

    asset_id: str
    title: str
    url: str = Field(description="where it is, with the same key")
    provenance_url: str
    media_type: str
    width: int
    height: int


class InstructionReply(BaseModel):
    """What came of an instruction."""

    instruction_id: str
    session_id: str
    request_id: str
    decision: DecisionReply
    items: list[Recommendation] = Field(description="what was made, then what the catalog has; best first")
    list_id: str | None = Field(description="names the list for feedback; none where there is no list")
    media: list[MediaEntry]
    refused: list[dict[str, Any]] = Field(description="fidelity reports of drafts that did not pass and are not shown")
    note: str | None = Field(
        description="why nothing was made, where something was to be; the list stands all the same"
    )
    bundle_version: str | None
    sid_version: str | None


def instruction_type(limits: ServeSettings) -> Any:
    """The type of an instruction under these limits."""
    longest_picture = 4 * (limits.max_picture_bytes // 3 + 1)
    example: Any = {"text": "something calmer", "user_id": "196", "k": 5}

    class Instructed(InstructionBody):
        """What a user says or shows; a history takes the place of the user's own."""

        model_config = ConfigDict(json_schema_extra={"example": example})

        text: str = Field(
            "",
            max_length=limits.max_text,
            pattern=r"^[^\x00]*$",
            description="the words; may be empty beside a picture",
        )
        picture: Annotated[str, Field(max_length=longest_picture)] | None = Field(
            None, description="an example: a PNG or JPEG file in base64"
        )
        user_id: Annotated[str, Field(min_length=1, max_length=MAX_ID_LENGTH, pattern=r"^[^\x00]+$")] | None = Field(
            None, description="raw id of the user"
        )
        history: Annotated[list[ItemId], Field(min_length=1, max_length=limits.max_history)] | None = Field(
            None, description="raw item ids, oldest first, in place of the user's own"
        )
        k: WholeNumber = Field(min(DEFAULT_K, limits.max_k), ge=1, le=limits.max_k, description="length of the list")

    return Instructed
