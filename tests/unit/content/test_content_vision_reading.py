"""Pictures from strangers: what is read, what is refused, and that memory stays flat."""

from __future__ import annotations

import gzip
import io
import struct
import subprocess
import sys
import textwrap
import zipfile
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from genrec.content.vision.reading import PictureLimits, load_picture, picture_bytes
from genrec.errors import DataError, GenrecError


def encoded(picture: Image.Image, kind: str = "PNG", **options) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, kind, **options)
    return stream.getvalue()


def png_bomb(side: int) -> bytes:
    """A valid one-bit PNG of ``side`` x ``side`` in few bytes, written row by row."""
    packer = zlib.compressobj(9)
    row = b"\0" + b"\0" * ((side + 7) // 8)
    data = b"".join(packer.compress(row) for _ in range(side)) + packer.flush()

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def gradient(width: int = 40, height: int = 30) -> Image.Image:
    across, down = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return Image.fromarray(np.stack([across, down, 255 - across], axis=-1).astype(np.uint8), "RGB")


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "GIF", "JPEG"])
def test_each_format_is_read(kind):
    picture = load_picture(encoded(gradient(), kind))
    assert picture.mode == "RGB"
    assert picture.size == (40, 30)
    apart = np.abs(np.asarray(picture, float) - np.asarray(gradient(), float)).mean()
    assert apart < (0.01 if kind == "PNG" else 12)
    assert load_picture(picture_bytes(picture)).tobytes() == picture.tobytes()


def test_transparency_becomes_white_and_large_pictures_small():
    clear = Image.new("RGBA", (20, 10), (255, 0, 0, 0))
    assert set(load_picture(encoded(clear)).get_flattened_data()) == {(255, 255, 255)}
    palette = Image.new("P", (8, 8), 0)
    palette.info["transparency"] = 0
    assert set(load_picture(encoded(palette, transparency=0)).get_flattened_data()) == {(255, 255, 255)}
    assert load_picture(encoded(gradient(3000, 500), "JPEG")).size == (1024, 171)
    deep = Image.fromarray(np.full((4, 4), 32896, np.uint16))
    assert set(load_picture(encoded(deep)).get_flattened_data()) == {(128, 128, 128)}


def test_orientation_is_obeyed_and_metadata_dropped():
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    exif[0x010E] = "home of someone"
    picture = load_picture(encoded(gradient(), "JPEG", exif=exif))
    assert picture.size == (30, 40)
    assert not picture.getexif()
    assert not picture.info


def broken_png() -> bytes:
    data = bytearray(encoded(gradient()))
    data[60:90] = bytes(30)
    return bytes(data)


def zipped(data: bytes) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("picture.png", data)
    return stream.getvalue()


ANIMATION = encoded(gradient(), "GIF", save_all=True, append_images=[Image.new("RGB", (40, 30), "red")])
REFUSED = {
    "nothing": (b"", "no bytes"),
    "words": (b"hello, I am no picture", "no PNG, JPEG, WebP or GIF"),
    "another format": (encoded(gradient(), "BMP"), "no PNG, JPEG, WebP or GIF"),
    "postscript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "no PNG, JPEG, WebP or GIF"),
    "cut short": (encoded(gradient())[:100], "cut short or altered"),
    "cut before its end": (encoded(gradient())[:-12], "cut short or altered"),
    "altered": (broken_png(), "cut short or altered"),
    "cut JPEG": (encoded(gradient(400, 300), "JPEG")[:900], "cut short or altered"),
    "zip bomb": (zipped(bytes(50 * 2**20)), "an archive"),
    "gzip bomb": (gzip.compress(bytes(2**20)), "an archive"),
    "animation": (ANIMATION, "an animation of 2"),
    "thin": (encoded(Image.new("L", (30_000, 1))), "30000 x 1 pixels"),
    "many pixels": (png_bomb(8000), "8000 x 8000 pixels"),
    "far too many pixels": (png_bomb(20_000), "pixels"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused_is_named(case):
    data, message = REFUSED[case]
    with pytest.raises(DataError, match=message) as caught:
        load_picture(data, name="example")
    assert str(caught.value).startswith("example: ")


def test_too_many_bytes_are_not_looked_at():
    with pytest.raises(DataError, match=r"at most 1 MiB"):
        load_picture(bytes(2 * 2**20), PictureLimits(bytes=2**20))


@given(place=st.integers(0, 10_000), value=st.integers(0, 255), cut=st.integers(0, 10_000))
@settings(max_examples=120, deadline=None)
def test_damage_is_a_picture_or_a_clear_refusal_and_nothing_else(place, value, cut):
    for kind in ("PNG", "JPEG", "GIF", "WEBP"):
        data = bytearray(encoded(gradient(16, 12), kind))
        data[place % len(data)] = value
        try:
            picture = load_picture(bytes(data[: len(data) - cut % 40]))
        except GenrecError:
            continue
        assert picture.mode == "RGB"
        assert max(picture.size) <= 1024


def test_bombs_leave_memory_flat(tmp_path):
    """In a process of its own: peak memory is a high-water mark that only rises."""
    (tmp_path / "bomb.png").write_bytes(png_bomb(20_000))
    (tmp_path / "long.jpg").write_bytes(encoded(Image.new("L", (6000, 6000), 90), "JPEG"))
    script = textwrap.dedent(
        """
        import resource, sys
        from genrec.content.vision.reading import load_picture
        from genrec.errors import DataError
        bomb, photo = (open(path, "rb").read() for path in sys.argv[1:])
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for _ in range(5):
            try:
                load_picture(bomb)
            except DataError:
                continue
            raise SystemExit("the bomb was read")
        load_picture(photo)
        sys.stdout.write(str(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before))
        """
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "bomb.png"), str(tmp_path / "long.jpg")],
        capture_output=True,
        text=True,
        check=True,
    )
    # 400 million pixels are 50 MB even at a bit each; the photograph is 36 MB, but decoded at a quarter of its side.
    assert int(done.stdout) < 30_000  # KiB
