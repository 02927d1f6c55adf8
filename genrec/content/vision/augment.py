"""Light augmentation of a batch of drawings, on tensors: place, size, turn, mirror, colour.

A drawing keeps its meaning under all of them; hues are left alone, because a green apple is not a red one.

Shape letters: B pictures, H and W height and width.
"""

from __future__ import annotations

import math

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor
from torch.nn import functional


class Augmentation(BaseModel):
    """How far pictures are changed.

    Attributes:
        turn: largest turn, degrees.
        shift: largest shift, share of the width.
        zoom: largest change of size, share.
        mirror: share of pictures mirrored.
        brightness: largest change of brightness and contrast, share.
        hide: share of pictures of which a square of a quarter of the width is hidden.
        soften: share of pictures that are shown as if they had half the pixels.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    turn: float = Field(12.0, ge=0)
    shift: float = Field(0.08, ge=0)
    zoom: float = Field(0.2, ge=0, lt=1)
    mirror: float = Field(0.5, ge=0, le=1)
    brightness: float = Field(0.2, ge=0, lt=1)
    hide: float = Field(0.0, ge=0, le=1)
    soften: float = Field(0.0, ge=0, le=1)

    def __call__(self, pictures_B3HW: Tensor, generator: torch.Generator) -> Tensor:
        """Change each picture of a batch at random.

        Args:
            pictures_B3HW: ``[B, 3, H, W]``, values from -1 to 1; white is 1.
            generator: where the chance comes from.

        Returns:
            The same shape and range.
        """
        placed_B3HW = self._place(pictures_B3HW, generator)
        size = len(pictures_B3HW)
        gain_B111, lift_B111 = (_spread(size, self.brightness, generator).view(-1, 1, 1, 1) for _ in range(2))
        coloured_B3HW = (placed_B3HW * (1 + gain_B111) + lift_B111).clamp(-1, 1)
        return self._hide(self._soften(coloured_B3HW, generator), generator)

    def _place(self, pictures_B3HW: Tensor, generator: torch.Generator) -> Tensor:
        size = len(pictures_B3HW)
        angle_B = _spread(size, math.radians(self.turn), generator)
        zoom_B = 1 + _spread(size, self.zoom, generator)
        side_B = 1 - 2 * (torch.rand(size, generator=generator) < self.mirror).float()
        cos_B, sin_B = torch.cos(angle_B) * zoom_B, torch.sin(angle_B) * zoom_B
        shift_B2 = 2 * torch.stack([_spread(size, self.shift, generator) for _ in range(2)], dim=1)
        matrix_B23 = torch.stack(
            [
                torch.stack([cos_B * side_B, -sin_B, shift_B2[:, 0]], dim=1),
                torch.stack([sin_B * side_B, cos_B, shift_B2[:, 1]], dim=1),
            ],
            dim=1,
        )
        grid_BHW2 = functional.affine_grid(matrix_B23, list(pictures_B3HW.shape), align_corners=False)
        # Outside is white: sampling pads with 0, so 0 is made to mean white for the moment.
        return functional.grid_sample(pictures_B3HW - 1, grid_BHW2, align_corners=False) + 1

    def _soften(self, pictures_B3HW: Tensor, generator: torch.Generator) -> Tensor:
        if not self.soften:
            return pictures_B3HW
        chosen_B111 = (torch.rand(len(pictures_B3HW), generator=generator) < self.soften).view(-1, 1, 1, 1)
        half_B3HW = functional.avg_pool2d(pictures_B3HW, 2)
        size = list(pictures_B3HW.shape[2:])
        soft_B3HW = functional.interpolate(half_B3HW, size=size, mode="bilinear", align_corners=False)
        return torch.where(chosen_B111, soft_B3HW, pictures_B3HW)

    def _hide(self, pictures_B3HW: Tensor, generator: torch.Generator) -> Tensor:
        if not self.hide:
            return pictures_B3HW
        size, _, height, width = pictures_B3HW.shape
        top_B1, left_B1 = (torch.rand(size, 1, generator=generator) * 0.75 for _ in range(2))
        rows_H, columns_W = torch.arange(height) / height, torch.arange(width) / width
        inside_BH = (rows_H >= top_B1) & (rows_H < top_B1 + 0.25)
        inside_BW = (columns_W >= left_B1) & (columns_W < left_B1 + 0.25)
        chosen_B11 = (torch.rand(size, generator=generator) < self.hide).view(-1, 1, 1)
        hidden_BHW = inside_BH[:, :, None] & inside_BW[:, None, :] & chosen_B11
        return pictures_B3HW.masked_fill(hidden_BHW[:, None], 0.0)


def _spread(size: int, most: float, generator: torch.Generator) -> Tensor:
    """``[size]``, uniform from -most to most."""
    return (2 * torch.rand(size, generator=generator) - 1) * most
