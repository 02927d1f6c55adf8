"""Section `content`: who makes pictures, how the instructor decides, what the checks ask."""

from __future__ import annotations

import re
from typing import Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, field_validator

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

    adapters: tuple[str, ...] = Field(
        (), description="LoRA adapters on a local: or hub: pipeline, DIR or FILE.safetensors, =WEIGHT if not 1"
    )

    @field_validator("provider")
    @classmethod
    def _known(cls, provider: str) -> str:
        if not re.fullmatch(r"embedded|local:.+|hub:[A-Za-z0-9._-]+/[A-Za-z0-9._-]+", provider):
            raise ValueError(f"content.pictures.provider: {provider!r}; write embedded, local:DIR or hub:OWNER/NAME")
        return provider


class EditorSettings(Section):
    """Edits of items that there are."""

    media: str | None = Field(None, description="directory of items' pictures and videos, named by item id; none: none")
    strengths: tuple[float, ...] = Field(
        (0.3, 0.45, 0.6, 0.75), description="strengths tried by the model; the best that keeps the source is taken"
    )
    floor: float = Field(0.6, ge=-1, le=1, description="least likeness of an edit to its source, by the encoder")
    side: PositiveInt = Field(512, description="longer side of the frames that thumbnails are chosen from")
    video_side: Literal[128, 256, 512, 1024] = Field(512, description="longer side of a clip")
    clip_seconds: tuple[PositiveFloat, PositiveFloat] = Field((2.0, 6.0), description="shortest and longest clip")
    endpoint: str | None = Field(
        None, description="base URL of an OpenAI-compatible endpoint that rewrites cards; none: templates"
    )
    endpoint_model: str = Field("default", description="name of the model there")
    endpoint_key_env: str | None = Field(None, description="environment variable that holds the key; none: no key")
    endpoint_timeout_s: PositiveFloat = Field(5.0, description="after so long the template's words are used")

    @field_validator("endpoint")
    @classmethod
    def _address(cls, endpoint: str | None) -> str | None:
        if endpoint is not None and not re.fullmatch(r"https?://[^\s?#@]+", endpoint):
            raise ValueError(
                f"content.editor.endpoint: {endpoint!r}; write http(s)://host/v1, the key in endpoint_key_env"
            )
        return endpoint


class InstructorSettings(Section):
    """Who decides between retrieve, edit, create and clarify."""

    clarify_below: float = Field(0.45, ge=0, le=1, description="ask back when no decision is likelier than this")
    cost_retrieve: PositiveFloat = Field(1.0, description="cost of retrieving where that was not wanted")
    cost_edit: PositiveFloat = Field(1.1, description="cost of editing where that was not wanted")
    cost_create: PositiveFloat = Field(1.5, description="cost of creating where that was not wanted")
    cost_clarify: PositiveFloat = Field(0.95, description="cost of asking back where the wish was clear")
    rejection_weight: NonNegativeFloat = Field(
        0.5, description="log-odds that each item rejected in a row takes from the catalog's sufficiency"
    )
    weights: str | None = Field(None, description="directory of trained heads; none: the shipped ones")
    endpoint: str | None = Field(
        None, description="base URL of an OpenAI-compatible endpoint (https://host/v1); none: the embedded instructor"
    )
    endpoint_model: str = Field("default", description="name of the model there")
    endpoint_key_env: str | None = Field(None, description="environment variable that holds the key; none: no key")
    endpoint_timeout_s: PositiveFloat = Field(5.0, description="after so long the embedded instructor decides")

    @field_validator("endpoint")
    @classmethod
    def _address(cls, endpoint: str | None) -> str | None:
        if endpoint is not None and not re.fullmatch(r"https?://[^\s?#@]+", endpoint):
            raise ValueError(
                f"content.instructor.endpoint: {endpoint!r}; write http(s)://host/v1, the key in endpoint_key_env"
            )
        return endpoint


class FidelitySettings(Section):
    """The checks before anything is shown."""

    near_duplicate_bits: PositiveInt = Field(12, description="perceptual hashes closer than this are near-duplicates")
    near_duplicate_cosine: float = Field(
        0.985, gt=0, le=1, description="encoder vectors at least this alike are near-duplicates"
    )
    protected: str | None = Field(None, description="directory of pictures that must not be imitated; none: none")
    denied_names: tuple[str, ...] = Field(
        ("Mickey Mouse", "Minnie Mouse", "Donald Duck", "Pikachu", "Pokemon", "Super Mario", "Nintendo", "Darth Vader",
         "Star Wars", "Harry Potter", "Hello Kitty", "SpongeBob", "Spider-Man", "Batman", "Superman", "Barbie",
         "Coca-Cola", "Pepsi", "McDonald's", "Starbucks", "Nike", "Adidas", "Gucci", "Louis Vuitton", "Chanel",
         "Rolex", "Ferrari", "Disney", "Marvel", "Lego"),
        description="brands and characters that nothing made may show or name, whatever their spelling",
    )  # fmt: skip
    licences: tuple[str, ...] = Field(
        ("CC0-1.0", "CC-BY-4.0", "MIT", "Apache-2.0", "BSD-3-Clause", "own", "catalog"),
        description="licences under which an ingredient may be worked into something new",
    )
    picture_unsafe: float = Field(0.55, gt=0, lt=1, description="probability of unsafe from which a picture is refused")
    hazard: float = Field(0.92, gt=0, lt=1, description="probability of a hazard from which words are refused")
    edit_cosine: float = Field(0.5, ge=-1, le=1, description="least likeness of an edit to its source, by the encoder")
    edit_structure: float = Field(0.15, ge=-1, le=1, description="least structural likeness of an edit to its source")
    encoder: Literal["embedded", "none"] = Field(
        "embedded", description="image-text encoder of the checks; none: pictures are compared by hashes alone"
    )
    processes: bool = Field(True, description="checks run in a process of their own, which a time-out ends")
    timeout_s: PositiveFloat = Field(60.0, description="a check without verdict after so long has failed")
    start_timeout_s: PositiveFloat = Field(300.0, description="for the checks to load their models")
    certificates: str | None = Field(
        None, description="PEM of leaf and chain, a path or env:NAME; none: a development key is made on first use"
    )
    private_key: str | None = Field(None, description="PEM of the leaf's key (ES256), a path or env:NAME")
    trust_anchors: str | None = Field(None, description="PEM of trusted authorities, a path or env:NAME")


class LibrarySettings(Section):
    """Made items that may be shown, and how they enter lists."""

    explore_share: float = Field(0.1, ge=0, le=1, description="share of lists that try a made item out")
    explore_position: PositiveInt = Field(5, description="where in the list it is tried, counted from 1")
    retire_impressions: PositiveInt = Field(50, description="a made item is judged from so many impressions on")
    retire_floor: float = Field(
        0.02, ge=0, le=1, description="retired when even the upper bound of its like rate lies below"
    )
    retire_confidence: float = Field(0.95, gt=0.5, lt=1, description="of that bound, one-sided")
    retire_reports: PositiveInt = Field(1, description="people whose reports retire a made item at once")
    neighbours: PositiveInt = Field(5, description="catalog items by which a made item is placed among them")


class ContentSettings(Section):
    """GeneRec: made items."""

    pictures: PictureSettings = PictureSettings()
    editor: EditorSettings = EditorSettings()
    instructor: InstructorSettings = InstructorSettings()
    fidelity: FidelitySettings = FidelitySettings()
    library: LibrarySettings = LibrarySettings()
