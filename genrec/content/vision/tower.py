"""The image tower: a small convolutional network from 64-pixel pictures into the space of a frozen text encoder.

Two kinds of block, so that the encoder which the product uses and the judge which only evaluation uses share no
architecture: ``residual`` (He et al. 2016, pre-activation) and ``convnext`` (Liu et al. 2022: a wide depthwise
convolution, then a two-layer perceptron a position). Both start from 4 x 4 patches and halve the grid twice.

A second head names the drawing style. It reads the same features, so that "how flat is this picture" needs no
second network.

Shape letters: B pictures, C channels, H and W height and width, F features, E dimension of the text space, S styles.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveInt
from torch import Tensor, nn
from torch.nn import functional

PIXELS = 64
"""Height and width of what a tower sees."""


class TowerConfig(BaseModel):
    """What a tower is built from; part of the shipped config.json.

    Attributes:
        block: kind of block.
        widths: channels at 16 x 16, 8 x 8 and 4 x 4 positions.
        depths: blocks at each of them.
        dimension: E, width of the text space.
        styles: names that the style head tells apart.
        hidden: width of the layer between the features and the text space; 0: none, the map is linear.
        dropout: of the pooled features, in training.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    block: Literal["residual", "convnext"]
    widths: tuple[PositiveInt, ...] = Field(min_length=1)
    depths: tuple[PositiveInt, ...] = Field(min_length=1)
    dimension: PositiveInt
    styles: tuple[str, ...]
    hidden: NonNegativeInt = 0
    dropout: float = Field(0.1, ge=0, lt=1)


class ResidualBlock(nn.Module):
    """Two 3 x 3 convolutions, normalised before each."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.BatchNorm2d(width) for _ in range(2))
        self.convolutions = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1, bias=False) for _ in range(2))

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """``[B, C, H, W]``, the same shape."""
        change_BCHW = x_BCHW
        for norm, convolution in zip(self.norms, self.convolutions, strict=True):
            change_BCHW = convolution(functional.silu(norm(change_BCHW)))
        return x_BCHW + change_BCHW


class ConvNeXtBlock(nn.Module):
    """Depthwise 5 x 5, then a perceptron of four times the width at each position."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(width, width, 5, padding=2, groups=width)
        self.norm = nn.LayerNorm(width)
        self.widen = nn.Linear(width, 4 * width)
        self.narrow = nn.Linear(4 * width, width)
        self.scale = nn.Parameter(torch.full((width,), 0.1))

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """``[B, C, H, W]``, the same shape."""
        x_BHWC = self.norm(self.depthwise(x_BCHW).permute(0, 2, 3, 1))
        change_BHWC = self.scale * self.narrow(functional.gelu(self.widen(x_BHWC)))
        return x_BCHW + change_BHWC.permute(0, 3, 1, 2)


BLOCKS: dict[str, type[nn.Module]] = {"residual": ResidualBlock, "convnext": ConvNeXtBlock}


def channels_last(tower: ImageTower) -> ImageTower:
    """The tower with its weights laid out as its products read them."""
    return tower.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


class ImageTower(nn.Module):
    """Pictures to unit vectors of the text space, and to style logits."""

    def __init__(self, config: TowerConfig) -> None:
        super().__init__()
        assert len(config.widths) == len(config.depths), "a depth for each width"
        self.config = config
        block = BLOCKS[config.block]
        layers: list[nn.Module] = []
        before = 3
        for place, (width, depth) in enumerate(zip(config.widths, config.depths, strict=True)):
            # Patches overlap a little: edges of drawings are thin, and a hard 4 x 4 grid cuts them.
            layers.append(
                nn.Conv2d(before, width, 7, stride=4, padding=3)
                if place == 0
                else nn.Conv2d(before, width, 3, stride=2, padding=1)
            )
            layers.extend(block(width) for _ in range(depth))
            before = width
        self.trunk = nn.Sequential(*layers)
        self.norm = nn.LayerNorm(2 * before)
        self.dropout = nn.Dropout(config.dropout)
        # Concepts that look alike may lie far apart in words: a hidden layer bends the map between the two.
        self.to_text = (
            nn.Sequential(nn.Linear(2 * before, config.hidden), nn.GELU(), nn.Linear(config.hidden, config.dimension))
            if config.hidden
            else nn.Linear(2 * before, config.dimension)
        )
        self.to_style = nn.Linear(2 * before, len(config.styles))

    def features(self, pictures_BCHW: Tensor) -> Tensor:
        """Pooled by mean and by maximum: ``[B, F]``.

        Args:
            pictures_BCHW: ``[B, 3, 64, 64]``, values from -1 to 1.
        """
        grid_BCHW = self.trunk(pictures_BCHW)
        pooled_BF = torch.cat([grid_BCHW.mean(dim=(2, 3)), grid_BCHW.amax(dim=(2, 3))], dim=1)
        return self.norm(pooled_BF)

    def forward(self, pictures_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """Unit vectors ``[B, E]`` in the text space, and style logits ``[B, S]``."""
        features_BF = self.features(pictures_BCHW)
        vectors_BE = functional.normalize(self.to_text(self.dropout(features_BF)).float(), dim=1)
        return vectors_BE, self.to_style(features_BF).float()
