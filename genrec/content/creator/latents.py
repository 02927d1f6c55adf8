"""Latents of small drawings: a linear code of patches, fitted by PCA, and back.

A 32-px picture is cut into 16 patches of 8 x 8 x 3 values; each becomes the coefficients of the leading principal
components. Coding and decoding are one matrix product, so pictures can be changed and coded anew in every training
step. The scale of a component is divided by the square root of its deviation ("half whitening"): a diffusion loss
then sees fine detail, yet still weighs coarse shape and colour most.

Shapes: B batch, P patches (16), C components, H = W = 32 pixels.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn


class PatchLatents(nn.Module):
    """The linear code.

    Args:
        size: side of a picture in pixels.
        patch: side of a patch.
        components: kept of each patch.
    """

    mean: Tensor
    basis: Tensor
    scale: Tensor

    def __init__(self, size: int = 32, patch: int = 8, components: int = 64) -> None:
        super().__init__()
        self.size, self.patch, self.components = size, patch, components
        width = patch * patch * 3
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("basis", torch.zeros(width, components))
        self.register_buffer("scale", torch.ones(components))

    @property
    def tokens(self) -> int:
        """Patches of a picture."""
        return (self.size // self.patch) ** 2

    def fit(self, pictures_B3HW: Tensor) -> float:
        """Fit to pictures in -1..1; returns the share of the variance that is kept."""
        patches = self._patches(pictures_B3HW).flatten(0, 1).double()
        mean = patches.mean(0)
        covariance = (patches - mean).T @ (patches - mean) / len(patches)
        values, vectors = torch.linalg.eigh(covariance)
        values, vectors = values.flip(0), vectors.flip(1)
        kept = values[: self.components].clamp_min(1e-8)
        half = kept.pow(0.25)
        self.mean.copy_(mean)
        self.basis.copy_(vectors[:, : self.components])
        self.scale.copy_(half * (kept / half.square()).mean().sqrt())
        return float(kept.sum() / values.sum())

    def encode(self, pictures_B3HW: Tensor) -> Tensor:
        """``[B, P, C]`` of pictures in -1..1."""
        return (self._patches(pictures_B3HW) - self.mean) @ self.basis / self.scale

    def decode(self, latents_BPC: Tensor) -> Tensor:
        """``[B, 3, H, W]``, in -1..1 but for overshoot."""
        patches = (latents_BPC * self.scale) @ self.basis.T + self.mean
        side, patch = self.size // self.patch, self.patch
        grid = patches.view(-1, side, side, 3, patch, patch)
        return grid.permute(0, 3, 1, 4, 2, 5).reshape(-1, 3, self.size, self.size)

    def _patches(self, pictures_B3HW: Tensor) -> Tensor:
        side, patch = self.size // self.patch, self.patch
        grid = pictures_B3HW.view(-1, 3, side, patch, side, patch)
        return grid.permute(0, 2, 4, 1, 3, 5).reshape(-1, side * side, 3 * patch * patch)


def to_tensor(pictures: Sequence[Image.Image], size: int) -> Tensor:
    """``[B, 3, size, size]`` in -1..1."""
    arrays = [np.asarray(p.convert("RGB").resize((size, size), Image.Resampling.BOX), np.float32) for p in pictures]
    return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).contiguous() / 127.5 - 1


def to_pictures(pixels_B3HW: Tensor) -> list[Image.Image]:
    """RGB pictures of tensors in -1..1."""
    arrays = ((pixels_B3HW.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    return [Image.fromarray(array, "RGB") for array in arrays]
