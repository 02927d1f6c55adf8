"""The style translator: a drawing in one style becomes the drawing of the same thing in another, in one pass.

Image-to-image diffusion knows how other things look in a style; what another artist would do with *this* drawing it
can only guess. The corpus has the answer for some 1,450 concepts (each drawn in up to four styles), so a small
network learns it from pairs. It moves and colours what is there before it paints: a flow field warps the source,
affine maps of its colours, one for each place (Gharbi et al. 2017), bring it to the other palette, and a mask says
where new paint covers it. So shapes that agree stay sharp, and only what differs is drawn anew.

Residual blocks over 16 x 16 and 8 x 8 places, conditioned by feature-wise affine layers (FiLM, Perez et al. 2018) on
the wanted style and, on the way up, on the drawing as a whole: what stands elsewhere in it decides a colour. Attention
over the coarse places lets parts move together. Which style it is given, it sees for itself.

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
SCHEMA = 2
FARTHEST = 0.35
"""Farthest that the flow moves a pixel, as a share of the picture's side."""
PATCH = 4
"""Pixels a side that stand at one of the 16 x 16 places."""
UNPAINTED, BRIGHTEST = 1.5, 1.2
"""Logit of leaving a place unpainted at the start; reach of the paint, beyond white so that white is met."""
WHITE, CORNER, WHITE_SHARE = 235, 2, 0.8


@dataclass(frozen=True)
class TranslatorShape:
    """Sizes: channels at 16 and 8 places a side, and of the style's vector; blocks before, at and after the coarse."""

    fine: int = 56
    coarse: int = 112
    style: int = 32
    blocks: tuple[int, int, int] = (1, 2, 1)


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
        fine, coarse, style = self.shape.fine, self.shape.coarse, self.shape.style
        before, between, after = self.shape.blocks
        self.styles = nn.Sequential(nn.Embedding(len(STYLES), style), nn.Linear(style, style), nn.SiLU())
        self.enter = nn.Conv2d(3, fine, 2 * PATCH, PATCH, PATCH // 2)
        self.down = nn.ModuleList(FilmBlock(fine, style) for _ in range(before))
        self.to_coarse = nn.Conv2d(fine, coarse, 2, 2)
        self.coarse_blocks = nn.ModuleList(FilmBlock(coarse, style) for _ in range(between))
        self.attention = nn.ModuleList(Attention(coarse) for _ in range(between))
        self.whole = nn.Linear(2 * coarse, style)
        self.from_coarse = nn.Conv2d(coarse + fine, fine, 1)
        self.up = nn.ModuleList(FilmBlock(fine, style) for _ in range(after))
        self.to_flow = nn.Conv2d(fine, 2, 3, padding=1)
        self.to_colours = nn.Conv2d(fine, 3 * 4, 3, padding=1)
        self.to_paint = nn.Conv2d(fine, 4 * 4, 3, padding=1)
        for layer in (self.to_flow, self.to_colours, self.to_paint):  # begins as the source under a little grey
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]

    def forward(self, pictures_B3HW: Tensor, style_B: Tensor) -> Tensor:
        """``[B, 3, 64, 64]``."""
        style_BD = self.styles(style_B)
        fine = self.enter(pictures_B3HW)
        for block in self.down:
            fine = block(fine, style_BD)
        coarse = self.to_coarse(fine)
        for block, attention in zip(self.coarse_blocks, self.attention, strict=True):
            coarse = attention(block(coarse, style_BD))
        style_BD = style_BD + self.whole(torch.cat([coarse.mean(dim=(2, 3)), coarse.amax(dim=(2, 3))], dim=1))
        doubled = functional.interpolate(coarse, scale_factor=2, mode="nearest")
        fine = self.from_coarse(torch.cat([doubled, fine], dim=1))
        for block in self.up:
            fine = block(fine, style_BD)
        warped_B3HW = warp(pictures_B3HW, FARTHEST * torch.tanh(self.to_flow(fine)))
        coloured_B3HW = recolour(warped_B3HW, self.to_colours(fine))
        painted_B4HW = functional.pixel_shuffle(self.to_paint(functional.silu(fine)), 2).float()
        paint_B3HW = broad(BRIGHTEST * torch.tanh(painted_B4HW[:, :3]))
        mask_B1HW = broad(torch.sigmoid(painted_B4HW[:, 3:] - UNPAINTED))
        return coloured_B3HW + mask_B1HW * (paint_B3HW - coloured_B3HW)


def warp(pictures_B3HW: Tensor, flow_B2HW: Tensor) -> Tensor:
    """Each pixel taken from where the flow points, in shares of the side; what lies outside is white."""
    side = pictures_B3HW.shape[-1]
    flow = functional.interpolate(flow_B2HW.float(), size=side, mode="bilinear", align_corners=False)
    line = (torch.arange(side, dtype=torch.float32) * 2 + 1) / side - 1
    grid_HW2 = torch.stack([line.expand(side, side), line[:, None].expand(side, side)], dim=-1)
    places_BHW2 = grid_HW2 + 2 * flow.permute(0, 2, 3, 1)
    dark_B3HW = pictures_B3HW.float() - 1
    return 1 + functional.grid_sample(dark_B3HW, places_BHW2, mode="bilinear", align_corners=False)


def broad(painted_BCHW: Tensor) -> Tensor:
    """Twice the side, laid on with a brush of [1 2 1] a side: nothing finer than that can be painted.

    A network that is trained on what towers see finds textures that please their patches and nobody's eyes.
    """
    brushed = functional.pad(painted_BCHW, [1] * 4, mode="replicate")
    for _ in range(2):
        brushed = functional.avg_pool2d(brushed, 2, 1)
    return functional.interpolate(brushed, scale_factor=2, mode="bilinear", align_corners=False)


def recolour(pictures_B3HW: Tensor, maps_BMHW: Tensor) -> Tensor:
    """Each colour changed by the affine map of its place, M = 12 numbers; white is its origin, zeros change nothing."""
    side = pictures_B3HW.shape[-1]
    maps = functional.interpolate(maps_BMHW.float(), size=side, mode="bilinear", align_corners=False)
    maps_B34HW = maps.reshape(len(maps), 3, 4, side, side)
    dark_B3HW = pictures_B3HW - 1
    change_B3HW = (maps_B34HW[:, :, :3] * dark_B3HW[:, None]).sum(dim=2) + maps_B34HW[:, :, 3]
    return pictures_B3HW + change_B3HW


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
        network = Translator(TranslatorShape(**sizes | {"blocks": tuple(sizes["blocks"])}))
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError, ValueError) as error:
        raise ArtifactError(f"{directory / CONFIG}: not a translator's settings ({error}); {again}") from error
    if file_digest(directory / WEIGHTS) != checksum:
        raise ArtifactError(f"{directory / WEIGHTS}: its bytes differ from {CONFIG}; install the weights again")
    try:
        network.load_state_dict({name: value.float() for name, value in load_file(directory / WEIGHTS).items()})
    except (SafetensorError, RuntimeError) as error:
        raise ArtifactError(f"{directory / WEIGHTS}: does not fit {CONFIG} ({error}); {again}") from error
    return network.eval(), checksum
