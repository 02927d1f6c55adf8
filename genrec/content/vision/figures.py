"""What a trained tower can do with concepts that no training drawing shows.

*R@K of N*: each held-out drawing ranks the plain names of N held-out concepts; the share whose own name is among the
first K. Concepts of equal name count as one. *Colour*: each held-out drawing with a main colour, and its copies with
turned hues, chooses among "red ...", "orange ..." and so on of its own name. *Style*: what the style head says of
held-out drawings.

Shape letters: N pictures, C concepts, E dimension.
"""

from __future__ import annotations

import numpy as np

from genrec.content.contracts import FloatArray
from genrec.content.corpus import COLOURS, STYLES
from genrec.content.vision.examples import NONE, Examples, colourless
from genrec.encoders.minilm import MiniLMEncoder

CHOICES = 150


def retrieval(
    vectors_NE: FloatArray, concept_N: np.ndarray, names_CE: FloatArray, ranks: tuple[int, ...]
) -> list[float]:
    """Share of pictures whose own name is among the first K, for each K of ``ranks``; ties count against it."""
    scores_NC = vectors_NE @ names_CE.T
    own_N = scores_NC[np.arange(len(concept_N)), concept_N]
    better_N = (scores_NC >= own_N[:, None]).sum(axis=1) - 1
    return [float((better_N < rank).mean()) for rank in ranks]


def figures(
    vectors_NE: FloatArray, style_logits_NS: FloatArray, held_out: Examples, text: MiniLMEncoder
) -> dict[str, float]:
    """R@1 and R@5 of 150, by style, and the accuracy of colour and style.

    Args:
        vectors_NE: unit vectors of ``held_out``'s pictures, copies in other colours included.
        style_logits_NS: their style logits.
        held_out: drawings of concepts that were never trained on.
        text: the sentence encoder.
    """
    unique = list(dict.fromkeys(held_out.names))[:CHOICES]
    choice_C = np.array([unique.index(name) if name in unique else NONE for name in held_out.names])
    choice_N = choice_C[held_out.concept_N]
    plain_N = ~held_out.turned_N & (choice_N != NONE)
    names_CE = text.encode(unique)
    answer: dict[str, float] = {"choices": float(len(unique)), "pictures": float(plain_N.sum())}
    answer["r@1"], answer["r@5"] = retrieval(vectors_NE[plain_N], choice_N[plain_N], names_CE, (1, 5))
    for place, style in enumerate(STYLES):
        rows = plain_N & (held_out.style_N == place)
        if rows.any():
            answer[f"r@1 {style}"] = retrieval(vectors_NE[rows], choice_N[rows], names_CE, (1,))[0]
    answer["colour"] = _colour_accuracy(vectors_NE, held_out, text)
    own = ~held_out.turned_N
    answer["style"] = float((style_logits_NS[own].argmax(axis=1) == held_out.style_N[own]).mean())
    return {name: round(value, 4) for name, value in answer.items()}


def _colour_accuracy(vectors_NE: FloatArray, held_out: Examples, text: MiniLMEncoder) -> float:
    rows = np.flatnonzero(held_out.colour_N != NONE)
    if not len(rows):
        return float("nan")
    bare = [colourless(name) for name in held_out.names]
    asked = text.encode([f"{colour} {name}" for name in bare for colour in COLOURS])
    asked_CKE = asked.reshape(len(bare), len(COLOURS), -1)
    scores_NK = np.einsum("ne,nke->nk", vectors_NE[rows], asked_CKE[held_out.concept_N[rows]])
    return float((scores_NK.argmax(axis=1) == held_out.colour_N[rows]).mean())
