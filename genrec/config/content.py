"""Section `content`: who makes pictures, how the instructor decides, what the checks ask."""

from __future__ import annotations

import re
from typing import Literal

from pydantic import Field, NonNegativeFloat, PositiveInt, field_validator

from genrec.config.sections import Section


class PictureSettings(Section):
    """Creator and editor."""

    provider: str = Field("embedded", description="embedded, local:DIR (a diffusers pipeline), or hub:ID")
    size: Literal[64, 128, 256, 512] = Field(
        256, description="width and height of what is shown, after super-resolution"
    )
    steps: PositiveInt = Field(30, description="denoising steps")
    guidance: NonNegativeFloat = Field(3.0, description="how strongly the words steer")
    candidates: PositiveInt = Field(4, description="pictures made, of which the best is kept")
    preference: float = Field(
        0.3, ge=0, le=1, description="share of the user's preference in choosing the best; the rest is the words'"
    )

    @field_validator("provider")
    @classmethod
    def _known(cls, provider: str) -> str:
        if not re.fullmatch(r"embedded|local:.+|hub:[A-Za-z0-9._-]+/[A-Za-z0-9._-]+", provider):
            raise ValueError(f"content.pictures.provider: {provider!r}; write embedded, local:DIR or hub:OWNER/NAME")
        return provider


class InstructorSettings(Section):
    """Who decides between retrieve, edit, create and clarify."""

    clarify_below: float = Field(0.45, ge=0, le=1, description="ask back when no decision is likelier than this")


class FidelitySettings(Section):
    """The checks before anything is shown."""

    near_duplicate_bits: PositiveInt = Field(8, description="perceptual hashes closer than this are near-duplicates")


class ContentSettings(Section):
    """GeneRec: made items."""

    pictures: PictureSettings = PictureSettings()
    instructor: InstructorSettings = InstructorSettings()
    fidelity: FidelitySettings = FidelitySettings()
