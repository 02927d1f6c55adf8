"""An invisible watermark of 32 bits that survives JPEG, resizing and cropping.

Spread spectrum on the luminance (Cox et al. 1997), laid out as a tile that repeats over the whole picture, so that any
crop holds it. One more pattern, always the same, tells the reader where the tile begins and at which scale: the
picture is folded to one tile, and the strongest cyclic shift is found by Fourier transform. All patterns are
orthogonal, of middle frequencies (what JPEG and a smaller size leave), and stronger where the picture is busy.

Shape letters: H, W height and width of the picture, S side of the tile.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import uniform_filter

BITS = 32
SIDE = 64
LOW, HIGH = 0.05, 0.22
"""Band of the patterns in cycles a pixel."""
SYNC_POWER = 9.0
"""Energy of the pattern that says where the tile begins, in bits."""
FLAT, BUSY, STRONGEST = 1.8, 0.18, 5.0
"""Standard deviation of the mark in grey levels: where nothing is, per grey level of local deviation, and at most."""
CERTAIN = 6.5
"""Deviations above the mean at which the strongest shift counts as found; chance gives about 5 among all scales."""
COMMON = (0.75, 0.5, 0.9, 1.25, 2 / 3, 4 / 3, 0.8, 1 / 0.9)
"""Scales that pictures are usually brought to."""
SMALLEST = 256
"""Pixels of the shorter side below which there is no room for the mark."""

Plane = NDArray[np.float64]


@dataclass(frozen=True)
class Reading:
    """What was read.

    Attributes:
        found: the mark is there.
        payload: its bits as a number; of no meaning unless found.
        certainty: how far the strongest shift stands out, in standard deviations.
        scale: size of the picture against the one that was marked.
    """

    found: bool
    payload: int
    certainty: float
    scale: float


@lru_cache(maxsize=1)
def _patterns() -> Plane:
    """[1 + BITS, S, S]: the pattern that marks the beginning, then the bits'; orthogonal, of unit variance."""
    rng = np.random.default_rng(20250731)
    fy, fx = np.meshgrid(np.fft.fftfreq(SIDE), np.fft.fftfreq(SIDE), indexing="ij")
    radius = np.hypot(fy, fx)
    band = (radius >= LOW) & (radius <= HIGH)
    noise = rng.standard_normal((1 + BITS, SIDE, SIDE))
    shaped = np.fft.ifft2(np.fft.fft2(noise) * band).real.reshape(1 + BITS, -1)
    orthogonal = np.linalg.qr(shaped.T)[0].T
    return orthogonal.reshape(1 + BITS, SIDE, SIDE) * SIDE


def _luminance(picture: Image.Image) -> Plane:
    return np.asarray(picture.convert("L"), dtype=np.float64)


def _deviation(plane: Plane, size: int = 9) -> Plane:
    mean = uniform_filter(plane, size, mode="reflect")
    return np.sqrt(np.maximum(uniform_filter(plane**2, size, mode="reflect") - mean**2, 0.0))


def embed(picture: Image.Image, payload: int) -> Image.Image:
    """The picture with ``payload`` in it; one smaller than 256 pixels is enlarged first.

    Args:
        picture: RGB.
        payload: 0 to 2**32 - 1.
    """
    assert 0 <= payload < 2**BITS
    rgb = picture.convert("RGB")
    short = min(rgb.size)
    if short < SMALLEST:
        factor = SMALLEST / short
        rgb = rgb.resize((round(rgb.width * factor), round(rgb.height * factor)), Image.Resampling.LANCZOS)
    signs = 1.0 - 2.0 * ((payload >> np.arange(BITS)) & 1)
    patterns = _patterns()
    tile = np.sqrt(SYNC_POWER) * patterns[0] + np.tensordot(signs, patterns[1:], axes=1)
    tile /= tile.std()
    repeats = (rgb.height // SIDE + 1, rgb.width // SIDE + 1)
    mark_HW = np.tile(tile, repeats)[: rgb.height, : rgb.width]
    strength_HW = np.minimum(FLAT + BUSY * _deviation(_luminance(rgb)), STRONGEST)
    pixels = np.asarray(rgb, dtype=np.float64) + (strength_HW * mark_HW)[..., None]
    return Image.fromarray(np.clip(np.rint(pixels), 0, 255).astype(np.uint8), "RGB")


def read(picture: Image.Image, *, search: bool = True) -> Reading:
    """The mark of a picture, whatever crop of it and at whatever scale from .5 to 1.4 this is.

    Args:
        picture: any mode.
        search: also try other scales than the picture's own; false: a picture as it was marked.
    """
    plane = _luminance(picture)
    best = _at_scale(plane, 1.0)
    if best.found or not search:
        return best
    for factor in _scales(1.6 / max(picture.size)):
        if best.found and factor not in COMMON:
            break
        # To read a picture that is ``factor`` times as large as marked, undo that.
        size = (round(picture.width / factor), round(picture.height / factor))
        if min(size) < SIDE or max(size) > 4096:
            continue
        resized = Image.fromarray(plane.astype(np.float32)).resize(size, Image.Resampling.BICUBIC)
        reading = _at_scale(np.asarray(resized, dtype=np.float64), factor)
        if reading.certainty > best.certainty:
            best = reading
    return best


def _scales(step: float) -> list[float]:
    """Scales to try: the usual ones, then all in steps that leave no pattern out of step at the picture's edge."""
    return [*COMMON, *sorted(np.arange(0.5, 1.4, step).tolist(), key=lambda factor: abs(np.log(factor)))]


def _at_scale(plane_HW: Plane, scale: float) -> Reading:
    residual = plane_HW - uniform_filter(plane_HW, 11, mode="reflect")
    residual /= _deviation(residual, 11) + 1.5
    height, width = -(-residual.shape[0] // SIDE) * SIDE, -(-residual.shape[1] // SIDE) * SIDE
    padded = np.zeros((height, width))
    padded[: residual.shape[0], : residual.shape[1]] = residual
    folded = padded.reshape(height // SIDE, SIDE, width // SIDE, SIDE).sum(axis=(0, 2))
    spectrum, patterns = np.fft.fft2(folded), _patterns()
    match = np.fft.ifft2(spectrum * np.conj(np.fft.fft2(patterns[0]))).real
    certainty = float((match.max() - match.mean()) / (match.std() + 1e-12))
    dy, dx = np.unravel_index(int(match.argmax()), match.shape)
    aligned = np.roll(folded, (-int(dy), -int(dx)), axis=(0, 1))
    votes = np.tensordot(patterns[1:], aligned, axes=([1, 2], [0, 1]))
    payload = int(sum(1 << bit for bit in range(BITS) if votes[bit] < 0))
    return Reading(certainty >= CERTAIN, payload, certainty, scale)


def bit_agreement(one: int, other: int) -> float:
    """Share of the 32 bits that are equal."""
    return 1.0 - (one ^ other).bit_count() / BITS
