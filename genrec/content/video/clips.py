"""Which part of a video this user should see.

A clip is a window of frames; its score is the mean cosine of its frames with the user's preference vector. All windows
are scored at once from running sums, which equals trying each (a test does). A window does not cross a cut where a shot
is long enough to hold one.

Shape letters: F frames, D dimension of the encoder.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from genrec.content.contracts import FloatArray
from genrec.content.video.reading import Samples
from genrec.content.video.shots import shot_bounds
from genrec.content.video.thumbnails import cosines
from genrec.errors import DataError


@dataclass(frozen=True)
class Window:
    """Frames ``begin`` to before ``end``, and their mean cosine."""

    begin: int
    end: int
    score: float


def best_window(
    vectors_FD: FloatArray,
    taste_D: FloatArray,
    *,
    shortest: int,
    longest: int,
    shots: Sequence[tuple[int, int]] | None = None,
) -> Window:
    """The window of highest mean cosine; ties go to the longer one, then to the earlier.

    Args:
        vectors_FD: the frames' vectors, in order.
        taste_D: the user's preference vector.
        shortest: least number of frames of a window; a shorter video is taken whole.
        longest: most frames of a window.
        shots: bounds that no window crosses, where at least one shot is long enough.

    Raises:
        DataError: no frames, lengths out of order, or vectors that do not fit.
    """
    if not 1 <= shortest <= longest:
        raise DataError(f"a clip of {shortest} to {longest} frames; give 1 <= shortest <= longest")
    if not len(vectors_FD):
        raise DataError("no frames to choose a clip from; give a video with at least one frame")
    scores_F = cosines(vectors_FD, taste_D).astype(np.float64)
    shortest = min(shortest, len(scores_F))
    sums = np.concatenate([[0.0], np.cumsum(scores_F)])
    pieces = [shot for shot in shots or () if shot[1] - shot[0] >= shortest] or [(0, len(scores_F))]
    best: tuple[float, int, int] | None = None
    for first, last in pieces:
        for length in range(shortest, min(longest, last - first) + 1):
            begins = np.arange(first, last - length + 1)
            means = (sums[begins + length] - sums[begins]) / length
            at = int(means.argmax())
            # Rounding makes equal windows differ in the last digits: those are ties.
            key = (round(float(means[at]), 9), length, -int(begins[at]))
            best = key if best is None or key > best else best
    assert best is not None, "every piece holds a window"
    score, length, begin = best[0], best[1], -best[2]
    return Window(begin, begin + length, score)


def choose_clip(
    samples: Samples, vectors_FD: FloatArray, taste_D: FloatArray, *, seconds: tuple[float, float]
) -> tuple[float, float, float]:
    """The part of a video that suits a user best.

    Args:
        samples: frames of the video.
        vectors_FD: their vectors.
        taste_D: the user's preference vector.
        seconds: shortest and longest clip wanted.

    Returns:
        Begin and end in seconds, and the mean cosine.
    """
    if len(vectors_FD) != len(samples.frames):
        raise DataError(f"{len(vectors_FD)} vectors for {len(samples.frames)} frames; encode the same frames")
    pace = samples.seconds / len(samples.frames)
    shortest, longest = (max(1, round(length / pace)) for length in seconds)
    window = best_window(
        vectors_FD, taste_D, shortest=shortest, longest=max(shortest, longest), shots=shot_bounds(samples.frames)
    )
    begin = float(samples.times_F[window.begin])
    end = samples.seconds if window.end == len(samples.frames) else float(samples.times_F[window.end])
    return begin, end, window.score
