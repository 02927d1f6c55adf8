"""Super-resolution of the creator's pictures: 32 px to 256 px in one step, trained on the corpus's own large drawings.

A small residual network at 32 px whose last layer gives the 8 x 8 pixels of each pixel (sub-pixel convolution, Shi et
al. 2016), added to the bicubic enlargement. It is trained on what the latent code leaves of a drawing, with noise on
the latents, so that it mends the creator's blocks and blur as well. The ready-made ESRGAN-slim networks were tried
first: trained on photographs, they keep the stairs of a 32-px drawing.

Shapes: B batch, H = W = 32, S scale (8).
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from genrec.content.creator.latents import PatchLatents, to_tensor

logger = logging.getLogger(__name__)
UPSCALER = "upscaler.safetensors"
STYLES = ("flat", "3d")


class Upscaler(nn.Module):
    """``scale`` times the width and height; pixels in -1..1."""

    def __init__(self, width: int = 40, blocks: int = 5, scale: int = 8) -> None:
        super().__init__()
        self.scale = scale
        self.first = nn.Conv2d(3, width, 5, padding=2)
        self.inner = nn.ModuleList(
            nn.Sequential(nn.Conv2d(width, width, 3, padding=1), nn.SiLU(), nn.Conv2d(width, width, 3, padding=1))
            for _ in range(blocks)
        )
        self.last = nn.Conv2d(width, 3 * scale * scale, 3, padding=1)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)  # begins as the bicubic enlargement

    def forward(self, pixels_B3HW: Tensor) -> Tensor:
        """``[B, 3, S H, S W]``."""
        plain = nn.functional.interpolate(pixels_B3HW, scale_factor=self.scale, mode="bicubic", align_corners=False)
        x = self.first(pixels_B3HW)
        for block in self.inner:
            x = x + block(x)
        return plain + nn.functional.pixel_shuffle(self.last(nn.functional.silu(x)), self.scale)


def train_upscaler(
    packages: Path,
    latents: PatchLatents,
    out: Path,
    *,
    steps: int = 1500,
    batch: int = 12,
    drawings: int = 1400,
    seed: int = 1,
    minutes: float | None = None,
    progress: Callable[[float], None] | None = None,
) -> Path:
    """Train on ``drawings`` large drawings of concepts in the training part of the corpus; returns the weights' file.

    ``minutes`` cuts the run short; the learning rate follows whichever of the two budgets is nearer its end.
    """
    torch.manual_seed(seed)
    network = Upscaler().to(memory_format=torch.channels_last)
    large = _large_drawings(packages, latents.size * network.scale, drawings)
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3, weight_decay=0.0)
    begin = time.monotonic()
    out.mkdir(parents=True, exist_ok=True)
    for step in range(steps):
        spent = (time.monotonic() - begin) / (minutes * 60) if minutes else 0.0
        done = max(step / steps, spent)
        if done >= 1:
            break
        optimizer.param_groups[0]["lr"] = 2e-3 * min(1.0, (step + 1) / 50, 2.5 * (1 - done))
        rows = torch.randint(len(large), (batch,), generator=generator)
        target = large[rows].float() / 127.5 - 1
        codes = latents.encode(nn.functional.avg_pool2d(target, network.scale))
        amount = 0.25 * torch.rand(batch, 1, 1, generator=generator).square()
        small = latents.decode(codes + amount * torch.randn(codes.shape, generator=generator)).clamp(-1.1, 1.1)
        made = network(small.contiguous(memory_format=torch.channels_last))
        loss = nn.functional.l1_loss(made, target) + 0.5 * _edges(made - target)
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if step % 50 == 0:
            logger.info("step %d loss %.4f", step, float(loss.detach()))
            if progress is not None:
                progress(done)
    path = out / UPSCALER
    save_file({name: value.half().contiguous() for name, value in network.state_dict().items()}, out / f".{UPSCALER}")
    os.replace(out / f".{UPSCALER}", path)
    return path


def load_upscaler(path: Path) -> Upscaler:
    """The network of a weights file."""
    state = {name: value.float() for name, value in load_file(path).items()}
    blocks = sum(name.endswith(".0.weight") for name in state)
    network = Upscaler(len(state["first.bias"]), blocks, round((len(state["last.bias"]) / 3) ** 0.5))
    network.load_state_dict(state)
    return network.eval()


def _edges(difference_B3HW: Tensor) -> Tensor:
    across = (difference_B3HW[..., 1:] - difference_B3HW[..., :-1]).abs().mean()
    return across + (difference_B3HW[..., 1:, :] - difference_B3HW[..., :-1, :]).abs().mean()


def _large_drawings(packages: Path, size: int, most: int) -> Tensor:
    """uint8 ``[N, 3, size, size]``; every other style, spread over the concepts."""
    from genrec.content.corpus.concepts import read_concepts
    from genrec.content.corpus.drawings import Drawings
    from genrec.content.corpus.packages import KEYWORDS, TWITTER, members

    words = members(packages, KEYWORDS, "dist/emoji-en-US.json")[""]
    concepts = [c for c in read_concepts(members(packages, TWITTER, "emoji.json")[""], words) if not c.held_out]
    source = Drawings(packages)
    stride = max(1.0, len(concepts) / most)
    chosen = [concepts[int(place * stride)] for place in range(min(most, len(concepts)))]
    drawn = [source.draw(concept, STYLES[place % 2], size) for place, concept in enumerate(chosen)]
    pixels = [((to_tensor([picture], size) + 1) * 127.5).round().to(torch.uint8) for picture in drawn if picture]
    return torch.cat(pixels)
