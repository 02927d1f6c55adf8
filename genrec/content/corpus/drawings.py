"""The drawings: read from the packages, put on white, brought to one size; and their main colour, also changed.

Twemoji and Noto come as 72-px PNG, Fluent 3D as WebP, Fluent flat as SVG, which resvg rasterises.
"""

from __future__ import annotations

import colorsys
import io
import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from genrec.content.corpus.concepts import COLOURS, Concept
from genrec.content.corpus.packages import FLUENT_3D, FLUENT_FLAT, GOOGLE, TWITTER, members

# Middle of each colour word on the circle of hues (0 to 1), and how far it reaches.
HUES = {"red": 0.0, "orange": 0.075, "yellow": 0.14, "green": 0.36, "blue": 0.58, "purple": 0.76, "pink": 0.91}
LEAST_SATURATION = 0.25


class Drawings:
    """Pictures of concepts by style, from a directory of npm tarballs."""

    def __init__(self, packages: Path) -> None:
        self._folders = {
            "twitter": members(packages, TWITTER, "img/twitter/64/"),
            "google": members(packages, GOOGLE, "img/google/64/"),
            "3d": members(packages, FLUENT_3D, "assets/"),
        }
        flat = members(packages, FLUENT_FLAT, "")
        self._icons = json.loads(flat["icons.json"])
        self._names = json.loads(flat["chars.json"])

    def draw(self, concept: Concept, style: str, size: int) -> Image.Image | None:
        """RGB on white, ``size`` x ``size``; None if the style has no drawing of the concept."""
        if style == "flat":
            svg = self._svg(concept.code)
            return None if svg is None else on_white(_rasterise(svg, size * 2), size)
        ending = "webp" if style == "3d" else "png"
        for code in _spellings(concept.code):
            raw = self._folders[style].get(f"{code}.{ending}")
            if raw is not None:
                with Image.open(io.BytesIO(raw)) as picture:
                    return on_white(picture, size)
        return None

    def _svg(self, code: str) -> str | None:
        for spelling in _spellings(code):
            name = self._names.get(spelling)
            icon = self._icons["icons"].get(name)
            if icon is not None:
                width, height = self._icons.get("width", 32), self._icons.get("height", 32)
                return (
                    f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
                    f'viewBox="0 0 {width} {height}">{icon["body"]}</svg>'
                )
        return None


def _rasterise(svg: str, size: int) -> Image.Image:
    import resvg_py

    return Image.open(io.BytesIO(bytes(resvg_py.svg_to_bytes(svg_string=svg, width=size, height=size))))


def _spellings(code: str) -> list[str]:
    """The ways packages write a sequence: as it is, without variation selectors, without leading zeros."""
    bare = "-".join(point for point in code.split("-") if point != "fe0f")
    names = [code, bare, f"{bare}-fe0f"]
    return list(dict.fromkeys([*names, *("-".join(p.lstrip("0") for p in name.split("-")) for name in names)]))


def on_white(picture: Image.Image, size: int) -> Image.Image:
    """The picture on a white square of ``size``, sides kept in proportion."""
    layer = picture.convert("RGBA")
    side = max(layer.size)
    canvas = Image.new("RGBA", (side, side), (255, 255, 255, 255))
    canvas.alpha_composite(layer, ((side - layer.width) // 2, (side - layer.height) // 2))
    return canvas.convert("RGB").resize((size, size), Image.Resampling.LANCZOS)


def main_hue(picture: Image.Image) -> float | None:
    """The hue (0 to 1) that most of the picture's colour has; None if it is grey, or of many colours."""
    hue, saturation, value = _hsv(picture)
    weight = np.where(saturation > LEAST_SATURATION, saturation * value, 0.0)
    total = weight.sum()
    if total < 0.04 * weight.size:
        return None
    angle = np.exp(2j * np.pi * hue)
    mean = (weight * angle).sum() / total
    return None if abs(mean) < 0.75 else float(np.angle(mean) / (2 * np.pi) % 1.0)


def colour_word(hue: float) -> str:
    """The colour word whose hue is nearest."""
    return min(COLOURS, key=lambda word: abs((hue - HUES[word] + 0.5) % 1.0 - 0.5))


def recoloured(picture: Image.Image, colour: str, hue: float) -> Image.Image:
    """The picture with its hues turned so that its main hue becomes the colour's; light and shade are kept."""
    hues, saturation, value = _hsv(picture)
    turned = (hues + HUES[colour] - hue) % 1.0
    mode = np.stack([turned, saturation, value], axis=-1)
    return Image.fromarray((_rgb(mode) * 255).round().astype(np.uint8), "RGB")


def _hsv(picture: Image.Image) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    parts = np.asarray(picture.convert("HSV"), dtype=np.float32) / np.float32(255)
    return parts[..., 0], parts[..., 1], parts[..., 2]


def _rgb(hsv: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray(
        Image.fromarray((hsv * 255).round().astype(np.uint8), "HSV").convert("RGB"), dtype=np.float32
    ) / np.float32(255)


def sample_of(colour: str) -> tuple[int, int, int]:
    """A plain RGB sample of a colour word."""
    red, green, blue = colorsys.hsv_to_rgb(HUES[colour], 0.85, 0.9)
    return round(red * 255), round(green * 255), round(blue * 255)
