"""Trains the head of ``hazards.py``: seconds on one core, for the sentence encoder stays frozen.

Harmful examples are the training phrases and the development half of the red-team prompts; harmless ones are phrases
that look harmful and are not, and the development half of clean prompts and film titles. The regularisation was chosen
on those by cross-validation, never on a test half.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from genrec.content.fidelity.hazards import DEMEANING, NONE, WEIGHTS
from genrec.content.fidelity.sets import cases, movie_titles, of_half
from genrec.content.fidelity.text import plain
from genrec.encoders.minilm import MiniLMEncoder

STRENGTH = 10.0
"""Inverse of the L2 penalty."""


def examples() -> tuple[list[str], list[str]]:
    """Texts and their hazards."""
    rows = [(row["prompt"], row["kind"]) for row in cases("training")]
    rows += [(row["prompt"], row["kind"]) for row in cases("safety", "dev")]
    rows += [(row["prompt"], DEMEANING) for row in cases("bias", "dev")]
    rows += [(row["prompt"], NONE) for row in cases("clean_prompts", "dev")]
    rows += [(title, NONE) for title in of_half(movie_titles(), "dev")]
    return [text for text, _ in rows], [kind for _, kind in rows]


def train(out: Path = WEIGHTS) -> dict[str, float]:
    """Fit and write the head; figures of a five-fold cross-validation over the training examples."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import cross_val_predict

    texts, kinds = examples()
    rows = MiniLMEncoder().encode([plain(text) for text in texts])
    hazards = [NONE, *sorted(set(kinds) - {NONE})]
    labels = np.asarray([hazards.index(kind) for kind in kinds])
    model = LogisticRegression(C=STRENGTH, class_weight="balanced", max_iter=2000)
    told = cross_val_predict(model, rows, labels, cv=5, method="predict_proba")
    harmful = 1 - told[:, 0] >= 0.5
    model.fit(rows, labels)
    out.mkdir(parents=True, exist_ok=True)
    save_file(
        {"weight": model.coef_.astype(np.float32), "bias": model.intercept_.astype(np.float32)},
        out / "model.safetensors",
    )
    figures = {
        "examples": float(len(texts)),
        "recall": float(harmful[labels > 0].mean()),
        "false_blocks": float(harmful[labels == 0].mean()),
    }
    config = {"hazards": hazards, "encoder": "all-MiniLM-L6-v2", "cross_validation": figures}
    (out / "config.json").write_text(json.dumps(config, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    return figures
