"""The style translator: what it is before training, a training of a few steps, and edits through it."""

from __future__ import annotations

import io
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image, ImageDraw

from genrec.cli import main
from genrec.config.content import EditorSettings
from genrec.content.contracts import Slots
from genrec.content.corpus import STYLES
from genrec.content.creator.embedded import EmbeddedMaker
from genrec.content.creator.train_restyler import RestylerTraining, kept_apart, read_pairs
from genrec.content.creator.translation import (
    CONFIG,
    WEIGHTS,
    Translator,
    is_drawing,
    load_style_translator,
    load_translator,
    warp,
)
from genrec.content.digests import bytes_digest
from genrec.content.editor import Editor, FolderMedia
from genrec.content.vision import load_encoder
from genrec.content.vision.reading import picture_bytes
from genrec.errors import ArtifactError, DataError


def drawing(concept: int, style: int) -> Image.Image:
    picture = Image.new("RGB", (64, 64), "white")
    left = 10 + concept % 5 * 3
    ImageDraw.Draw(picture).ellipse(
        (left, 12, left + 30, 50), fill=f"hsl({concept * 37 % 360}, 80%, {35 + 10 * style}%)"
    )
    return picture


def png(picture: Image.Image) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, "PNG")
    return stream.getvalue()


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    path, rows = tmp_path_factory.mktemp("pairs"), []
    for concept in range(24):
        for style, look in enumerate(STYLES):
            split = "held-out" if concept % 6 == 5 else "train"
            rows.append({"concept": f"c{concept}", "style": look, "split": split, "png": png(drawing(concept, style))})
    pq.write_table(pa.Table.from_pylist(rows), path / "corpus.parquet")
    return path


@pytest.fixture(scope="module")
def trained(corpus, tmp_path_factory):
    out = tmp_path_factory.mktemp("restyler")
    assert main(["content", "train", "restyler", "--corpus", str(corpus), "--out", str(out), "--steps", "3"]) == 0
    return out


def test_pairs_are_of_one_concept_in_two_styles_and_never_held_out(corpus):
    pairs = read_pairs(corpus)
    assert len(pairs.pixels_N3HW) == 80  # 20 concepts, the held-out ones are not even read
    both = np.concatenate([pairs.learnt_P2, pairs.kept_P2])
    assert len(both) == 20 * 12
    assert (both[:, 0] // 4 == both[:, 1] // 4).all()
    assert (both[:, 0] != both[:, 1]).all()
    assert not set(pairs.learnt_P2.ravel()) & set(pairs.kept_P2.ravel())
    assert len(pairs.kept_P2) == 12 * sum(kept_apart(f"c{concept}") for concept in range(24) if concept % 6 != 5)


def test_before_training_it_leaves_a_picture_as_it_is_and_a_flow_moves_it():
    pictures = torch.rand(2, 3, 64, 64) * 2 - 1
    torch.testing.assert_close(Translator()(pictures, torch.tensor([0, 3])), pictures, atol=1e-5, rtol=0)
    flow = torch.zeros(2, 2, 16, 16)
    flow[:, 0] = 8 / 64
    torch.testing.assert_close(warp(pictures, flow)[..., :-8], pictures[..., 8:], atol=1e-4, rtol=0)


def test_a_few_steps_give_weights_that_load_go_on_and_are_checked(corpus, trained, tmp_path):
    config = json.loads((trained / CONFIG).read_text())
    assert config["training"]["steps"] == 3
    assert config["training"]["maps_source"] > 0
    assert (trained / WEIGHTS).stat().st_size < 1_200_000
    assert "Twemoji" in (trained / "ATTRIBUTION.md").read_text()
    before = load_translator(trained).state_dict()
    assert any(bool((value != Translator().state_dict()[name]).any()) for name, value in before.items())
    for file in (CONFIG, WEIGHTS):
        (tmp_path / file).write_bytes((trained / file).read_bytes())
    with (tmp_path / WEIGHTS).open("r+b") as stream:
        stream.seek(-1, io.SEEK_END)
        stream.write(b"\x7f")
    with pytest.raises(ArtifactError, match="its bytes differ"):
        load_translator(tmp_path)
    (tmp_path / WEIGHTS).unlink()
    with pytest.raises(ArtifactError, match="content train restyler"):
        load_style_translator(tmp_path)
    pq.write_table(
        pa.Table.from_pylist([{"concept": "c", "style": "3d", "split": "train", "png": png(drawing(0, 0))}]),
        tmp_path / "corpus.parquet",
    )
    with pytest.raises(DataError, match="no concept is drawn in two styles"):
        read_pairs(tmp_path)
    assert RestylerTraining(steps=3).minutes


def test_a_drawing_is_told_from_a_photograph():
    assert is_drawing(drawing(1, 1))
    assert is_drawing(drawing(1, 1).resize((300, 200)))
    noise = np.random.default_rng(0).integers(0, 256, (80, 60, 3), np.uint8)
    assert not is_drawing(Image.fromarray(noise))
    assert not is_drawing(Image.new("RGB", (64, 64), "navy"))


def test_an_edit_to_a_known_style_is_a_translation_and_names_its_source(trained, tmp_path):
    content = picture_bytes(drawing(2, 1).resize((120, 120)))
    (tmp_path / "a.png").write_bytes(content)
    maker = EmbeddedMaker(restyler=trained, steps=2)
    media = FolderMedia(tmp_path, ["a"], ["red ball"])
    editor = Editor(load_encoder(), media, EditorSettings(floor=-1.0, strengths=(0.4,)), maker)
    draft = editor.edit(0, "make it flat style", slots=Slots(operation="restyle", style="flat"))
    assert draft.model.startswith("genrec-restyler-")
    assert draft.frames[0].size == (256, 256)
    assert (draft.source_item, draft.ingredients, draft.seed) == (0, (bytes_digest(content),), 0)
    assert draft.details["strength"] == 1.0
    other = editor.edit(
        0, "a taxi in flat style instead", slots=Slots(operation="replace", target="taxi", style="flat")
    )
    assert other.model == maker.name
    unknown = editor.edit(0, "as a watercolor", slots=Slots(operation="restyle", style="watercolor"))
    assert unknown.model == maker.name
