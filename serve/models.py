"""What goes over the wire: request and reply models of /v1, with a limit on every size.

The limits come from ``settings.serve``, so the published OpenAPI schema states the very limits that the
endpoint enforces. A request names a known user or sends a history, never both: two models told apart by
which field is there, so that an error speaks of the one that was meant.

(No ``from __future__ import annotations`` here: FastAPI reads these annotations at run time.)
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, Tag

from genrec.config import ServeSettings
from genrec.finding import NO_FILTER, Filter
from genrec.recommendation import Recommendation
from genrec.recommender import RecommendRequest
from serve.store import Event, Kind

MAX_ID_LENGTH = 256
DEFAULT_K = 10
MAX_QUERY = 200
MAX_CATEGORIES = 20
CATALOG = r"^[a-z0-9][a-z0-9-]{0,31}$"


def _whole(value: Any) -> Any:
    """JSON Schema counts 10.0 as an integer, and so do we; nothing else is coerced."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


WholeNumber = Annotated[int, BeforeValidator(_whole)]
ItemId = Annotated[str, Field(min_length=1, max_length=MAX_ID_LENGTH)]
StoredId = Annotated[str, Field(min_length=1, max_length=MAX_ID_LENGTH, pattern=r"^[^\x00]+$")]
"""An id as databases take it: PostgreSQL has no character NUL."""
# Limits beside a None belong inside: outside of it the published schema would leave them out.
Position = Annotated[int, Field(ge=0, lt=2**31), BeforeValidator(_whole)]
Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
CatalogName = Annotated[str, Field(pattern=CATALOG, description="a catalog of serve.catalogs; none: the run's own")]
Words = Annotated[str, Field(max_length=MAX_QUERY)]
SESSION = r"^[A-Za-z0-9_-]{8,64}$"
SessionId = Annotated[str, Field(pattern=SESSION)]


class Filters(BaseModel):
    """Which items may be listed; each one given must hold."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    title: Words = Field("", description="words that all stand somewhere in an item's title, in any case of letters")
    categories: list[ItemId] = Field([], max_length=MAX_CATEGORIES, description="genres: an item is of at least one")
    items: list[ItemId] | None = Field(None, description="item ids, the only ones allowed")

    def to_filter(self) -> Filter:
        """The same as the recommender takes it."""
        return Filter(self.title, tuple(self.categories), None if self.items is None else tuple(self.items))


class RecommendBody(BaseModel):
    """What both kinds of request share."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    k: WholeNumber = Field(DEFAULT_K, ge=1, description="length of the list")
    exclude: list[ItemId] = Field([], description="item ids not to list, besides those of the history")
    filters: Filters | None = None
    diversity: Share = 0.0
    catalog: CatalogName | None = None
    session_id: SessionId | None = Field(None, description="of instructions: what was made there is tried in the list")

    def to_request(self) -> RecommendRequest:
        """The same request as the recommender takes it."""
        history = getattr(self, "history", None)
        return RecommendRequest(
            user_id=getattr(self, "user_id", None),
            history=None if history is None else tuple(history),
            k=self.k,
            exclude=tuple(self.exclude),
            where=NO_FILTER if self.filters is None else self.filters.to_filter(),
            diversity=self.diversity,
        )


class Shown(BaseModel):
    """The list to show, best first."""

    list_id: str = Field(description="names this list; send it along with feedback")
    request_id: str = Field(description="of this request, as in the X-Request-ID header and the logs")
    bundle_version: str = Field(description="version of the bundle that answered")
    sid_version: str = Field(description="version of the semantic IDs")
    items: list[Recommendation]


class FeedbackEntry(BaseModel):
    """What a user did with an item, on a list or elsewhere."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    event_id: StoredId = Field(description="chosen by the client, a UUID at best; sent again, it is stored once")
    user_id: StoredId = Field(description="raw id; a user whom the bundle does not know gets a history by this")
    item_id: StoredId = Field(description="raw item id; kept even if the loaded catalog lacks it")
    kind: Kind = Field(description="like and consume add the item to the user's history, from the next list on")
    list_id: StoredId | None = Field(None, description="the list it was done on")
    position: Position | None = Field(None, description="0-based place of the item in that list")
    time: Seconds | None = Field(None, description="Unix seconds, when it was done; none or later than now: now")

    def event(self, now: float) -> Event:
        """The same as the store takes it, received ``now`` (Unix seconds)."""
        done = now if self.time is None else min(self.time, now)
        return Event(**{**self.model_dump(), "time": done, "received": now})


class FeedbackReply(BaseModel):
    """All events of the batch are stored, durably."""

    stored: int = Field(description="events that were new")
    duplicates: int = Field(description="events whose ids were stored before, left as they were")


class FoundItem(BaseModel):
    """An item that a search found."""

    item_id: str
    title: str
    categories: list[str]


class FoundItems(BaseModel):
    """What a search found, best first."""

    items: list[FoundItem]


class KnownUser(BaseModel):
    """A user of the loaded bundle."""

    user_id: str
    history: int = Field(description="items of their known history")
    latest: list[str] = Field(description="titles of the newest of them, newest first")


class KnownUsers(BaseModel):
    """Users of the loaded bundle."""

    users: list[KnownUser]


class ExplainBody(BaseModel):
    """What every request of an explanation holds."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    item_id: ItemId = Field(description="the item whose recommendation is to be explained")
    catalog: CatalogName | None = None

    def to_request(self) -> RecommendRequest:
        """Whose list is meant, as the recommender takes it."""
        history = getattr(self, "history", None)
        user = getattr(self, "user_id", None)
        return RecommendRequest(user, None if history is None else tuple(history), 1)


