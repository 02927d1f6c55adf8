"""The space that a table of semantic IDs quantizes: what an item is about, who takes it with what, or both.

Codes of texts put like descriptions together, codes of SASRec's item vectors put together what the same people take:
the second is what the next item follows from, where there is enough to learn it from
(docs/experiments.md). Items that nobody took in training borrow the vectors of their nearest neighbours by text, so
that new items can be placed, too.

Shape letters: N items, E width of the text embeddings, C width of the collaborative vectors.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from genrec.errors import DataError

if TYPE_CHECKING:
    from torch import Tensor

Space = Literal["text", "collaborative", "both"]

TEXT_FILE, COLLABORATIVE_FILE = "embeddings.safetensors", "collaborative.safetensors"
"""Beside the semantic IDs that were made of them: the language view reads the one, a new item is placed by both."""


def save_vectors(folder: Path, text_NE: NDArray[np.float32], collaborative_NC: NDArray[np.float32] | None) -> None:
    """Write what the semantic IDs are made of; no collaborative vectors, no file of them."""
    from safetensors.numpy import save_file

    save_file({"embeddings": text_NE}, folder / TEXT_FILE)
    if collaborative_NC is not None:
        save_file({"vectors": collaborative_NC}, folder / COLLABORATIVE_FILE)


def load_text_vectors(folder: Path) -> Tensor:
    """float32 [N, E], the text embeddings; mapped, so processes of a node share them."""
    from safetensors.torch import load_file

    return load_file(folder / TEXT_FILE)["embeddings"]


def load_vectors(folder: Path) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
    """Text embeddings float32 [N, E], and collaborative vectors [N, C] where there are such; both mapped."""
    from safetensors.torch import load_file

    path = folder / COLLABORATIVE_FILE
    return load_text_vectors(folder).numpy(), load_file(path)["vectors"].numpy() if path.is_file() else None


def item_space(
    space: Space, text_NE: NDArray[np.float32], collaborative_NC: NDArray[np.float32] | None
) -> NDArray[np.float32]:
    """What a quantizer reads of each item.

    Args:
        space: text: the embeddings as they are; collaborative: unit vectors; both: the two side by side, each of unit
            length.
        text_NE: float32 [N, E].
        collaborative_NC: float32 [N, C], a row of NaN for an item that nobody consumed; may be None for ``text``.

    Raises:
        DataError: no item has a collaborative vector.
    """
    if space == "text":
        return text_NE
    assert collaborative_NC is not None, "the stage hands the vectors along"
    taken_NC = _unit(filled(collaborative_NC, text_NE))
    return taken_NC if space == "collaborative" else np.concatenate([_unit(text_NE), taken_NC], axis=1)


def filled(vectors_NC: NDArray[np.float32], text_NE: NDArray[np.float32], near: int = 5) -> NDArray[np.float32]:
    """Collaborative vectors for all items: one without gets the mean of those of its nearest neighbours by text.

    Args:
        vectors_NC: float32 [N, C], a row of NaN for an item that nobody consumed.
        text_NE: float32 [N, E], text embeddings.
        near: neighbours of which the mean is taken.

    Raises:
        DataError: no item has a vector.
    """
    import faiss

    missing_N = np.isnan(vectors_NC).any(axis=1)
    known = np.flatnonzero(~missing_N)
    if not len(known):
        raise DataError("tokenizer.embeddings: no item has a collaborative vector; nothing was consumed in training")
    if len(known) == len(vectors_NC):
        return vectors_NC
    text_NE = _unit(text_NE)
    index = faiss.IndexFlatIP(text_NE.shape[1])
    index.add(text_NE[known])
    nearest = index.search(text_NE[missing_N], min(near, len(known)))[1]
    result = vectors_NC.copy()
    result[missing_N] = vectors_NC[known[nearest]].mean(axis=1)
    return result


def _unit(rows_NC: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.ascontiguousarray(rows_NC / np.linalg.norm(rows_NC, axis=1, keepdims=True).clip(min=1e-12))
