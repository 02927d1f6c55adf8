"""The style translator: a drawing in one style becomes the drawing of the same thing in another, in one pass.

Image-to-image diffusion knows how other things look in a style; what another artist would do with *this* drawing it
can only guess. The corpus has the answer for some 1,450 concepts (each drawn in up to four styles), so a small
network learns it from pairs. It moves what is there before it paints: a flow field warps the source, a mask says
where new paint covers it. So shapes that agree stay sharp, and only what differs is drawn anew.

A U-Net of residual blocks conditioned on the wanted style by feature-wise affine layers (FiLM, Perez et al. 2018),
with attention over the coarsest places; which style it is given, it sees for itself.

Shapes: B pictures, C channels, H = W = 64 pixels, S styles.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn
from torch.nn import functional

from genrec.artifacts import canonical_json, file_digest
from genrec.content.corpus.concepts import STYLES
from genrec.content.vision.encoder import as_batch
from genrec.content.vision.tower import PIXELS
from genrec.errors import ArtifactError

SHIPPED = Path(__file__).resolve().parents[1] / "weights" / "restyler"
WEIGHTS, CONFIG = "model.safetensors", "config.json"
SCHEMA = 1
FARTHEST = 0.35
"""Farthest that the flow moves a pixel, as a share of the picture's side."""
WHITE, CORNER, WHITE_SHARE = 235, 4, 0.8


@dataclass(frozen=True)
class TranslatorShape:
    """Sizes: channels at 32, 16 and 8 places a side, and of the style's vector."""

    widths: tuple[int, int, int] = (24, 48, 80)
    style: int = 32


class FilmBlock(nn.Module):
    """Two 3 x 3 convolutions; the style scales and shifts what enters the second."""

    def __init__(self, width: int, style: int) -> None:
        super().__init__()
        self.before, self.between = nn.GroupNorm(4, width), nn.GroupNorm(4, width, affine=False)
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        self.film = nn.Linear(style, 2 * width)

    def forward(self, x_BCHW: Tensor, style_BD: Tensor) -> Tensor:
        """``[B, C, H, W]``, the same shape."""
        scale_BC, shift_BC = self.film(style_BD).chunk(2, dim=1)
        change_BCHW = self.between(self.first(functional.silu(self.before(x_BCHW))))
        change_BCHW = change_BCHW * (1 + scale_BC[:, :, None, None]) + shift_BC[:, :, None, None]
        answer: Tensor = x_BCHW + self.second(functional.silu(change_BCHW))
        return answer


class Attention(nn.Module):
    """One head over all places: parts of a drawing move together."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(4, width)
        self.ask, self.answer = nn.Conv2d(width, 3 * width, 1), nn.Conv2d(width, width, 1)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """``[B, C, H, W]``, the same shape."""
        query, key, value = (
            part.flatten(2).transpose(1, 2).contiguous() for part in self.ask(self.norm(x_BCHW)).chunk(3, dim=1)
        )
        seen = functional.scaled_dot_product_attention(query, key, value).transpose(1, 2)
        answer: Tensor = x_BCHW + self.answer(seen.reshape(x_BCHW.shape))
        return answer


class Translator(nn.Module):
    """Pictures in -1..1 and the wanted style's index to pictures in -1..1."""

    def __init__(self, shape: TranslatorShape | None = None) -> None:
        super().__init__()
        self.shape = shape or TranslatorShape()
        fine, middle, coarse = self.shape.widths
        style = self.shape.style
        self.styles = nn.Sequential(nn.Embedding(len(STYLES), style), nn.Linear(style, style), nn.SiLU())
        self.enter = nn.Conv2d(3, fine, 6, 2, 2)
        self.fine_down = FilmBlock(fine, style)
        self.to_middle = nn.Conv2d(fine, middle, 3, 2, 1)
        self.middle_down = nn.ModuleList(FilmBlock(middle, style) for _ in range(2))
        self.to_coarse = nn.Conv2d(middle, coarse, 3, 2, 1)
        self.coarse_blocks = nn.ModuleList(FilmBlock(coarse, style) for _ in range(2))
        self.attention = Attention(coarse)
        self.from_coarse = nn.Conv2d(coarse + middle, middle, 1)
        self.middle_up = nn.ModuleList(FilmBlock(middle, style) for _ in range(2))
        self.to_flow = nn.Conv2d(middle, 2, 3, padding=1)
        self.from_middle = nn.Conv2d(middle + fine, fine, 1)
        self.fine_up = FilmBlock(fine, style)
        self.to_paint = nn.Conv2d(fine, 4 * 4, 3, padding=1)
        for layer in (self.to_flow, self.to_paint):  # begins as the source, half painted with itself
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]

    def forward(self, pictures_B3HW: Tensor, style_B: Tensor) -> Tensor:
        """``[B, 3, 64, 64]``."""
        style_BD = self.styles(style_B)
        fine = self.fine_down(self.enter(pictures_B3HW), style_BD)
        middle = self.to_middle(fine)
        for block in self.middle_down:
            middle = block(middle, style_BD)
        coarse = self.to_coarse(middle)
        for block in self.coarse_blocks:
            coarse = self.attention(block(coarse, style_BD))
        middle = self.from_coarse(torch.cat([_doubled(coarse), middle], dim=1))
        for block in self.middle_up:
            middle = block(middle, style_BD)
        warped_B3HW = warp(pictures_B3HW, FARTHEST * torch.tanh(self.to_flow(middle)))
        fine = self.from_middle(torch.cat([_doubled(middle), fine], dim=1))
        fine = self.fine_up(fine, style_BD)
        painted_B4HW = functional.pixel_shuffle(self.to_paint(functional.silu(fine)), 2)
        mask_B1HW = torch.sigmoid(painted_B4HW[:, 3:])
        return warped_B3HW + mask_B1HW * painted_B4HW[:, :3]


