"""Pictures to an H.264 MP4 that every browser plays: yuv420p, even sides, the index in front of the data.

Frames are taken one at a time from any iterable, so a long clip is never in memory whole. One encoder thread: the same
frames give the same bytes, and replicas do not fight for cores.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.container import OutputContainer
from av.video.stream import VideoStream
from PIL import Image

from genrec.errors import DataError


def write_mp4(
    frames: Iterable[Image.Image], *, rate: float = 25.0, quality: int = 23, longest: int = 20_000, name: str = "video"
) -> bytes:
    """Encode pictures of one size.

    Args:
        frames: RGB, in order; an odd side loses its last row or column.
        rate: frames a second.
        quality: constant rate factor of x264: 18 looks lossless, 28 small.
        longest: most frames taken.
        name: what the messages call it.

    Returns:
        The MP4 file.

    Raises:
        DataError: no frames, too many, frames of different sizes, or smaller than 2 x 2 pixels.
    """
    if not 0 < rate <= 240:
        raise DataError(f"{name}: {rate} frames a second; give a number above 0 and at most 240")
    # A file, not memory: putting the index in front is a second pass over what was written.
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "video.mp4"
        with av.open(str(path), "w", format="mp4", options={"movflags": "+faststart"}) as container:
            _encode(container, frames, rate, quality, longest, name)
        return path.read_bytes()


def _encode(
    container: OutputContainer, frames: Iterable[Image.Image], rate: float, quality: int, longest: int, name: str
) -> None:
    size: tuple[int, int] | None = None
    stream: VideoStream | None = None
    for count, frame in enumerate(frames):
        if count >= longest:
            raise DataError(f"{name}: more than {longest} frames; make it shorter")
        if stream is None:
            size = frame.size
            stream = _stream(container, size, rate, quality, name)
        if frame.size != size:
            raise DataError(f"{name}: frame {count} is {frame.size}, the first was {size}; make them of one size")
        pixels_HW3 = np.asarray(frame.convert("RGB"))[: stream.height, : stream.width]
        container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels_HW3), "rgb24")))
    if stream is None:
        raise DataError(f"{name}: no frames; give at least one picture")
    container.mux(stream.encode(None))


def _stream(container: OutputContainer, size: tuple[int, int], rate: float, quality: int, name: str) -> VideoStream:
    width, height = (side - side % 2 for side in size)
    if min(width, height) < 2:
        raise DataError(f"{name}: {size[0]} x {size[1]} pixels; a video needs at least 2 x 2")
    stream = container.add_stream("libx264", rate=Fraction(rate).limit_denominator(1001))
    stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
    stream.codec_context.options = {"crf": str(quality), "preset": "veryfast"}
    stream.codec_context.thread_count = 1
    return stream
