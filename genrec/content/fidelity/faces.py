"""Faces: the tiny face detector of face-api (MIT), its TF.js graph rewritten for torch.

A tiny YOLO v2 of separable convolutions, 0.2 MB in eight bits (``weights/faces``). It finds frontal faces of some size,
and takes a drawn face for one, too; who asks decides what a face means.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from genrec.content.fidelity.unsafe_pictures import dequantized

WEIGHTS = Path(__file__).resolve().parents[1] / "weights" / "faces"
SIDE = 416
THRESHOLD = 0.5
OVERLAP = 0.4
ANCHORS = ((1.603231, 2.094468), (6.041143, 7.080126), (2.882459, 3.518061), (4.266906, 5.178857), (9.041765, 10.66308))
MEAN_RGB = (117.001, 114.697, 97.404)
Box = tuple[float, float, float, float]


class FaceDetector:
    """Finds faces.

    Args:
        tensors: weights by the names of the original graph, float32.
    """

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        self._tensors = tensors

    @classmethod
    def load(cls, directory: Path = WEIGHTS) -> FaceDetector:
        """The shipped weights."""
        return cls(dequantized(directory))

    @torch.inference_mode()
    def __call__(self, picture: Image.Image) -> list[tuple[float, Box]]:
        """Score and box (left, top, right, bottom, in pixels of ``picture``) of each face, surest first."""
        rgb = picture.convert("RGB")
        factor = SIDE / max(rgb.size)
        size = (max(1, round(rgb.width * factor)), max(1, round(rgb.height * factor)))
        canvas = np.zeros((SIDE, SIDE, 3), dtype=np.float32)
        canvas[: size[1], : size[0]] = np.asarray(rgb.resize(size, Image.Resampling.BILINEAR))
        states = torch.from_numpy((canvas - np.asarray(MEAN_RGB, dtype=np.float32)) / 255).permute(2, 0, 1)[None]
        return [(score, tuple(edge / factor for edge in box)) for score, box in _boxes(self._grid(states))]  # type: ignore[misc]

    def _grid(self, states: Tensor) -> Tensor:
        """Float [13, 13, 5, 5]: of each cell and anchor the box and its score."""
        tensors = self._tensors
        kernel = tensors["conv0/filters"].permute(3, 2, 0, 1)
        states = functional.leaky_relu(functional.conv2d(states, kernel, tensors["conv0/bias"]), 0.1)
        states = functional.max_pool2d(states, 2, 2, ceil_mode=True)
        for layer in range(1, 6):
            deep = tensors[f"conv{layer}/depthwise_filter"].permute(2, 3, 0, 1)
            point = tensors[f"conv{layer}/pointwise_filter"].permute(3, 2, 0, 1)
            states = functional.conv2d(states, deep, padding=1, groups=deep.shape[0])
            states = functional.leaky_relu(functional.conv2d(states, point, tensors[f"conv{layer}/bias"]), 0.1)
            if layer < 5:
                states = functional.max_pool2d(states, 2, 2, ceil_mode=True)
        # A pool of stride one keeps the size: what it misses lies right and below.
        states = functional.max_pool2d(functional.pad(states, (0, 1, 0, 1), value=-torch.inf), 2, 1)
        kernel = tensors["conv8/filters"].permute(3, 2, 0, 1)
        states = functional.conv2d(states, kernel, tensors["conv8/bias"])[0]
        return states.permute(1, 2, 0).reshape(states.shape[1], states.shape[2], len(ANCHORS), 5)


def _boxes(grid: Tensor) -> list[tuple[float, Box]]:
    """Boxes in pixels of the square picture, overlapping ones dropped."""
    cells = grid.shape[0]
    found: list[tuple[float, Box]] = []
    scores = grid[..., 4].sigmoid()
    for row, column, anchor in (scores > THRESHOLD).nonzero().tolist():
        x, y, width, height = grid[row, column, anchor, :4].tolist()
        unit = SIDE / cells
        centre_x = (column + 1 / (1 + np.exp(-x))) * unit
        centre_y = (row + 1 / (1 + np.exp(-y))) * unit
        half_w = np.exp(width) * ANCHORS[anchor][0] * unit / 2
        half_h = np.exp(height) * ANCHORS[anchor][1] * unit / 2
        box = (centre_x - half_w, centre_y - half_h, centre_x + half_w, centre_y + half_h)
        found.append((float(scores[row, column, anchor]), box))
    found.sort(key=lambda entry: -entry[0])
    kept: list[tuple[float, Box]] = []
    for score, box in found:
        if all(_overlap(box, other) <= OVERLAP for _, other in kept):
            kept.append((score, box))
    return kept


def _overlap(one: Box, other: Box) -> float:
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    if width <= 0 or height <= 0:
        return 0.0
    common = width * height
    area = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (one, other))
    return common / (area - common)
