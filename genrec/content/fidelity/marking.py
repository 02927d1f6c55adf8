"""From a draft to the file that may be shown: watermark, visible label, signed manifest.

The order matters: the mark goes below the label, and the manifest is signed over both.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from genrec.content.contracts import Draft
from genrec.content.digests import draft_digest
from genrec.content.fidelity import manifest, watermark
from genrec.content.fidelity.context import Ingredient
from genrec.content.fidelity.keys import SigningKeys

PNG, MP4 = "image/png", "video/mp4"
LABEL = "AI"
LABEL_SHARE = 0.11
"""Height of the label against the shorter side."""


@dataclass(frozen=True)
class Identification:
    """What can be read off a file.

    Attributes:
        provenance: of its manifest.
        watermark: of its (first) picture.
        labelled: the visible label is where it belongs.
    """

    provenance: manifest.Provenance
    watermark: watermark.Reading
    labelled: bool


def payload_of(draft: Draft) -> int:
    """The 32 bits that a draft's pictures carry: the beginning of its digest, by which a registry finds it."""
    return int(draft_digest(draft)[:8], 16)


def media_type_of(draft: Draft) -> str:
    """Of the file that a draft becomes."""
    return MP4 if draft.medium == "video" else PNG


def sign_and_mark(draft: Draft, keys: SigningKeys, ingredients: tuple[Ingredient, ...] = ()) -> bytes:
    """The file of a draft: PNG of a picture or card, MP4 of a video.

    Args:
        draft: with one frame, or the encoded video beside its frames.
        keys: who signs.
        ingredients: what is known of the files it was made from.
    """
    payload = payload_of(draft)
    if draft.medium == "video":
        if draft.video is None:
            raise ValueError("a draft of medium video holds no encoded video")
        content = _marked_video(draft.video, payload)
    else:
        png = io.BytesIO()
        marked_picture(draft.frames[0], payload).save(png, "PNG")
        content = png.getvalue()
    return manifest.sign(content, media_type_of(draft), draft, ingredients, keys)


def marked_picture(picture: Image.Image, payload: int) -> Image.Image:
    """The picture, 256 pixels at least, with watermark and label."""
    return labelled(watermark.embed(picture, payload))


def labelled(picture: Image.Image) -> Image.Image:
    """A copy with a small badge in the lower right corner."""
    result = picture.copy()
    badge, at = _badge(result.size)
    result.paste(badge, at)
    return result


def has_label(picture: Image.Image) -> bool:
    """Whether the badge stands there, as :func:`labelled` draws it or after a video's encoder."""
    rgb = picture.convert("RGB")
    badge, (left, top) = _badge(rgb.size)
    found = rgb.crop((left, top, left + badge.width, top + badge.height)).convert("L")
    wanted, seen = badge.convert("L").tobytes(), found.tobytes()
    apart = sum(abs(one - other) for one, other in zip(wanted, seen, strict=True)) / len(wanted)
    return apart < 24


def _badge(size: tuple[int, int]) -> tuple[Image.Image, tuple[int, int]]:
    height = max(12, round(min(size) * LABEL_SHARE))
    width = round(height * 1.35)
    badge = Image.new("RGB", (width, height), (24, 24, 24))
    font = ImageFont.load_default(size=height * 0.72)
    ImageDraw.Draw(badge).text((width / 2, height / 2), LABEL, font=font, fill=(255, 255, 255), anchor="mm")
    margin = max(2, height // 4)
    return badge, (size[0] - width - margin, size[1] - height - margin)


def identify(content: bytes, media_type: str, keys: SigningKeys) -> Identification:
    """Read manifest, watermark and label off a file; a broken one has none."""
    provenance = manifest.verify(content, media_type, keys)
    try:
        picture = first_picture(content, media_type)
    except (OSError, SyntaxError, ValueError, StopIteration):  # what PIL and PyAV raise of a broken file
        return Identification(provenance, watermark.Reading(False, 0, 0.0, 1.0), labelled=False)
    return Identification(provenance, watermark.read(picture, search=False), has_label(picture))


def first_picture(content: bytes, media_type: str) -> Image.Image:
    """The picture of a file, or a film's first."""
    if media_type == MP4:
        import av

        film: Any = av.open(io.BytesIO(content))  # its types are unions of all that a container may be
        with film as container:
            picture: Image.Image = next(container.decode(video=0)).to_image()
            return picture
    with Image.open(io.BytesIO(content)) as opened:
        return opened.convert("RGB")


def _marked_video(video: bytes, payload: int) -> bytes:
    """Every frame with watermark and label, encoded again; sound is copied as it is."""
    import av

    out = io.BytesIO()
    film: Any = av.open(io.BytesIO(video))
    encoded: Any = av.open(out, "w", format="mp4")
    frame_of: Any = av.VideoFrame
    with film as source, encoded as target:
        pictures = source.streams.video[0]
        rate = pictures.average_rate or Fraction(12)
        stream = target.add_stream("libx264", rate=rate, options={"crf": "16", "preset": "veryfast"})
        stream.pix_fmt = "yuv420p"
        sound = source.streams.audio[0] if source.streams.audio else None
        copied = target.add_stream_from_template(sound) if sound is not None else None
        sized = False
        for packet in source.demux():
            if packet.dts is None and packet.stream is not pictures:
                continue
            if sound is not None and packet.stream is sound and copied is not None:
                packet.stream = copied
                target.mux(packet)
                continue
            if packet.stream is not pictures:
                continue
            for frame in packet.decode():
                picture = marked_picture(frame.to_image(), payload)
                picture = picture.crop((0, 0, picture.width // 2 * 2, picture.height // 2 * 2))
                if not sized:
                    stream.width, stream.height, sized = picture.width, picture.height, True
                marked = frame_of.from_image(picture)
                marked.pts, marked.time_base = frame.pts, frame.time_base
                target.mux(stream.encode(marked))
        target.mux(stream.encode())
    return out.getvalue()