def warp(pictures_B3HW: Tensor, flow_B2HW: Tensor) -> Tensor:
    """Each pixel taken from where the flow points, in shares of the side; what lies outside is white."""
    side = pictures_B3HW.shape[-1]
    flow = functional.interpolate(flow_B2HW.float(), size=side, mode="bilinear", align_corners=False)
    line = (torch.arange(side, dtype=torch.float32) * 2 + 1) / side - 1
    grid_HW2 = torch.stack([line.expand(side, side), line[:, None].expand(side, side)], dim=-1)
    places_BHW2 = grid_HW2 + 2 * flow.permute(0, 2, 3, 1)
    dark_B3HW = pictures_B3HW.float() - 1
    return 1 + functional.grid_sample(dark_B3HW, places_BHW2, mode="bilinear", align_corners=False)


def _doubled(x_BCHW: Tensor) -> Tensor:
    return functional.interpolate(x_BCHW, scale_factor=2, mode="nearest")


class StyleTranslator:
    """A trained translator for pictures of any size.

    Args:
        network: trained.
        version: names the weights: the first digits of their checksum.
    """

    def __init__(self, network: Translator, version: str = "") -> None:
        self.network, self.version = network.eval(), version

    @torch.inference_mode()
    def small(self, picture: Image.Image, style: str) -> Tensor:
        """``[1, 3, 64, 64]`` in -1..1: ``picture`` as it would be drawn in ``style``, one of the corpus's."""
        made: Tensor = self.network(as_batch([picture]).contiguous(), torch.tensor([STYLES.index(style)]))
        return made.clamp(-1, 1)


def is_drawing(picture: Image.Image) -> bool:
    """Whether a picture is of the kind that was learnt from: one thing on white.

    Told by its corners: white in nearly all their places.
    """
    pixels_HW3 = np.asarray(picture.convert("RGB").resize((PIXELS, PIXELS), Image.Resampling.LANCZOS))
    first, last = slice(None, CORNER), slice(-CORNER, None)
    corners = [pixels_HW3[down, across] for down in (first, last) for across in (first, last)]
    white = np.stack(corners).min(axis=-1) >= WHITE
    return bool(white.mean() >= WHITE_SHARE)


def save_translator(directory: Path, network: Translator, about: dict[str, Any]) -> None:
    """Write weights as float16 and config.json with their checksum; the model card is written by hand."""
    directory.mkdir(parents=True, exist_ok=True)
    partial = directory / f".{WEIGHTS}"
    partial.write_bytes(save({name: value.half().contiguous() for name, value in network.state_dict().items()}))
    partial.replace(directory / WEIGHTS)
    config = {
        "schema": SCHEMA,
        "shape": asdict(network.shape),
        "styles": STYLES,
        "sha256": file_digest(directory / WEIGHTS),
        "training": about,
    }
    (directory / CONFIG).write_bytes(canonical_json(config))


def load_translator(directory: Path = SHIPPED) -> Translator:
    """The network of a directory.

    Raises:
        ArtifactError: its weights are missing, altered, or of another genrec.
    """
    return _read(directory)[0]


def load_style_translator(directory: Path = SHIPPED) -> StyleTranslator:
    """What restyles pictures; see :func:`load_translator`."""
    network, checksum = _read(directory)
    return StyleTranslator(network, checksum[:12])


def _read(directory: Path) -> tuple[Translator, str]:
    again = "train it with `python -m genrec content train restyler`"
    for file in (directory / CONFIG, directory / WEIGHTS):
        if not file.is_file():
            raise ArtifactError(f"{file}: not there; {again}")
    try:
        config = json.loads((directory / CONFIG).read_bytes())
        if config["schema"] != SCHEMA or tuple(config["styles"]) != STYLES:
            raise ArtifactError(f"{directory / CONFIG}: of another genrec (schema or styles); {again}")
        sizes, checksum = config["shape"], str(config["sha256"])
        network = Translator(TranslatorShape(tuple(sizes["widths"]), sizes["style"]))
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError, ValueError) as error:
        raise ArtifactError(f"{directory / CONFIG}: not a translator's settings ({error}); {again}") from error
    if file_digest(directory / WEIGHTS) != checksum:
        raise ArtifactError(f"{directory / WEIGHTS}: its bytes differ from {CONFIG}; install the weights again")
    try:
        network.load_state_dict({name: value.float() for name, value in load_file(directory / WEIGHTS).items()})
    except (SafetensorError, RuntimeError) as error:
        raise ArtifactError(f"{directory / WEIGHTS}: does not fit {CONFIG} ({error}); {again}") from error
    return network.eval(), checksum
