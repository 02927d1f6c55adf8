"""Reading videos with PyAV: few small frames to look at, and full frames of the part that was chosen.

Decoding streams: a frame is scaled and its full-size pixels are dropped before the next one is decoded, so memory
follows the number of frames kept and not the length of the video. Limits are checked on the header first and again
while decoding, because a header may lie.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from genrec.errors import DataError


@dataclass(frozen=True)
class VideoLimits:
    """What is read at all.

    Attributes:
        bytes: largest file.
        seconds: longest video.
        pixels: width times height of a frame.
        frames: most frames decoded, whatever the header says.
    """

    bytes: int = 200 * 2**20
    seconds: float = 600.0
    pixels: int = 3840 * 2160
    frames: int = 40_000


@dataclass(frozen=True)
class Samples:
    """Small frames of a video at even distances.

    Attributes:
        times_F: seconds from the beginning, ascending.
        frames: as many RGB pictures.
        seconds: length of the video.
        rate: frames a second of the video itself.
        size: width and height of the video itself, as shown (square pixels).
        sound: whether it has an audio track.
    """

    times_F: NDArray[np.float64]
    frames: tuple[Image.Image, ...]
    seconds: float
    rate: float
    size: tuple[int, int]
    sound: bool


def sample_frames(
    data: bytes, *, per_second: float = 4.0, side: int = 256, limits: VideoLimits | None = None, name: str = "video"
) -> Samples:
    """Frames to look at: the first one, then one every ``1 / per_second`` seconds.

    Args:
        data: the file.
        per_second: frames kept for a second of video.
        side: longer side of the frames kept.
        limits: what is read at all.
        name: what the messages call it.

    Raises:
        DataError: no video, too large, too long, or damaged; names the limit and the mend.
    """
    if per_second <= 0:
        raise DataError(f"per_second: {per_second}; give a number above 0")
    limits = limits or VideoLimits()
    times, frames, last, due = [], [], 0.0, 0
    with _opened(data, limits, name) as (container, stream):
        rate = float(stream.average_rate or 25)
        size = _shown_size(stream)
        for time, frame in _decoded(container, stream, limits, name):
            last = max(last, time)
            # The frame nearest to each tick: half a frame early is near enough.
            tick = int((time + 0.5 / rate) * per_second)
            if tick < due:
                continue
            due = tick + 1
            frames.append(_picture(frame, size, side))
            times.append(time)
        sound = bool(container.streams.audio)
    if not frames:
        raise DataError(f"{name}: no frame can be decoded; save it again as MP4 (H.264)")
    return Samples(np.array(times), tuple(frames), last + 1 / rate, rate, size, sound)


def frames_between(
    data: bytes,
    begin: float,
    end: float,
    *,
    side: int | None = None,
    limits: VideoLimits | None = None,
    name: str = "video",
) -> Iterator[Image.Image]:
    """Every frame from ``begin`` to before ``end`` (seconds), one at a time.

    Args:
        data: the file.
        begin: first moment.
        end: the moment after the last.
        side: longer side of the pictures; none: the video's own.
        limits: what is read at all.
        name: what the messages call it.

    Raises:
        DataError: as :func:`sample_frames`, or ``begin`` is not before ``end``.
    """
    if not begin < end:
        raise DataError(f"{name}: from {begin:g} s to {end:g} s is no time; begin before the end")
    limits = limits or VideoLimits()
    with _opened(data, limits, name) as (container, stream):
        size = _shown_size(stream)
        # Half a frame of tolerance: times in files are rounded to their own time base.
        slack = 0.5 / float(stream.average_rate or 25)
        for time, frame in _decoded(container, stream, limits, name):
            if time >= end - slack:
                return
            if time >= begin - slack:
                yield _picture(frame, size, side)


@contextmanager
def _opened(data: bytes, limits: VideoLimits, name: str) -> Iterator[tuple[Any, Any]]:
    if len(data) > limits.bytes:
        raise DataError(
            f"{name}: {len(data) / 2**20:.1f} MiB, at most {limits.bytes / 2**20:g} MiB are read; send a smaller file"
        )
    try:
        container: Any = av.open(io.BytesIO(data))
    except (av.error.FFmpegError, ValueError) as error:
        raise DataError(f"{name}: no video file ({error}); send MP4, WebM or MOV") from error
    try:
        if not container.streams.video:
            raise DataError(f"{name}: the file has no picture track; send a video")
        stream = container.streams.video[0]
        context = stream.codec_context
        if context.width * context.height > limits.pixels:
            raise DataError(
                f"{name}: frames of {context.width} x {context.height} pixels, at most {limits.pixels} are read; "
                "send it scaled down"
            )
        if container.duration and container.duration / av.time_base > limits.seconds:
            raise DataError(
                f"{name}: {container.duration / av.time_base:.0f} s, at most {limits.seconds:g} s are read; cut it"
            )
        # One thread: a server's replicas share the cores, and FFmpeg would start a thread a core in each.
        context.thread_count = 1
        yield container, stream
    finally:
        container.close()


def _decoded(container: Any, stream: Any, limits: VideoLimits, name: str) -> Iterator[tuple[float, Any]]:
    """Frames with their time from the first one, in the order shown."""
    origin: float | None = None
    try:
        for count, frame in enumerate(container.decode(stream)):
            if count >= limits.frames:
                raise DataError(f"{name}: more than {limits.frames} frames; cut it")
            if frame.width * frame.height > limits.pixels:
                raise DataError(f"{name}: a frame of {frame.width} x {frame.height} pixels; send it scaled down")
            time = float(frame.time if frame.time is not None else count / float(stream.average_rate or 25))
            origin = time if origin is None else origin
            if time - origin > limits.seconds:
                raise DataError(f"{name}: longer than {limits.seconds:g} s; cut it")
            yield time - origin, frame
    except av.error.FFmpegError as error:
        raise DataError(f"{name}: the file is damaged ({error}); save it again and send it again") from error


def _shown_size(stream: Any) -> tuple[int, int]:
    """Width and height with square pixels."""
    context = stream.codec_context
    aspect = float(context.sample_aspect_ratio or 1)
    return max(1, round(context.width * aspect)), context.height


def _picture(frame: Any, size: tuple[int, int], side: int | None) -> Image.Image:
    share = 1.0 if side is None else min(1.0, side / max(size))
    width, height = (max(1, round(length * share)) for length in size)
    return frame.reformat(width=width, height=height, format="rgb24", interpolation="AREA").to_image()
