"""Which frame shows a video best to this user.

The choice is the frame whose vector is nearest in direction to the user's preference vector. Frames that no one would
hang in a window (black, blank, blurred by a cut) are left out before, so that the choice itself stays an exact argmax.

Shape letters: F frames, D dimension of the encoder.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from genrec.content.contracts import FloatArray
from genrec.errors import DataError

_DARK, _LIGHT, _FLAT = 16, 240, 6.0
"""Mean brightness below or above which a frame says nothing, and the least spread of brightness."""


def cosines(vectors_FD: FloatArray, taste_D: FloatArray) -> FloatArray:
    """``[F]``: cosine of each row with the preference vector; 0 where either has no length.

    Raises:
        DataError: widths that do not fit, or numbers that are not finite.
    """
    if vectors_FD.ndim != 2 or taste_D.ndim != 1 or vectors_FD.shape[1] != len(taste_D):
        raise DataError(
            f"preference vector of shape {taste_D.shape} against frames of shape {vectors_FD.shape}; "
            "make both with one encoder"
        )
    if not (np.isfinite(vectors_FD).all() and np.isfinite(taste_D).all()):
        raise DataError("vectors with numbers that are not finite; encode the frames again")
    lengths_F = np.linalg.norm(vectors_FD, axis=1) * np.linalg.norm(taste_D)
    products_F = vectors_FD @ taste_D
    return np.asarray(np.divide(products_F, lengths_F, out=np.zeros_like(products_F), where=lengths_F > 0), np.float32)


def choose_thumbnail(
    vectors_FD: FloatArray, taste_D: FloatArray, *, allowed_F: NDArray[np.bool_] | None = None, count: int = 1
) -> list[int]:
    """Frames nearest to the preference vector, best first; ties go to the earlier frame.

    Args:
        vectors_FD: the frames' vectors.
        taste_D: the user's preference vector, of any length above 0.
        allowed_F: frames that may be chosen; none, or none true: all.
        count: frames wanted.

    Raises:
        DataError: no frames, or vectors that do not fit.
    """
    if not len(vectors_FD):
        raise DataError("no frames to choose a thumbnail from; give a video with at least one frame")
    scores_F = cosines(vectors_FD, taste_D)
    order = np.argsort(-scores_F, kind="stable")
    if allowed_F is not None and allowed_F.any():
        order = order[allowed_F[order]]
    return [int(place) for place in order[:count]]


def presentable(frames: Sequence[Image.Image]) -> NDArray[np.bool_]:
    """``[F]``: frames that are neither black, nor white, nor one flat colour."""
    fine = []
    for frame in frames:
        grey = np.asarray(frame.convert("L").resize((32, 32), Image.Resampling.BOX), dtype=np.float32)
        fine.append(_DARK < grey.mean() < _LIGHT and grey.std() > _FLAT)
    return np.array(fine, dtype=bool)
