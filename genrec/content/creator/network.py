"""The embedded creator's network: a small diffusion transformer over a picture's patches.

Sixteen patch tokens attend to one another and to the words' MiniLM token states; time, style, the pooled words and
the user's taste enter as one vector that scales and shifts every block (adaLN of DiT, Peebles & Xie 2023, shared by
the blocks as in PixArt-alpha, Chen et al. 2023). Few tokens of many values, rather than a U-Net over a finer grid,
because on a CPU the cost is tokens x parameters: at equal time it sees several times as many drawings.

The network predicts the velocity noise - data of rectified flow (Liu et al. 2023): x_t = (1 - t) data + t noise.

Shapes: B batch, P patches, C components of a patch, D width, T text tokens, E width of the text encoder.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from genrec.products import Linear


@dataclass(frozen=True)
class NetworkShape:
    """What the weights fit to."""

    patches: int = 16
    components: int = 64
    width: int = 192
    layers: int = 6
    heads: int = 3
    hidden: int = 576
    text: int = 384
    styles: int = 4

    def as_json(self) -> dict[str, Any]:
        """For config.json."""
        return asdict(self)


@dataclass
class Conditions:
    """What the picture is to be; each part may be absent, row by row.

    Attributes:
        words_BTE: token states of the prompt.
        mask_BT: which tokens are there.
        pooled_BE: the prompt's vector, length 1; zero: no words.
        taste_BE: the user's, or the recommender's next item's vector, length 1; zero: none.
        style_B: index of the style; ``styles`` itself means any.
    """

    words_BTE: Tensor
    mask_BT: Tensor
    pooled_BE: Tensor
    taste_BE: Tensor
    style_B: Tensor

    def to(self, device: torch.device) -> Conditions:
        """The same on a device."""
        return Conditions(
            self.words_BTE.to(device),
            self.mask_BT.to(device),
            self.pooled_BE.to(device),
            self.taste_BE.to(device),
            self.style_B.to(device),
        )

    def without_words(self, drop_B: Tensor) -> Conditions:
        """The same, with the words of some rows taken away."""
        keep = ~drop_B
        return Conditions(
            self.words_BTE, self.mask_BT & keep[:, None], self.pooled_BE * keep[:, None], self.taste_BE, self.style_B
        )


class Attention(nn.Module):
    """Multi-head attention with normalised queries and keys."""

    def __init__(self, width: int, heads: int, source: int | None = None) -> None:
        super().__init__()
        self.heads = heads
        self.queries = Linear(width, width, bias=False)
        self.pairs = Linear(width if source is None else source, 2 * width, bias=False)
        self.out = Linear(width, width, bias=False)
        self.norm_q = nn.RMSNorm(width // heads)
        self.norm_k = nn.RMSNorm(width // heads)

    def forward(self, x_BPD: Tensor, source_BTD: Tensor, mask_BT: Tensor | None = None) -> Tensor:
        """``[B, P, D]``."""
        query = self.norm_q(self.queries(x_BPD).unflatten(-1, (self.heads, -1)).transpose(1, 2))
        key, value = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in self.pairs(source_BTD).chunk(2, -1)
        )
        mask = None if mask_BT is None else mask_BT[:, None, None, :]
        mixed = nn.functional.scaled_dot_product_attention(query, self.norm_k(key), value, attn_mask=mask)
        return self.out(mixed.transpose(1, 2).flatten(2))


class Block(nn.Module):
    """Attention over patches, in every second block over words, and a gated feed-forward layer."""

    def __init__(self, shape: NetworkShape, *, reads: bool) -> None:
        super().__init__()
        width = shape.width
        self.own = Attention(width, shape.heads)
        self.words = Attention(width, shape.heads) if reads else None
        self.up = Linear(width, 2 * shape.hidden, bias=False)
        self.down = Linear(shape.hidden, width, bias=False)
        self.modulation = nn.Parameter(torch.zeros(6, width))
        if self.words is not None:
            nn.init.zeros_(self.words.out.weight)

    def forward(self, x_BPD: Tensor, words_BTD: Tensor, mask_BT: Tensor, shared_B6D: Tensor) -> Tensor:
        """``[B, P, D]``."""
        shift, scale, gate, shift2, scale2, gate2 = (shared_B6D + self.modulation).unsqueeze(2).unbind(1)
        normed = _norm(x_BPD) * (1 + scale) + shift
        x_BPD = x_BPD + gate * self.own(normed, normed)
        if self.words is not None:
            x_BPD = x_BPD + self.words(_norm(x_BPD), words_BTD, mask_BT)
        first, second = self.up(_norm(x_BPD) * (1 + scale2) + shift2).chunk(2, -1)
        return x_BPD + gate2 * self.down(nn.functional.silu(first) * second)


class Network(nn.Module):
    """Velocity of a noisy picture, given what it is to be."""

    def __init__(self, shape: NetworkShape) -> None:
        super().__init__()
        self.shape = shape
        width = shape.width
        self.patches = Linear(shape.components, width)
        self.places = nn.Parameter(torch.randn(1, shape.patches, width) * 0.02)
        self.time = nn.Sequential(Linear(width, width), nn.SiLU(), Linear(width, width))
        self.style = nn.Embedding(shape.styles + 1, width)
        self.pooled = nn.Sequential(Linear(shape.text, width), nn.SiLU(), Linear(width, width))
        self.taste = Linear(shape.text, width, bias=False)
        self.words = Linear(shape.text, width)
        self.none = nn.Parameter(torch.randn(1, 1, width) * 0.02)
        self.shared = Linear(width, 6 * width)
        self.blocks = nn.ModuleList(Block(shape, reads=place % 2 == 0) for place in range(shape.layers))
        self.last = Linear(width, 2 * width)
        self.out = Linear(width, shape.components)
        for layer in (self.shared, self.last, self.out):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        nn.init.normal_(self.style.weight, std=0.02)

    def forward(self, noisy_BPC: Tensor, time_B: Tensor, conditions: Conditions) -> Tensor:
        """``[B, P, C]``; ``time_B`` from 0 (data) to 1 (noise)."""
        root = math.sqrt(self.shape.text)
        state_BD = (
            self.time(_waves(time_B, self.shape.width))
            + self.style(conditions.style_B)
            + self.pooled(conditions.pooled_BE * root)
            + self.taste(conditions.taste_BE * root)
        )
        context = (self.words(conditions.words_BTE), self.none.expand(len(noisy_BPC), -1, -1))
        words_BTD = _norm(torch.cat(context, 1))
        mask_BT = nn.functional.pad(conditions.mask_BT, (0, 1), value=True)
        shared_B6D = self.shared(nn.functional.silu(state_BD)).unflatten(-1, (6, -1))
        x_BPD = self.patches(noisy_BPC) + self.places
        for block in self.blocks:
            x_BPD = block(x_BPD, words_BTD, mask_BT, shared_B6D)
        shift, scale = self.last(nn.functional.silu(state_BD)).unsqueeze(1).chunk(2, -1)
        return self.out(_norm(x_BPD) * (1 + scale) + shift)


def _norm(x: Tensor) -> Tensor:
    return nn.functional.layer_norm(x, x.shape[-1:])


def _waves(time_B: Tensor, width: int) -> Tensor:
    half = width // 2
    rates = torch.exp(-math.log(1000.0) * torch.arange(half, device=time_B.device) / half)
    angles = 1000.0 * time_B[:, None].float() * rates
    return torch.cat((angles.cos(), angles.sin()), -1)
