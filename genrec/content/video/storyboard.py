"""A micro-video from stills: each moves slowly (zoom or pan), carries a caption, and fades into the next.

Frames are made one at a time as the encoder takes them. The window into a still moves by fractions of a pixel, which
keeps slow motion from trembling.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from PIL import Image, ImageDraw, ImageFont

from genrec.content.contracts import Progress
from genrec.content.video.writing import write_mp4
from genrec.errors import DataError

Motion = Literal["zoom-in", "zoom-out", "left", "right", "still"]
MOTIONS: tuple[Motion, ...] = ("zoom-in", "right", "zoom-out", "left")
REACH = 0.12
"""How much of a still's side the window gives up for moving in it."""
LINES = 3


@dataclass(frozen=True)
class Scene:
    """A still and how it is shown.

    Attributes:
        picture: RGB of any size; it fills the frame, what is over is cut at the edges.
        caption: words below; empty for none.
        seconds: how long.
        motion: none: zoom and pan by turns.
    """

    picture: Image.Image
    caption: str = ""
    seconds: float = 2.0
    motion: Motion | None = None


def storyboard(
    scenes: Sequence[Scene],
    *,
    size: tuple[int, int] = (256, 256),
    rate: int = 24,
    fade: float = 0.3,
    progress: Progress | None = None,
) -> bytes:
    """An H.264 MP4 of the scenes.

    Args:
        scenes: at least one; together at most two minutes.
        size: width and height, even.
        rate: frames a second.
        fade: seconds over which a scene fades into the next.
        progress: told the share of scenes that are drawn.

    Raises:
        DataError: no scenes, a length out of range, or a size that is odd or too small.
    """
    check_scenes(scenes, size, rate)
    return write_mp4(storyboard_frames(scenes, size=size, rate=rate, fade=fade, progress=progress), rate=rate)


def check_scenes(scenes: Sequence[Scene], size: tuple[int, int], rate: int) -> None:
    """Raise what :func:`storyboard` raises."""
    if not scenes:
        raise DataError("storyboard: no scenes; give at least one picture")
    if any(side < 32 or side % 2 for side in size):
        raise DataError(f"storyboard: {size[0]} x {size[1]} pixels; give even sides of at least 32")
    if not 1 <= rate <= 60:
        raise DataError(f"storyboard: {rate} frames a second; give 1 to 60")
    if any(scene.seconds <= 0 for scene in scenes) or sum(scene.seconds for scene in scenes) > 120:
        raise DataError("storyboard: scenes last more than 0 s each and at most 120 s together")


def storyboard_frames(
    scenes: Sequence[Scene],
    *,
    size: tuple[int, int],
    rate: int,
    fade: float,
    progress: Progress | None = None,
) -> Iterator[Image.Image]:
    """The frames in order; scene ``n`` has ``seconds * rate`` of them, at least one."""
    before: Image.Image | None = None
    for place, scene in enumerate(scenes):
        count = max(1, round(scene.seconds * rate))
        fading = min(round(fade * rate), count // 2) if before is not None else 0
        still = filling(scene.picture, size)
        motion = scene.motion or MOTIONS[place % len(MOTIONS)]
        label = _caption(scene.caption, size)
        frame = still
        for step in range(count):
            frame = _window(still, motion, step / max(1, count - 1), size)
            if label is not None:
                frame.paste(label, (0, size[1] - label.height), label)
            if before is not None and step < fading:
                yield Image.blend(before, frame, (step + 1) / (fading + 1))
            else:
                yield frame
        before = frame
        if progress is not None:
            progress((place + 1) / len(scenes))


def filling(picture: Image.Image, size: tuple[int, int]) -> Image.Image:
    """The picture scaled to fill ``size``, cut at the edges; twice the size, so that zooming stays sharp."""
    share = max(2 * wanted / side for wanted, side in zip(size, picture.size, strict=True))
    scaled = picture.convert("RGB").resize(
        (max(2 * size[0], round(picture.width * share)), max(2 * size[1], round(picture.height * share))),
        Image.Resampling.LANCZOS,
    )
    left, top = (scaled.width - 2 * size[0]) // 2, (scaled.height - 2 * size[1]) // 2
    return scaled.crop((left, top, left + 2 * size[0], top + 2 * size[1]))


def _window(still: Image.Image, motion: Motion, moment: float, size: tuple[int, int]) -> Image.Image:
    """What is seen at ``moment`` (0 to 1) of a scene."""
    width, height = still.size
    smooth = moment * moment * (3 - 2 * moment)
    if motion in ("zoom-in", "zoom-out"):
        share = 1 - REACH * (smooth if motion == "zoom-in" else 1 - smooth)
        place = 0.5
    else:
        share = 1.0 if motion == "still" else 1 - REACH
        place = {"left": 1 - smooth, "right": smooth}.get(motion, 0.5)
    left, top = (1 - share) * width * place, (1 - share) * height / 2
    box = (left, top, left + share * width, top + share * height)
    return still.resize(size, Image.Resampling.BILINEAR, box=box)


def _caption(text: str, size: tuple[int, int]) -> Image.Image | None:
    """A band with the words, in at most three lines; longer text ends in an ellipsis."""
    text = " ".join(text.split())
    if not text:
        return None
    height = max(10, size[1] // 16)
    font = ImageFont.load_default(size=height)
    lines = wrapped(text, font, size[0] - 2 * height)
    band = Image.new("RGBA", (size[0], round((len(lines) * 1.25 + 0.7) * height)), (0, 0, 0, 150))
    draw = ImageDraw.Draw(band)
    for place, line in enumerate(lines):
        draw.text(
            (size[0] / 2, (place * 1.25 + 0.35) * height), line, font=font, fill=(255, 255, 255, 255), anchor="ma"
        )
    return band


def wrapped(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> list[str]:
    """Lines that are no wider than ``width`` pixels; a word that is wider alone is cut."""
    lines: list[str] = []
    words = text.split()
    while words and len(lines) < LINES:
        line = _cut(words.pop(0), font, width)
        while words and font.getlength(f"{line} {words[0]}") <= width:
            line = f"{line} {words.pop(0)}"
        lines.append(line)
    if words:
        lines[-1] = _cut(f"{lines[-1]} {words[0]}", font, width, always=True)
    return lines


def _cut(word: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int, *, always: bool = False) -> str:
    if not always and font.getlength(word) <= width:
        return word
    while len(word) > 1 and font.getlength(f"{word}…") > width:
        word = word[:-1]
    return f"{word}…"
