"""Unsafe pictures: the MobileNetV2 of nsfwjs (MIT), its TF.js graph rewritten for torch.

The weights are kept as they were published: eight bits each with a scale and a smallest value per tensor
(``weights/safety``). Five classes; a picture is as unsafe as the likeliest of hentai, porn and sexy together.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional

WEIGHTS = Path(__file__).resolve().parents[1] / "weights" / "safety"
CLASSES = ("drawing", "hentai", "neutral", "porn", "sexy")
UNSAFE = (1, 3, 4)
SIDE = 224
STRIDES = (1, 2, 1, 2, 1, 1, 2, 1, 1, 1, 1, 1, 1, 2, 1, 1, 1)
"""Of the 17 inverted residual blocks."""
EPSILON = 1e-3


class UnsafePictures:
    """Classifies pictures.

    Args:
        tensors: weights by the names of the original graph, float32.
    """

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        self._tensors = tensors

    @classmethod
    def load(cls, directory: Path = WEIGHTS) -> UnsafePictures:
        """The shipped weights."""
        return cls(dequantized(directory))

    def __call__(self, pictures: Sequence[Image.Image]) -> list[float]:
        """Probability that each picture is unsafe."""
        return self.classes(pictures)[:, list(UNSAFE)].sum(dim=1).tolist()

    @torch.inference_mode()
    def classes(self, pictures: Sequence[Image.Image]) -> Tensor:
        """Float [B, 5], probabilities in the order of ``CLASSES``."""
        batch = np.stack([np.asarray(_squared(picture), dtype=np.float32) for picture in pictures]) / 255
        states = torch.from_numpy(batch).permute(0, 3, 1, 2)
        states = self._convolved(functional.pad(states, (0, 1, 0, 1)), "Conv1", "bn_Conv1", stride=2)
        for block, stride in enumerate(STRIDES):
            states = self._block(states, "expanded_conv" if block == 0 else f"block_{block}", stride)
        states = self._convolved(states, "Conv_1", "Conv_1_bn").mean(dim=(2, 3))
        for layer, relu in (("dense_1", True), ("dense_2", True), ("dense_3", False)):
            states = states @ self._tensors[f"{layer}/kernel"] + self._tensors[f"{layer}/bias"]
            states = functional.relu(states) if relu else states
        return states.softmax(dim=1)

    def _block(self, states: Tensor, name: str, stride: int) -> Tensor:
        hidden = states
        if f"{name}_expand/kernel" in self._tensors:
            hidden = self._convolved(hidden, f"{name}_expand", f"{name}_expand_BN")
        kernel = self._tensors[f"{name}_depthwise/depthwise_kernel"].permute(2, 3, 0, 1)
        # Keras pads before and after by one; where it halves, only after.
        hidden = functional.pad(hidden, (1, 1, 1, 1) if stride == 1 else (0, 1, 0, 1))
        hidden = functional.conv2d(hidden, kernel, stride=stride, groups=kernel.shape[0])
        hidden = functional.relu6(self._normed(hidden, f"{name}_depthwise_BN"))
        hidden = self._convolved(hidden, f"{name}_project", f"{name}_project_BN", relu=False)
        return hidden + states if stride == 1 and hidden.shape == states.shape else hidden

    def _convolved(self, states: Tensor, name: str, norm: str, stride: int = 1, *, relu: bool = True) -> Tensor:
        kernel = self._tensors[f"{name}/kernel"].permute(3, 2, 0, 1)
        states = self._normed(functional.conv2d(states, kernel, stride=stride), norm)
        return functional.relu6(states) if relu else states

    def _normed(self, states: Tensor, name: str) -> Tensor:
        mean, variance, gamma, beta = (
            self._tensors[f"{name}/{part}"] for part in ("moving_mean", "moving_variance", "gamma", "beta")
        )
        return functional.batch_norm(states, mean, variance, gamma, beta, eps=EPSILON)


def dequantized(directory: Path) -> dict[str, Tensor]:
    """Tensors of a directory of eight-bit weights: value = byte * scale + smallest."""
    scales = json.loads((directory / "config.json").read_text(encoding="utf-8"))["quantization"]
    stored = load_file(directory / "model.safetensors")
    return {name: stored[name].float() * scale + smallest for name, (scale, smallest) in scales.items()}


def _squared(picture: Image.Image) -> Image.Image:
    return picture.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BILINEAR)
