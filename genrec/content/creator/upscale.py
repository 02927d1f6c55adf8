"""Super-resolution of the creator's pictures: 32 px to 256 px in one step, trained on the corpus's own large drawings.

A small residual network at 32 px whose last layer gives the 8 x 8 pixels of each pixel (sub-pixel convolution, Shi et
al. 2016), added to the bicubic enlargement. It is trained on drawings as the creator would make them, so that it
mends its blocks and blur as well. The ready-made ESRGAN-slim networks were tried first: trained on photographs, they
keep the stairs of a 32-px drawing.

Shapes: B batch, H = W = 32, S scale (8).
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from genrec.content.corpus.concepts import STYLES
from genrec.content.creator.latents import PatchLatents, to_tensor
from genrec.content.creator.network import Conditions, Network
from genrec.content.creator.words import WordEncoder

logger = logging.getLogger(__name__)
UPSCALER = "upscaler.safetensors"
LARGE_STYLES = ("flat", "3d")
FASTEST = 1.5e-3
MOST_NOISE = 0.55
DENOISING = 5


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
        self.last.bias = nn.Parameter(torch.zeros(3 * scale * scale))  # begins as the bicubic enlargement

    def forward(self, pixels_B3HW: Tensor) -> Tensor:
        """``[B, 3, S H, S W]``."""
        plain = nn.functional.interpolate(pixels_B3HW, scale_factor=self.scale, mode="bicubic", align_corners=False)
        x = self.first(pixels_B3HW)
        for block in self.inner:
            x = x + block(x)
        return plain + nn.functional.pixel_shuffle(self.last(nn.functional.silu(x)), self.scale)


@dataclass(frozen=True)
class Drawn:
    """Large drawings and what they show.

    Attributes:
        pixels_N3HW: uint8, 256 px.
        names: of their concepts.
        styles_N: index of each style.
    """

    pixels_N3HW: Tensor
    names: tuple[str, ...]
    styles_N: Tensor


def train_upscaler(
    packages: Path,
    creator: Path,
    *,
    steps: int = 1500,
    batch: int = 12,
    drawings: int = 1400,
    seed: int = 1,
    minutes: float | None = None,
    progress: Callable[[float], None] | None = None,
) -> Path:
    """Train on large drawings of concepts in the training part of the corpus; goes on from weights that are there.

    What it is given are the drawings as the creator would make them: coded, noised, and denoised by the creator's own
    network with their names as words. So it learns to mend what that network does badly.

    Args:
        packages: directory of npm tarballs.
        creator: directory with the creator's weights; gets ``upscaler.safetensors``.
        steps: of training.
        batch: drawings a step.
        drawings: how many are drawn large.
        seed: of weights and noise.
        minutes: cuts the run short; the learning rate follows whichever of the two budgets is nearer its end.
        progress: told the share that is done.
    """
    from genrec.content.creator.train import load_weights

    torch.manual_seed(seed)
    path = creator / UPSCALER
    network = (load_upscaler(path) if path.is_file() else Upscaler()).train()
    maker, latents, _ = load_weights(creator)
    drawn = _large_drawings(packages, latents.size * network.scale, drawings)
    generator = torch.Generator().manual_seed(seed)
    small_N3HW = _as_made(drawn, maker, latents, network.scale, generator)
    optimizer = torch.optim.AdamW(network.parameters(), lr=FASTEST, weight_decay=0.0)
    begin = time.monotonic()
    for step in range(steps):
        spent = (time.monotonic() - begin) / (minutes * 60) if minutes else 0.0
        done = max(step / steps, spent)
        if done >= 1:
            break
        optimizer.param_groups[0]["lr"] = FASTEST * min(1.0, (step + 1) / 50, 2.5 * (1 - done))
        rows = torch.randint(len(small_N3HW), (batch,), generator=generator)
        target = drawn.pixels_N3HW[rows].float() / 127.5 - 1
        made = network(small_N3HW[rows].float())
        loss = nn.functional.l1_loss(made, target) + 0.5 * edges_of(made - target)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if step % 50 == 0:
            logger.info("step %d loss %.4f", step, float(loss.detach()))
            if progress is not None:
                progress(done)
    half = {name: value.half().contiguous() for name, value in network.state_dict().items()}
    save_file(half, creator / f".{UPSCALER}")
    os.replace(creator / f".{UPSCALER}", path)
    return path


@torch.inference_mode()
def _as_made(
    drawn: Drawn, maker: Network, latents: PatchLatents, scale: int, generator: torch.Generator, batch: int = 64
) -> Tensor:
    """``[N, 3, H, W]``: each drawing small, noised to a random time and denoised in few steps by the creator."""
    encode = WordEncoder()
    made = []
    for begin in range(0, len(drawn.names), batch):
        rows = slice(begin, begin + batch)
        target = drawn.pixels_N3HW[rows].float() / 127.5 - 1
        codes = latents.encode(nn.functional.avg_pool2d(target, scale))
        words = encode(drawn.names[rows])
        given = Conditions(
            words.states_BTE,
            words.mask_BT,
            words.pooled_BE,
            torch.zeros_like(words.pooled_BE),
            drawn.styles_N[rows],
        )
        noised = MOST_NOISE * torch.rand(len(codes), 1, 1, generator=generator)
        x = (1 - noised) * codes + noised * torch.randn(codes.shape, generator=generator)
        for left in range(DENOISING, 0, -1):
            now = noised * left / DENOISING
            x = x - noised / DENOISING * maker(x, now.flatten(), given)
        made.append(latents.decode(x).clamp(-1.1, 1.1).half())
    return torch.cat(made)


def load_upscaler(path: Path) -> Upscaler:
    """The network of a weights file."""
    state = {name: value.float() for name, value in load_file(path).items()}
    blocks = sum(name.endswith(".0.weight") for name in state)
    network = Upscaler(len(state["first.bias"]), blocks, round((len(state["last.bias"]) / 3) ** 0.5))
    network.load_state_dict(state)
    return network.eval()


def edges_of(difference_B3HW: Tensor) -> Tensor:
    """Mean step between neighbours, across and down, of a difference of pictures: where their edges differ."""
    across = (difference_B3HW[..., 1:] - difference_B3HW[..., :-1]).abs().mean()
    return across + (difference_B3HW[..., 1:, :] - difference_B3HW[..., :-1, :]).abs().mean()


def _large_drawings(packages: Path, size: int, most: int) -> Drawn:
    """Drawings of ``most`` concepts, spread over all, in every other style."""
    from genrec.content.corpus.concepts import read_concepts, unseen_style
    from genrec.content.corpus.drawings import Drawings
    from genrec.content.corpus.packages import KEYWORDS, TWITTER, members

    words = members(packages, KEYWORDS, "dist/emoji-en-US.json")[""]
    concepts = [c for c in read_concepts(members(packages, TWITTER, "emoji.json")[""], words) if not c.held_out]
    source = Drawings(packages)
    stride = max(1.0, len(concepts) / most)
    pixels, names, styles = [], [], []
    for place in range(min(most, len(concepts))):
        concept, style = concepts[int(place * stride)], LARGE_STYLES[place % 2]
        picture = None if unseen_style(concept, style) else source.draw(concept, style, size)
        if picture is not None:
            pixels.append(((to_tensor([picture], size) + 1) * 127.5).round().to(torch.uint8))
            names.append(concept.name)
            styles.append(STYLES.index(style))
    return Drawn(torch.cat(pixels), tuple(names), torch.tensor(styles))
