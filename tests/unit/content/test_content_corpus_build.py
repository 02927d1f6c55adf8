"""The corpus from packages made in the test: rows, what is held out, determinism, and what is missing or broken."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from genrec.content.corpus import COLOURS, build_corpus, read_corpus
from genrec.content.corpus.concepts import Concept, read_concepts, unseen_colour, unseen_style
from genrec.content.corpus.drawings import HUES, colour_word, main_hue, recoloured, sample_of
from genrec.content.corpus.packages import FLUENT_3D, FLUENT_FLAT, GOOGLE, KEYWORDS, TWITTER, fetch
from genrec.errors import DataError

# Code, name, category, sub-category, order: an apple, a fire-fighter (joined), a flag, a skin tone.
EMOJI = [
    ("1F34E", "RED APPLE", "Food & Drink", "food-fruit", 2),
    ("1F9D1-200D-1F692", "FIREFIGHTER", "People & Body", "person-role", 1),
    ("1F1E6-1F1E8", "FLAG", "Flags", "country-flag", 3),
    ("1F3FB", "SKIN TONE", "Component", "skin-tone", 4),
]


def picture(colour: str, kind: str) -> bytes:
    image = Image.new("RGBA", (72, 72), (0, 0, 0, 0))
    ImageDraw.Draw(image).ellipse((10, 10, 60, 60), fill=colour)
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


def pack(directory: Path, package, files: dict[str, bytes]) -> None:
    with tarfile.open(directory / package.tarball, "w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(f"package/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


@pytest.fixture
def packages(tmp_path):
    directory = tmp_path / "packages"
    directory.mkdir()
    rows = [
        {"unified": code, "name": name, "category": top, "subcategory": below, "sort_order": order,
         "short_names": [name.lower().replace(" ", "_")]}
        for code, name, top, below, order in EMOJI
    ]  # fmt: skip
    for package, folder in ((TWITTER, "twitter"), (GOOGLE, "google")):
        images = {f"img/{folder}/64/{code.lower()}.png": picture("red", "PNG") for code, *_ in EMOJI}
        pack(directory, package, {"emoji.json": json.dumps(rows).encode(), **images})
    pack(directory, FLUENT_3D, {"assets/1f34e.webp": picture("blue", "WEBP")})
    icon = {"body": '<circle cx="16" cy="16" r="12" fill="#00ff00"/>'}
    pack(
        directory,
        FLUENT_FLAT,
        {
            "icons.json": json.dumps({"icons": {"red-apple": icon}, "width": 32, "height": 32}).encode(),
            "chars.json": json.dumps({"1f34e": "red-apple"}).encode(),
        },
    )
    words = {"🍎": ["red_apple", "fruit", ":)"], "🧑‍🚒": ["firefighter", "person"]}
    pack(directory, KEYWORDS, {"dist/emoji-en-US.json": json.dumps(words).encode()})
    return directory


def test_rows_say_what_is_drawn_and_by_whom(packages, tmp_path):
    path = build_corpus(packages, tmp_path / "out", size=32)
    rows = read_corpus(path.parent).to_pylist()
    apples = {row["style"]: row for row in rows if row["name"] == "red apple"}
    assert set(apples) == {"3d", "flat", "twitter", "google"}
    assert {row["name"] for row in rows} == {"firefighter", "red apple"}  # neither flag nor skin tone
    assert rows[0]["name"] == "firefighter", "the order of the Unicode chart"
    assert apples["3d"]["caption"] == "red apple, 3d style"
    assert apples["3d"]["keywords"] == ["fruit"]
    assert [apples[style]["colour"] for style in ("flat", "3d", "twitter")] == ["green", "blue", "red"]
    assert apples["twitter"]["licence"] == "CC-BY-4.0"
    assert apples["google"]["source"] == "emoji-datasource-google@16.0.0"
    for style, colour in (("flat", (0, 255, 0)), ("google", (255, 0, 0))):
        image = Image.open(io.BytesIO(apples[style]["png"]))
        assert (image.mode, image.size) == ("RGB", (32, 32))
        assert np.abs(np.subtract(image.getpixel((16, 16)), colour)).max() < 4
        assert np.abs(np.subtract(image.getpixel((0, 0)), 255)).max() < 4, "on white"
    credit = (path.parent / "ATTRIBUTION.md").read_text()
    assert all(text in credit for text in ("CC-BY-4.0", "Noto", "Microsoft", "emojilib", "were changed"))


def test_the_same_packages_give_the_same_bytes_and_no_half_file_is_left(packages, tmp_path):
    first = build_corpus(packages, tmp_path / "one", size=16)
    second = build_corpus(packages, tmp_path / "two", size=16)
    assert first.read_bytes() == second.read_bytes()
    assert sorted(p.name for p in first.parent.iterdir()) == ["ATTRIBUTION.md", "README.md", "corpus.parquet"]


def test_a_build_that_fails_leaves_the_old_corpus(packages, tmp_path):
    path = build_corpus(packages, tmp_path / "out", size=16)
    before = path.read_bytes()

    def fail(share: float) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_corpus(packages, tmp_path / "out", size=32, progress=fail)
    assert path.read_bytes() == before


def test_what_is_missing_or_broken_is_named(packages, tmp_path, monkeypatch):
    (packages / GOOGLE.tarball).write_bytes(b"PK\x03\x04 no tarball")
    with pytest.raises(DataError, match=r"emoji-datasource-google-16\.0\.0\.tgz: not a readable npm tarball"):
        build_corpus(packages, tmp_path / "out")
    (packages / GOOGLE.tarball).unlink()
    with pytest.raises(DataError, match=r"emoji-datasource-google-16\.0\.0\.tgz is missing"):
        build_corpus(packages, tmp_path / "out")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DataError, match=r"lacks emoji-datasource-google-16\.0\.0\.tgz and npm is not installed"):
        fetch(packages)
    with pytest.raises(DataError, match="--styles oil: unknown"):
        build_corpus(packages, tmp_path / "out", styles=["oil"])
    with pytest.raises(DataError, match="build it with `python -m genrec content corpus"):
        read_corpus(tmp_path / "nowhere")


def test_a_share_of_concepts_styles_and_colours_is_held_out_and_never_twice():
    concepts = [Concept(f"{code:x}", "x", (), "a", "b") for code in range(4000)]
    held = [concept for concept in concepts if concept.held_out]
    assert 0.08 < len(held) / len(concepts) < 0.12
    kept = [concept for concept in concepts if not concept.held_out]
    assert 0.04 < np.mean([unseen_style(c, "3d") for c in kept]) < 0.08
    assert 0.04 < np.mean([unseen_colour(c, "red") for c in kept]) < 0.08
    assert not any(unseen_style(c, "3d") or unseen_colour(c, "red") for c in held)
    # What is held out must never move: models were trained on the rest.
    assert [concept.code for concept in held[:5]] == ["9", "18", "25", "32", "37"]


@given(st.sampled_from(COLOURS), st.sampled_from(COLOURS))
def test_a_drawing_turned_to_a_colour_has_that_colour(own, wanted):
    image = Image.new("RGB", (24, 24), "white")
    ImageDraw.Draw(image).rectangle((4, 4, 20, 20), fill=sample_of(own))
    hue = main_hue(image)
    assert colour_word(hue) == own
    turned = main_hue(recoloured(image, wanted, hue))
    assert abs((turned - HUES[wanted] + 0.5) % 1 - 0.5) < 0.02


def test_grey_and_many_coloured_drawings_have_no_main_colour():
    grey = Image.new("RGB", (24, 24), (90, 90, 90))
    many = Image.new("RGB", (24, 24))
    for place, colour in enumerate(("red", "lime", "blue")):
        many.paste(colour, (place * 8, 0, place * 8 + 8, 24))
    assert main_hue(grey) is None
    assert main_hue(many) is None


def test_a_name_without_keywords_comes_from_the_chart():
    rows = [{"unified": "1F600", "name": None, "category": "Smileys & Emotion", "subcategory": "face-smiling",
             "sort_order": 1, "short_names": ["grinning_face"]}]  # fmt: skip
    (concept,) = read_concepts(json.dumps(rows).encode(), b"{}")
    assert concept.name == "grinning face"
