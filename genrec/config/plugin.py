"""Settings of the plug-in (GENPLUGIN). Everything is off by default; preset `paper` has the paper's values."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt

from genrec.config.sections import Section


class SubstitutionSettings(Section):
    """Semantic-substitution guidance; the effective rate is p1 * p2."""

    p1: float = Field(0.0, ge=0, le=1, description="probability that a sample enters")
    p2: float = Field(0.4, ge=0, le=1, description="probability that a position of such a sample is replaced")
    top_k: PositiveInt = Field(5, description="candidates of the language view that are mixed")
    warmup_epochs: NonNegativeFloat = Field(10, description="epochs before it starts")
    ramp_epochs: NonNegativeFloat = Field(0, description="epochs over which it grows to its full rate")
    first_code: bool = Field(True, description="may the first code be replaced as an input?")


class AlignmentSettings(Section):
    """Weights and temperatures of the losses that tie the two views (paper: 0.1, 0.5, 0.5; 0.9 and 0.85)."""

    language: NonNegativeFloat = Field(1.0, description="weight of the language view's own next-item loss")
    item: NonNegativeFloat = Field(0.1, description="weight of InfoNCE between the views of an item")
    user: NonNegativeFloat = Field(0.5, description="weight of InfoNCE between the views of a history")
    contrast_temperature: PositiveFloat = 0.9
    divergence: NonNegativeFloat = Field(0.5, description="weight of the symmetric KL between the views' predictions")
    divergence_temperature: PositiveFloat = 0.85


class GateSettings(Section):
    """How the gate between the generator and its neighbours is learnt (stage `finetune`)."""

    steps: PositiveInt = Field(200, description="most iterations of L-BFGS; the best by a held-out fifth is kept")
    users: PositiveInt | None = Field(5000, description="validation users sampled to learn from; none: all")
    list_users: int = Field(
        1000,
        ge=0,
        description="validation users whose lists say how far the share of what nobody names is lowered; 0: it stays",
    )
    balance: float = Field(
        0.25,
        ge=0,
        le=1,
        description="a target weighs (1 + training count) ** -balance: 0 is for most hits in all, more for the tail",
    )
    generator: bool = Field(
        True,
        description="the generator has a say among what neighbours name; false: the control that tells what it adds",
    )


class MemorySettings(Section):
    """Retrieval augmentation: the decoder is fine-tuned to attend to retrieved users (stage `finetune`).

    How many users, and how they are found, is set in `retrieval`; the loop in `training`, but for what is named here.
    """

    finetune: bool = Field(False, description="fine-tune the decoder on the host's frozen encoder states and a memory")
    neighbours: Literal["real", "shuffled", "none"] = Field(
        "real", description="shuffled: another user's neighbours; none: no memory. Controls of equal steps"
    )
    entry: Literal["prepend", "gated"] = Field(
        "prepend",
        description="prepend: users' states beside the history's (the paper); gated: the history's states attend to "
        "the users first, and a gate that starts closed adds what they find",
    )
    train_positions: PositiveInt | None = Field(
        None, description="moments of a user's training part that are trained on, the latest first; none: all"
    )
    epochs: PositiveInt = Field(20, description="most passes of fine-tuning")
    max_steps: PositiveInt | None = Field(None, description="stop after so many optimizer steps")
    max_minutes: PositiveFloat | None = Field(None, description="stop after so much wall time of fine-tuning")
    learning_rate: PositiveFloat = 5e-4
    patience: PositiveInt | None = Field(3, description="validations without improvement before stopping; none: go on")


class PluginSettings(Section):
    """What of the plug-in is attached to the host."""

    language: bool = Field(False, description="the language view: frozen text embeddings beside the semantic IDs")
    alignment: AlignmentSettings = AlignmentSettings()
    substitution: SubstitutionSettings = SubstitutionSettings()
    retrieval: bool = Field(
        False,
        description="neighbours speak in items: their votes (retrieval.vote_sources) are mixed with the generator",
    )
    gate: GateSettings = GateSettings()
    memory: MemorySettings = MemorySettings()
