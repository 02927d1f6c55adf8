"""Pictures from strangers: bytes to RGB, or a clear refusal, without ever holding a bomb in memory.

A file of a few kilobytes may claim billions of pixels. So the order is: bytes are counted, the format is told from the
bytes alone, the header's width and height are checked, and only then are pixels decoded. JPEG decodes at a fraction
of its size where that is enough. Only four formats are read, each by Pillow's own decoder, so that no rarely used
parser (of which Pillow has dozens) is within a stranger's reach.
"""

from __future__ import annotations

import io
import struct
import zlib
from dataclasses import dataclass

from PIL import Image, ImageOps, UnidentifiedImageError

from genrec.errors import DataError

FORMATS = ("PNG", "JPEG", "WEBP", "GIF")
_ZIP, _GZIP = b"PK\x03\x04", b"\x1f\x8b"


@dataclass(frozen=True)
class PictureLimits:
    """What is read at all.

    Attributes:
        bytes: largest file.
        pixels: width times height.
        side: largest width or height; a thin picture of few pixels is refused too.
        kept: longer side after reading; larger pictures are scaled down to it.
        frames: pictures of an animation; one means that animations are refused.
    """

    bytes: int = 20 * 2**20
    pixels: int = 40_000_000
    side: int = 20_000
    kept: int = 1024
    frames: int = 1


def load_picture(data: bytes, limits: PictureLimits | None = None, *, name: str = "picture") -> Image.Image:
    """Read a picture that someone sent.

    Transparent parts become white; a camera's orientation mark is obeyed; nothing else of the file's metadata is kept.

    Args:
        data: the file.
        limits: what is read at all.
        name: what the messages call it.

    Returns:
        RGB, longer side at most ``limits.kept``.

    Raises:
        DataError: too large, animated, cut short, altered, or no PNG, JPEG, WebP or GIF; names the limit and the mend.
    """
    limits = limits or PictureLimits()
    if not data:
        raise DataError(f"{name}: no bytes; send a PNG, JPEG, WebP or GIF file")
    if len(data) > limits.bytes:
        raise DataError(
            f"{name}: {len(data) / 2**20:.1f} MiB, at most {limits.bytes / 2**20:g} MiB are read; send a smaller file"
        )
    if data.startswith((_ZIP, _GZIP)):
        raise DataError(f"{name}: an archive, not a picture; send the PNG, JPEG, WebP or GIF file itself")
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as picture:
            _check(picture, limits, name)
            if picture.format == "PNG":
                _check_chunks(data, name)
            # JPEG decodes at 1/2, 1/4 or 1/8 of its size: a camera's picture never lies in memory whole.
            picture.draft("RGB", (limits.kept, limits.kept))
            picture.load()
            return _upright_rgb(picture, limits.kept)
    except UnidentifiedImageError as error:
        raise DataError(f"{name}: no PNG, JPEG, WebP or GIF file; send one of these") from error
    except Image.DecompressionBombError as error:
        raise DataError(f"{name}: {error}; send a picture of at most {limits.pixels} pixels") from error
    except (OSError, SyntaxError, ValueError, struct.error, zlib.error, EOFError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(
            f"{name}: the file is cut short or altered ({error}); save it again and send it again"
        ) from error


def _check(picture: Image.Image, limits: PictureLimits, name: str) -> None:
    """What the header says, before any pixel is decoded."""
    width, height = picture.size
    if width * height > limits.pixels or max(width, height) > limits.side:
        raise DataError(
            f"{name}: {width} x {height} pixels, at most {limits.pixels} pixels and {limits.side} a side are read; "
            "send it scaled down"
        )
    frames = int(getattr(picture, "n_frames", 1))
    if frames > limits.frames:
        raise DataError(
            f"{name}: an animation of {frames} pictures, at most {limits.frames} is read; send a still picture"
        )


def _check_chunks(data: bytes, name: str) -> None:
    """A PNG that lacks its end was cut; Pillow would fill the rest with black."""
    if b"IEND" not in data:
        raise DataError(f"{name}: the file is cut short or altered (no end mark); save it again and send it again")


def _upright_rgb(picture: Image.Image, kept: int) -> Image.Image:
    if picture.mode.startswith("I"):  # 16 bits a pixel: conversion would clip, not scale
        picture = picture.point(lambda value: value / 256).convert("L")
    small = picture.convert("RGBA") if _transparent(picture) else picture.convert("RGB")
    small.thumbnail((kept, kept), Image.Resampling.LANCZOS)
    upright = ImageOps.exif_transpose(small)
    if upright.mode == "RGBA":
        white = Image.new("RGBA", upright.size, "white")
        upright = Image.alpha_composite(white, upright).convert("RGB")
    # A new picture without the file's metadata: EXIF holds places and names.
    clean = Image.new("RGB", upright.size)
    clean.paste(upright)
    return clean


def _transparent(picture: Image.Image) -> bool:
    return picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info


def picture_bytes(picture: Image.Image) -> bytes:
    """A picture as PNG without metadata; equal pictures give equal bytes."""
    stream = io.BytesIO()
    picture.convert("RGB").save(stream, format="PNG", optimize=False)
    return stream.getvalue()