class HistoryInfluence(BaseModel):
    """What an item of the history does for the recommendation."""

    item_id: str
    title: str
    influence: float | None = Field(
        description="log-probability of the explained item minus that without this item in the history; none where the "
        "history holds nothing else"
    )


class RetrievedUser(BaseModel):
    """A user like this one, whose own items vote."""

    user_id: str
    path: str = Field(description="how they were found: text, collaborative, or neighbours (all paths together)")
    weight: float = Field(description="what their word weighs, relative to the nearest")
    vote: float = Field(description="their vote for the item; 0: they do not have it")


class Explanation(BaseModel):
    """What a recommendation leans on, measured by leaving things out."""

    item_id: str
    title: str
    score: float = Field(description="log-probability of the item after this history")
    history: list[HistoryInfluence] = Field(description="the items that the model sees, strongest influence first")
    sources: dict[str, float] = Field(description="share of the probability by source, the generator among them")
    retrieved_users: list[RetrievedUser] = Field(description="strongest vote first")
    bundle_version: str
    sid_version: str


class Item(BaseModel):
    """An item of the catalog."""

    item_id: str
    title: str
    text: str = Field(description="what the text encoder read")
    categories: list[str] = Field(description="outermost first")
    semantic_id: list[int] = Field(description="one code a level")
    sid_version: str


class ModelCard(BaseModel):
    """What is loaded, what it was measured to do, and where its limits are."""

    bundle_version: str
    sid_version: str
    items: int = Field(description="size of the catalog")
    users: int = Field(description="users whose history is known")
    levels: list[int] = Field(description="codes of each level of a semantic ID")
    max_history: int = Field(description="items of a history that the model sees; older ones are left out")
    card: dict[str, Any] = Field(description="the bundle's model card, with the rows of its metrics")


class Health(BaseModel):
    """Ready to answer."""

    status: Literal["ready", "busy"] = Field(description="busy: the queue is full at this moment")
    bundle_version: str
    sid_version: str


class ErrorDetail(BaseModel):
    """What was wrong and how to mend it."""

    code: str = Field(examples=["unknown_item"])
    field: str | None = Field(description="the field of the request it is about", examples=["history"])
    message: str


class ErrorReply(BaseModel):
    """The one shape of every error."""

    error: ErrorDetail


def request_type(limits: ServeSettings) -> Any:
    """The type of a recommendation request under these limits: by user, or by history."""
    length = Field(min(DEFAULT_K, limits.max_k), ge=1, le=limits.max_k, description="length of the list")
    left_out: Any = Field([], max_length=limits.max_exclude, description="item ids not to list")
    varied: Any = Field(
        0.0,
        description="0: the most probable items. Up to 1: drawn from more candidates, and less alike; the probability "
        "of each draw stands in the entry's evidence and in the log",
    )

    class BoundedFilters(Filters):
        """Which items may be listed; each one given must hold."""

        items: Annotated[list[ItemId], Field(min_length=1, max_length=limits.max_filter_items)] | None = Field(
            None, description="item ids, the only ones allowed"
        )

    class ForUser(RecommendBody):
        """A list for a user whose history is known."""

        model_config = ConfigDict(json_schema_extra={"example": {"user_id": "196", "k": 5}})

        user_id: str = Field(min_length=1, max_length=MAX_ID_LENGTH, description="raw id of a known user")
        k: WholeNumber = length
        exclude: list[ItemId] = left_out
        filters: BoundedFilters | None = None
        diversity: Share = varied

    class ForHistory(RecommendBody):
        """A list for a history that is sent along; nothing about its owner is kept but what the log shows."""

        model_config = ConfigDict(json_schema_extra={"example": {"history": ["50", "172"], "k": 5, "exclude": ["181"]}})

        history: list[ItemId] = Field(
            min_length=1, max_length=limits.max_history, description="raw item ids, oldest first"
        )
        k: WholeNumber = length
        exclude: list[ItemId] = left_out
        filters: BoundedFilters | None = None
        diversity: Share = varied

    return Annotated[Annotated[ForUser, Tag("user")] | Annotated[ForHistory, Tag("history")], Discriminator(_kind)]


def explain_type(limits: ServeSettings) -> Any:
    """The type of a request for an explanation: by user, or by history."""

    class ExplainForUser(ExplainBody):
        """Of a list for a known user."""

        model_config = ConfigDict(json_schema_extra={"example": {"user_id": "196", "item_id": "50"}})

        user_id: str = Field(min_length=1, max_length=MAX_ID_LENGTH, description="raw id of a known user")

    class ExplainForHistory(ExplainBody):
        """Of a list for a history that is sent along."""

        model_config = ConfigDict(json_schema_extra={"example": {"history": ["50", "172"], "item_id": "181"}})

        history: list[ItemId] = Field(
            min_length=1, max_length=limits.max_history, description="raw item ids, oldest first"
        )

    return Annotated[
        Annotated[ExplainForUser, Tag("user")] | Annotated[ExplainForHistory, Tag("history")], Discriminator(_kind)
    ]


def _kind(body: Any) -> str:
    sent = body if isinstance(body, dict) else vars(body) if isinstance(body, RecommendBody | ExplainBody) else {}
    return "history" if "history" in sent else "user"


def feedback_type(limits: ServeSettings) -> Any:
    """The type of a batch of feedback under these limits."""
    entry: Any = {"event_id": "5f0c...", "user_id": "196", "item_id": "50", "kind": "like"}

    class FeedbackBatch(BaseModel):
        """Events in the order in which they happened."""

        model_config = ConfigDict(
            extra="forbid", strict=True, frozen=True, json_schema_extra={"example": {"events": [entry]}}
        )

        events: list[FeedbackEntry] = Field(min_length=1, max_length=limits.max_feedback)

    return FeedbackBatch
