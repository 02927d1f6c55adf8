"""Where a video cuts from one shot to the next.

A cut changes colours *and* composition at once; a passing car changes one of them, motion changes both little by
little. So two distances of neighbouring frames are multiplied: of the colour histograms of nine blocks, and of small
grey pictures (one less their correlation). A cut is a product that is large by itself and several times the median of
its neighbours': the second condition keeps a restless scene in one piece.

The two constants were set on the seven cuts of three short films (hard cuts, films and animation); fades are not found.

Shape letters: F frames, B histogram bins of all blocks.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from PIL import Image

BINS, BLOCKS = 8, 3
SMALL = (66, 36)
LARGE = 0.18
"""Least product of distances (0 equal, 1 nothing in common) that can be a cut."""
TIMES_USUAL = 4.5
AROUND = 6


def shot_bounds(frames: Sequence[Image.Image]) -> list[tuple[int, int]]:
    """Shots as (first frame, frame after the last), which together cover all frames.

    Args:
        frames: in order, a few for each second.
    """
    if not frames:
        return []
    distances = frame_distances(frames)
    cuts = [
        place + 1
        for place, distance in enumerate(distances)
        if distance > LARGE and distance > TIMES_USUAL * _usual(distances, place)
    ]
    return list(pairwise([0, *cuts, len(frames)]))


def frame_distances(frames: Sequence[Image.Image]) -> NDArray[np.float64]:
    """``[F - 1]``: distance of colours times distance of composition, from 0 to 1."""
    small = [frame.convert("RGB").resize(SMALL, Image.Resampling.BOX) for frame in frames]
    histograms_FB = np.stack([_histograms(frame) for frame in small])
    colours = np.abs(np.diff(histograms_FB, axis=0)).sum(axis=1) / 2
    shapes_FP = np.stack([_composition(frame) for frame in small])
    # The mean of a product of two standardised pictures is their correlation; a flat picture correlates with none.
    composition = np.clip(1 - (shapes_FP[1:] * shapes_FP[:-1]).mean(axis=1), 0, 1)
    distances: NDArray[np.float64] = colours * composition
    return distances


def _usual(distances: NDArray[np.float64], place: int) -> float:
    near = np.concatenate([distances[max(0, place - AROUND) : place], distances[place + 1 : place + 1 + AROUND]])
    return float(np.median(near)) if len(near) else 0.0


def _composition(frame: Image.Image) -> NDArray[np.float64]:
    """The grey picture, 32 x 18, of mean 0 and spread 1."""
    grey = np.asarray(frame.convert("L").resize((32, 18), Image.Resampling.BOX), dtype=np.float64).ravel()
    spread = grey.std()
    return (grey - grey.mean()) / spread if spread > 0 else np.zeros_like(grey)


def _histograms(frame: Image.Image) -> NDArray[np.float64]:
    """``[B]``, summing to one: histograms of saturation and value in each block."""
    pixels = np.asarray(frame.convert("HSV"))
    parts = []
    for rows in np.array_split(pixels, BLOCKS, axis=0):
        for block in np.array_split(rows, BLOCKS, axis=1):
            parts += [np.histogram(block[..., channel], BINS, (0, 256))[0] for channel in (1, 2)]
    counts = np.concatenate(parts).astype(np.float64)
    return counts / counts.sum()
