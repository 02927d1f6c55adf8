"""Sizes of a training of the instructor."""

from __future__ import annotations

from dataclasses import dataclass


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
