"""Sizes of a training of the instructor."""

from __future__ import annotations

from dataclasses import dataclass

FIRST_SHARE = 0.8
"""Share of the instructions and wishes that are drawn over the first of several catalogs."""


@dataclass(frozen=True)
class TrainingPlan:
    """Sizes of a training.

    Attributes:
        instructions: drawn for each reader.
        wishes: drawn for the heads of sufficiency.
        epochs: of a reader, over all of its instructions.
        batch: instructions a step.
        learning_rate: of the heads, at its highest.
        adapter_rate: of the adapters.
        readers: whose answers are averaged; each has its own draw, held-out families, adapters and heads.
        seed: the same seed trains the same weights; reader r has ``seed + r``.
        most_items: of a catalog, drawn where it has more.
    """

    instructions: int = 46_000
    wishes: int = 32_000
    epochs: int = 3
    batch: int = 64
    learning_rate: float = 1.5e-3
    adapter_rate: float = 1e-3
    readers: int = 3
    seed: int = 0
    most_items: int = 2_500


def shares_of(catalogs: int) -> list[float]:
    """Of each catalog: most of the first."""
    return [FIRST_SHARE, *([(1 - FIRST_SHARE) / (catalogs - 1)] * (catalogs - 1))] if catalogs > 1 else [1.0]
