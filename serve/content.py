"""What ingress and content deployments hand one another, and the Protocol by which the routes reach them.

Between deployments items are named by their raw ids: indices mean something only beside one catalog.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from PIL import Image

from genrec.content.contracts import Decision, FidelityReport
from serve.recommender import Refusal


@dataclass(frozen=True)
class InstructionCall:
    """An instruction as it comes from a client.

    Attributes:
        text: the words.
        picture: an example, RGB.
        turns: earlier turns of the session, oldest first.
        user_id: raw id of the user; None: unknown.
        history: raw item ids sent along; None: the user's own.
        recent: raw item ids that feedback adds to the user's history.
        shown: raw ids of the list before the user; assets of ours among them.
        rejected: how many of the last events on it were a skip or dislike, in a row.
        seed: makes the same again.
    """

    text: str
    picture: Image.Image | None = None
    turns: tuple[str, ...] = ()
    user_id: str | None = None
    history: tuple[str, ...] | None = None
    recent: tuple[str, ...] = ()
    shown: tuple[str, ...] = ()
    rejected: int = 0
    seed: int = 0


@dataclass(frozen=True)
class Decided:
    """A decision, with raw ids in the place of indices.

    Attributes:
        decision: of the instructor.
        matches: items of the catalog that satisfy best, best first.
        source: the item or asset to edit.
        liked: titles of what the user took up last, oldest first.
    """

    decision: Decision
    matches: tuple[str, ...] = ()
    source: str | None = None
    liked: tuple[str, ...] = ()

    @property
    def prompt(self) -> str:
        """What is to be made, in words."""
        slots = self.decision.slots
        if not slots.target:
            return ""
        styled = f"{slots.target} in {slots.style} style" if slots.style else slots.target
        return ", ".join((styled, *slots.constraints))


@dataclass(frozen=True)
class Making:
    """What creator and editor are given.

    Attributes:
        call: the instruction; its picture is what is to be edited, where that is no item of the catalog.
        decided: what is to be done.
        next_title: what the recommender would name next, for the taste.
        reasons: of the source's recommendation, for a card.
        own_picture: the picture is the user's.
    """

    call: InstructionCall
    decided: Decided
    next_title: str | None = None
    reasons: tuple[str, ...] = ()
    own_picture: bool = True

    @property
    def prompt(self) -> str:
        """What is to be made, in words: what was understood, else the user's own."""
        return self.decided.prompt or self.call.text


@dataclass(frozen=True)
class Progress:
    """Work is under way.

    Attributes:
        share: done, 0 to 1.
        what: in a word or two.
    """

    share: float
    what: str


@dataclass(frozen=True)
class Made:
    """A draft that was checked.

    Attributes:
        report: what the checks say.
        asset_id: of the library; None: it did not pass, and is never shown.
        title: of the asset.
        action: edit or create.
        media_type: of the file.
        width, height: pixels.
        details: model, seed, prompt and the like, for the evidence.
    """

    report: FidelityReport
    asset_id: str | None
    title: str
    action: str
    media_type: str
    width: int
    height: int
    details: dict[str, Any]


@dataclass(frozen=True)
class MediaFile:
    """An asset's file.

    Attributes:
        data: its bytes.
        media_type: image/png and the like.
    """

    data: bytes
    media_type: str


class ContentBackend(Protocol):
    """What the routes need of instructor, creator, editor and fidelity; failures are ApiErrors."""

    async def ready(self, timeout_s: float) -> None:
        """Return once a warm replica of each part has answered.

        Raises:
            ApiError: one did not in time.
        """

    async def decide(self, call: InstructionCall) -> Decided | Refusal:
        """What is to be done."""

    def make(self, making: Making) -> AsyncIterator[Progress | Made]:
        """Create or edit, check, and store what passed; the last thing told is :class:`Made`.

        Raises:
            ApiError: nothing could be made; ``cannot_create`` and ``cannot_edit`` say why.
        """

    async def judge(self, retired: Mapping[str, str], proved: Sequence[str]) -> None:
        """Retire assets, with the reason of each, and end the trial of others."""

    async def media(self, asset_id: str) -> MediaFile | None:
        """The file of an asset that is admitted and not retired; None: there is none."""

    async def provenance(self, asset_id: str) -> dict[str, Any] | None:
        """Where an asset comes from; None: there is no such asset."""
