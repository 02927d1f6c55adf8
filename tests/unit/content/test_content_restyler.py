"""The style translator: what it is before training, a training of a few steps, and edits through it."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from itertools import islice

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
from genrec.content.creator.pairs import batches, kept_apart, read_pairs
from genrec.content.creator.train_restyler import WITNESSES, RestylerTraining
from genrec.content.creator.translation import (
    CONFIG,
    UNPAINTED,
    WEIGHTS,
    Translator,
    broad,
    is_drawing,
    load_style_translator,
    load_translator,
    recolour,
    warp,
)
from genrec.content.creator.witnesses import FOLDS, fold_of, witnesses
from genrec.content.digests import bytes_digest
from genrec.content.editor import Editor, FolderMedia
from genrec.content.vision import load_encoder
from genrec.content.vision.reading import picture_bytes
from genrec.content.vision.training import train_tower
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
            words = {
                "name": f"ball {concept}",
                "keywords": ["round"],
                "colour": None,
                "hue": None,
                "unseen_colours": [],
            }
            picture = {"style": look, "split": split, "png": png(drawing(concept, style))}
            rows.append({"concept": f"c{concept}", **words, **picture})
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


ORDERS = ((1, 0), (1, 0), (2, 0), (1, 9))


def test_a_batch_is_of_one_fold_and_changes_both_drawings_alike(corpus):
    pairs = read_pairs(corpus)
    twins = replace(pairs, pixels_N3HW=pairs.pixels_N3HW[pairs.learnt_P2[0, 0]].expand_as(pairs.pixels_N3HW))
    seen = []
    for fold, source, target, style in islice(batches(twins, 8, seed=0), 6):
        torch.testing.assert_close(source, target)
        assert source.shape == (len(style), 3, 64, 64)
        seen.append(fold)
    assert sorted(seen[:FOLDS]) == list(range(FOLDS))
    begun = [next(batches(pairs, 8, seed=seed, behind=behind))[1] for seed, behind in ORDERS]
    torch.testing.assert_close(begun[0], begun[1])
    assert not any(torch.equal(begun[0], other) for other in begun[2:])


def test_a_witness_never_saw_the_concepts_that_it_judges(corpus, tmp_path, monkeypatch):
    learnt = []

    def trained_on(examples, vectors, settings):
        learnt.append(set(examples.names))
        assert set(examples.names) <= set(vectors)
        return train_tower(examples, vectors, settings)

    monkeypatch.setattr("genrec.content.creator.witnesses.train_tower", trained_on)
    towers = witnesses(corpus, tmp_path, 1, left_out=kept_apart)
    concepts = [f"c{concept}" for concept in range(24) if concept % 6 != 5]
    for fold, names in enumerate(learnt):
        assert names == {f"ball {c[1:]}" for c in concepts if fold_of(c) != fold and not kept_apart(c)}
    again = witnesses(corpus, tmp_path, 1, left_out=kept_apart)
    assert len(learnt) == len(towers) == FOLDS  # read, not trained anew
    for one, other in zip(towers, again, strict=True):
        torch.testing.assert_close(other.state_dict(), one.state_dict(), atol=2e-3, rtol=1e-2)


def test_before_training_it_shows_the_source_and_a_flow_moves_it():
    pictures = torch.rand(2, 3, 64, 64) * 2 - 1
    shown = Translator()(pictures, torch.tensor([0, 3]))
    torch.testing.assert_close(shown, pictures * (1 - torch.sigmoid(torch.tensor(-UNPAINTED))), atol=1e-5, rtol=0)
    flow = torch.zeros(2, 2, 16, 16)
    flow[:, 0] = 8 / 64
    torch.testing.assert_close(warp(pictures, flow)[..., :-8], pictures[..., 8:], atol=1e-4, rtol=0)


def test_colours_change_by_an_affine_map_that_holds_white_at_its_origin():
    pictures = torch.ones(1, 3, 64, 64)
    pictures[:, 2] = -0.5  # yellow
    maps = torch.zeros(1, 3, 4, 16, 16)
    maps[:, 0, 2] = 1 / 3  # red falls as blue does, by a third
    torch.testing.assert_close(recolour(pictures, maps.flatten(1, 2))[0, :, 0, 0], torch.tensor([0.5, 1.0, -0.5]))
    white = torch.ones(1, 3, 64, 64)
    torch.testing.assert_close(recolour(white, maps.flatten(1, 2)), white)
    maps[:, 1, 3] = -0.25
    torch.testing.assert_close(recolour(white, maps.flatten(1, 2))[0, :, 9, 9], torch.tensor([1.0, 0.75, 1.0]))


def test_nothing_as_fine_as_two_pixels_can_be_painted():
    line = torch.arange(32)
    chessboard = ((line[:, None] + line) % 2 * 2.0 - 1).expand(1, 1, 32, 32)
    assert broad(chessboard)[..., 4:-4, 4:-4].abs().max() < 1e-6
    torch.testing.assert_close(broad(torch.full((2, 3, 32, 32), 0.7)), torch.full((2, 3, 64, 64), 0.7))


def test_a_few_steps_give_weights_that_load_go_on_and_are_checked(corpus, trained, tmp_path):
    config = json.loads((trained / CONFIG).read_text())
    assert config["training"]["steps"] == 3
    assert config["training"]["maps_source"] > 0
    assert (trained / WEIGHTS).stat().st_size < 1_600_000
    assert "Twemoji" in (trained / "ATTRIBUTION.md").read_text()
    before = load_translator(trained).state_dict()
    assert any(bool((value != Translator().state_dict()[name]).any()) for name, value in before.items())
    for file in (CONFIG, WEIGHTS):
        (tmp_path / file).write_bytes((trained / file).read_bytes())
    (tmp_path / WITNESSES).symlink_to(trained / WITNESSES)
    assert main(["content", "train", "restyler", "--corpus", str(corpus), "--out", str(tmp_path), "--steps", "2"]) == 0
    assert json.loads((tmp_path / CONFIG).read_text())["training"]["steps"] == 5
    assert any(bool((value != before[name]).any()) for name, value in load_translator(tmp_path).state_dict().items())
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
