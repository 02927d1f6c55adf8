"""Red-team cases that are pictures and files: copies of protected pictures, and tampered files.

Everything is drawn from a seed, so nothing but this code is needed; seeds below 500 belong to the development half.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter, ImageOps

from genrec.config.content import FidelitySettings
from genrec.content.contracts import Draft
from genrec.content.fidelity import marking, watermark
from genrec.content.fidelity.keys import SigningKeys, signing_keys

Alteration = Callable[[Image.Image], Image.Image]


def drawing(seed: int, side: int = 256) -> Image.Image:
    """A composition of shapes on a shaded ground."""
    rng = np.random.default_rng(seed)
    ground = np.linspace(0, 1, side)[:, None, None] * rng.integers(0, 120, 3) + rng.integers(60, 135, 3)
    picture = Image.fromarray(np.broadcast_to(ground, (side, side, 3)).astype(np.uint8), "RGB")
    pen = ImageDraw.Draw(picture)
    for _ in range(int(rng.integers(4, 9))):
        left, top = rng.integers(0, int(side * 0.7), 2).tolist()
        width, height = rng.integers(int(side * 0.15), int(side * 0.5), 2).tolist()
        colour = tuple(rng.integers(0, 256, 3).tolist())
        shape = int(rng.integers(3))
        if shape == 0:
            pen.ellipse((left, top, left + width, top + height), fill=colour)
        elif shape == 1:
            pen.rectangle((left, top, left + width, top + height), fill=colour)
        else:
            pen.polygon([(left, top + height), (left + width / 2, top), (left + width, top + height)], fill=colour)
    return picture


def draft_of(picture: Image.Image, title: str = "A drawing", prompt: str = "a drawing") -> Draft:
    """A creation that shows ``picture``."""
    return Draft("create", "image", title, (picture,), prompt, "drawn by the red team", 0)


def jpeg(picture: Image.Image, quality: int = 80) -> Image.Image:
    """The picture as it comes back from JPEG."""
    content = io.BytesIO()
    picture.convert("RGB").save(content, "JPEG", quality=quality)
    content.seek(0)
    with Image.open(content) as opened:
        return opened.convert("RGB")


def resized(picture: Image.Image, factor: float) -> Image.Image:
    """The picture at another size."""
    size = (round(picture.width * factor), round(picture.height * factor))
    return picture.resize(size, Image.Resampling.BICUBIC)


def cropped(picture: Image.Image, share: float) -> Image.Image:
    """Without ``share`` of width and height, off the middle."""
    left, top = round(picture.width * share * 0.4), round(picture.height * share * 0.7)
    return picture.crop(
        (left, top, left + round(picture.width * (1 - share)), top + round(picture.height * (1 - share)))
    )


def copies() -> dict[str, Alteration]:
    """Ways to copy a picture without seeming to."""
    return {
        "same": lambda picture: picture,
        "jpeg 50": lambda picture: jpeg(picture, 50),
        "half size": lambda picture: resized(picture, 0.5),
        "mirrored": ImageOps.mirror,
        "mirrored, jpeg 70": lambda picture: jpeg(ImageOps.mirror(picture), 70),
        "brighter": lambda picture: ImageEnhance.Brightness(picture).enhance(1.25),
        "grey": lambda picture: picture.convert("L").convert("RGB"),
        "blurred": lambda picture: picture.filter(ImageFilter.GaussianBlur(2)),
        "cropped 4%": lambda picture: cropped(picture, 0.04),
        "badge over it": marking.labelled,
    }


def survivals() -> dict[str, Alteration]:
    """What a watermark has to survive."""
    return {
        "untouched": lambda picture: picture,
        "jpeg 80": jpeg,
        "resize .75": lambda picture: resized(picture, 0.75),
        "crop 10%": lambda picture: cropped(picture, 0.1),
        "jpeg 80 after resize .75": lambda picture: jpeg(resized(picture, 0.75)),
        "crop 10%, then resized back": lambda picture: cropped(picture, 0.1).resize(picture.size),
    }


def tamperings(content: bytes, draft: Draft, keys: SigningKeys, elsewhere: Path) -> Iterator[tuple[str, bytes]]:
    """Files made of a signed PNG that must not pass as the draft's file.

    Args:
        content: the signed file.
        draft: what it shows.
        keys: who signed.
        elsewhere: an empty directory for a forger's keys.
    """
    size = len(content)
    for share in (0.3, 0.6, 0.9):
        at = int(size * share)
        yield f"a byte changed at {share:.0%}", content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]
    with Image.open(io.BytesIO(content)) as opened:
        pixels = opened.convert("RGB")
    yield "manifest stripped", _png(pixels)
    red, green, blue = pixels.getpixel((9, 9))  # type: ignore[misc]
    pixels.putpixel((9, 9), (red ^ 1, green, blue))
    yield "a pixel changed, manifest kept", _with_manifest(_png(pixels), content)
    yield "cut off", content[: int(size * 0.8)]
    forger = signing_keys(FidelitySettings(), elsewhere)
    yield "signed by a stranger", marking.sign_and_mark(draft, forger)
    other = draft_of(drawing(len(draft.prompt) + 77), "Another")
    yield "another draft's file", marking.sign_and_mark(other, keys)
    from genrec.content.fidelity import manifest

    bare = marking.labelled(draft.frames[0])
    yield "no watermark", manifest.sign(_png(bare), marking.PNG, draft, (), keys)
    marked = watermark.embed(draft.frames[0], marking.payload_of(draft))
    yield "no label", manifest.sign(_png(marked), marking.PNG, draft, (), keys)
    wrong = marking.labelled(watermark.embed(draft.frames[0], marking.payload_of(draft) ^ 0xFFFF))
    yield "another watermark", manifest.sign(_png(wrong), marking.PNG, draft, (), keys)


def _with_manifest(target: bytes, source: bytes) -> bytes:
    """``target``, a PNG, with the chunk that holds ``source``'s manifest."""
    begin = source.index(b"caBX") - 4
    end = begin + 12 + int.from_bytes(source[begin : begin + 4])
    after_header = 33  # signature and IHDR
    return target[:after_header] + source[begin:end] + target[after_header:]


def _png(picture: Image.Image) -> bytes:
    content = io.BytesIO()
    picture.save(content, "PNG")
    return content.getvalue()
