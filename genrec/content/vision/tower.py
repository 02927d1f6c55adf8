"""The image tower: a small convolutional network from 64-pixel pictures into the space of a frozen text encoder.

Two kinds of block, so that the encoder which the product uses and the judge which only evaluation uses share no
architecture: ``residual`` (He et al. 2016, pre-activation) starts from overlapping 4 x 4 patches and halves the grid at
each width; ``patch`` has no convolution that overlaps: 4 x 4 patches, joined by four, and a perceptron at each place.

The last grid is pooled, or kept place by place. A drawing of an emoji fills its square in one way only, so places tell
much; kept, they learn several times faster than pooled ones, and generalise better (docs/content.md).

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
        pool: what is kept of the last grid: mean and maximum of each channel, or every place of it.
        hidden: widths of the layers between the features and the text space; none: the map is linear.
        dropout: of the pooled features, in training.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    block: Literal["residual", "patch"]
    widths: tuple[PositiveInt, ...] = Field(min_length=1)
    depths: tuple[NonNegativeInt, ...] = Field(min_length=1)
    dimension: PositiveInt
    styles: tuple[str, ...]
    pool: Literal["moments", "places"] = "moments"
    hidden: tuple[PositiveInt, ...] = ()
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


class PatchBlock(nn.Module):
    """A perceptron of twice the width at each position."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.widen = nn.Conv2d(width, 2 * width, 1)
        self.narrow = nn.Conv2d(2 * width, width, 1)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """``[B, C, H, W]``, the same shape."""
        change_BCHW: Tensor = self.narrow(functional.gelu(self.widen(x_BCHW)))
        return x_BCHW + change_BCHW


BLOCKS: dict[str, type[nn.Module]] = {"residual": ResidualBlock, "patch": PatchBlock}


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
            stride = 2 if place else 4
            # Patches overlap a little: edges of drawings are thin, and a hard 4 x 4 grid cuts them.
            overlap = 0 if config.block == "patch" else stride - 1
            layers.append(nn.Conv2d(before, width, stride + overlap, stride, overlap))
            layers.extend(block(width) for _ in range(depth))
            before = width
        self.trunk = nn.Sequential(*layers)
        positions = (PIXELS // 4 // 2 ** (len(config.widths) - 1)) ** 2
        width = before * (positions if config.pool == "places" else 2)
        self.norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(config.dropout)
        self.to_style = nn.Linear(width, len(config.styles))
        # Concepts that look alike may lie far apart in words: hidden layers bend the map between the two.
        bends: list[nn.Module] = []
        for hidden in config.hidden:
            bends += [nn.Linear(width, hidden), nn.GELU()]
            width = hidden
        last = nn.Linear(width, config.dimension)
        self.to_text = nn.Sequential(*bends, last) if bends else last

    def features(self, pictures_BCHW: Tensor) -> Tensor:
        """Pooled by mean and by maximum, or all positions: ``[B, F]``.

        Args:
            pictures_BCHW: ``[B, 3, 64, 64]``, values from -1 to 1.
        """
        return self.pooled(self.trunk(pictures_BCHW))

    def maps(self, pictures_BCHW: Tensor) -> list[Tensor]:
        """The grids after each layer of the trunk; the last is what is pooled."""
        grids = [pictures_BCHW]
        for layer in self.trunk:
            grids.append(layer(grids[-1]))
        return grids[1:]

    def pooled(self, grid_BCHW: Tensor) -> Tensor:
        """Features ``[B, F]`` of the trunk's last grid."""
        if self.config.pool == "places":
            flat_BF: Tensor = self.norm(grid_BCHW.flatten(1))
            return flat_BF
        pooled_BF = torch.cat([grid_BCHW.mean(dim=(2, 3)), grid_BCHW.amax(dim=(2, 3))], dim=1)
        return self.norm(pooled_BF)

    def forward(self, pictures_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """Unit vectors ``[B, E]`` in the text space, and style logits ``[B, S]``."""
        return self.told(self.features(pictures_BCHW))

    def told(self, features_BF: Tensor) -> tuple[Tensor, Tensor]:
        """What :meth:`forward` gives, of pooled features."""
        vectors_BE = functional.normalize(self.to_text(self.dropout(features_BF)).float(), dim=1)
        return vectors_BE, self.to_style(features_BF).float()


def map_distance(ours: list[Tensor], theirs: list[Tensor]) -> Tensor:
    """``[B]``: squared difference of unit-length feature columns, averaged over places and layers (as LPIPS)."""
    parts = [
        (functional.normalize(one, dim=1) - functional.normalize(other, dim=1)).square().sum(dim=1).mean(dim=(1, 2))
        for one, other in zip(ours, theirs, strict=True)
    ]
    return torch.stack(parts).mean(dim=0)
