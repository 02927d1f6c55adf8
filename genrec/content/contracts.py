"""What the parts of GeneRec hand one another.

The way of an instruction: an :class:`Instruction` goes to the instructor, whose :class:`Decision` says what is to be
done. Creator and editor make a :class:`Draft` of it. The fidelity gate answers with a :class:`FidelityReport`; only a
draft whose report passed becomes an :class:`Asset` of the library, and only assets are ever shown.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field

Action = Literal["retrieve", "edit", "create", "clarify"]
ACTIONS: tuple[Action, ...] = ("retrieve", "edit", "create", "clarify")
Medium = Literal["image", "video", "card"]
FloatArray = NDArray[np.float32]


@dataclass(frozen=True)
class Instruction:
    """What a user says or shows, with what is known of them at that moment.

    Attributes:
        text: the words; may be empty when a picture or feedback speaks for itself.
        picture: an example, RGB.
        turns: earlier turns of the dialogue, oldest first, the user's own words alone.
        history: item indices the user consumed, oldest first.
        shown: item indices of the list that is before the user, best first.
        rejected: how many of the last items shown were skipped or disliked in a row.
    """

    text: str
    picture: Image.Image | None = None
    turns: tuple[str, ...] = ()
    history: tuple[int, ...] = ()
    shown: tuple[int, ...] = ()
    rejected: int = 0


class Slots(BaseModel):
    """What an instruction asks for, as far as it says so."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    target: str | None = Field(None, description="the thing wanted, in the user's words: a red apple")
    source_item: int | None = Field(None, description="index of the item to edit; none: not an item of the list")
    operation: str | None = Field(None, description="how to edit: restyle, recolour, crop, add, remove, rewrite")
    style: str | None = Field(None, description="flat, 3D, watercolor, ...")
    medium: Medium | None = None
    constraints: tuple[str, ...] = Field((), description="what must hold: on a white background, under 20 dollars")
    negatives: tuple[str, ...] = Field((), description="what must not be there")


class Decision(BaseModel):
    """What the instructor decided, and why."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    action: Action
    probabilities: dict[Action, float] = Field(description="calibrated, summing to one")
    slots: Slots
    sufficiency: float = Field(ge=0, le=1, description="probability that the catalog holds an item that satisfies")
    matches: tuple[int, ...] = Field((), description="items of the catalog that satisfy best, best first")
    question: str | None = Field(None, description="what to ask the user back; set when the action is clarify")
    trace: tuple[str, ...] = Field((), description="the reasons, a sentence each")


@dataclass(frozen=True)
class Draft:
    """What creator or editor made, before any check: never shown.

    Attributes:
        action: edit or create.
        medium: of the files.
        title: a title to show; made by a template or by a model.
        frames: the picture (one), or a video's pictures in order; RGB.
        prompt: what it was made from, in words.
        model: which model made it: name and version.
        seed: makes the same again.
        source_item: index of the item it was edited from; none for a creation.
        ingredients: files it was made from (a source picture, a clip), by content hash.
        video: the encoded file, for medium video.
    """

    action: Literal["edit", "create"]
    medium: Medium
    title: str
    frames: tuple[Image.Image, ...]
    prompt: str
    model: str
    seed: int
    source_item: int | None = None
    ingredients: tuple[str, ...] = ()
    video: bytes | None = None
    details: Mapping[str, str | float] = field(default_factory=dict)


class Verdict(BaseModel):
    """What one check says of a draft."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    check: str = Field(description="safety, privacy, bias, authenticity, legality, identifiability")
    passed: bool
    score: float = Field(description="what was compared with the policy's threshold")
    evidence: str = Field(description="what was found, in a sentence; no personal data repeated")


class FidelityReport(BaseModel):
    """All verdicts on a draft: it passes when each did."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    draft: str = Field(description="content hash of what was checked")
    policy: str = Field(description="version of the policy")
    verdicts: tuple[Verdict, ...]
    time: float = Field(description="Unix seconds")

    @property
    def passed(self) -> bool:
        """No check failed, and there was at least one."""
        return bool(self.verdicts) and all(verdict.passed for verdict in self.verdicts)


class ImageTextEncoder(Protocol):
    """Pictures and texts in one space, rows of unit length."""

    dimension: int

    def images(self, pictures: Sequence[Image.Image]) -> FloatArray:
        """``[len(pictures), dimension]``."""
        ...

    def texts(self, texts: Sequence[str]) -> FloatArray:
        """``[len(texts), dimension]``."""
        ...


class PictureMaker(Protocol):
    """A model that makes pictures from words, and from words and a picture."""

    name: str

    def create(
        self,
        prompt: str,
        *,
        count: int,
        seed: int,
        taste: FloatArray | None = None,
        negative: str = "",
        progress: Progress | None = None,
    ) -> list[Image.Image]:
        """``count`` pictures.

        Args:
            prompt: what is to be seen.
            count: pictures made at once.
            seed: the same seed makes the same pictures.
            taste: ``[dimension]`` in the encoder's space: what the user likes, or what the recommender would name next.
            negative: what must not be seen.
            progress: told after every step.
        """
        ...

    def restyle(
        self, picture: Image.Image, prompt: str, *, strength: float, seed: int, progress: Progress | None = None
    ) -> Image.Image:
        """``picture`` changed towards ``prompt``; ``strength`` 0 leaves it, 1 keeps nothing of it."""
        ...


@runtime_checkable
class StyleTranslating(Protocol):
    """A picture maker that also learnt what drawings of one style look like in another."""

    def translate(self, picture: Image.Image, style: str) -> tuple[Image.Image, str] | None:
        """``picture`` in ``style`` and the model's name; None if it is not of the kind that was learnt from."""
        ...


class Progress(Protocol):
    """Called with the share of the work that is done, 0 to 1."""

    def __call__(self, share: float, /) -> None:
        """Tell; may raise to stop the work."""
        ...
