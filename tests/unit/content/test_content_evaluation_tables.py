"""The tables of choices, creations and restyling on a small corpus whose answers are known."""

from __future__ import annotations

import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image, ImageDraw

from genrec.config.content import PictureSettings
from genrec.content.corpus import STYLES
from genrec.content.creator import Creator
from genrec.content.editor.command import as_table, sheet
from genrec.content.evaluation import Stage, clips, thumbnails
from genrec.content.evaluation_making import WISHES, creations, perceptual_distance, restyling
from genrec.content.vision.encoder import TowerEncoder
from genrec.content.vision.tower import ImageTower, TowerConfig
from genrec.errors import DataError

HUES = 6


def drawing(hue: int, concept: int, style: int) -> Image.Image:
    picture = Image.new("RGB", (64, 64), "white")
    left = 6 + concept % 7 * 3
    ImageDraw.Draw(picture).rectangle((left, 10, left + 30, 50), fill=f"hsl({hue * 60}, 90%, {40 + 5 * style}%)")
    return picture


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    path, rows = tmp_path_factory.mktemp("corpus"), []
    for concept in range(96):
        hue = concept % HUES
        for style, look in enumerate(STYLES):
            stream = io.BytesIO()
            drawing(hue, concept, style).save(stream, "PNG")
            names = {"concept": f"c{concept}", "name": f"box {concept}", "category": f"t{hue % 2}"}
            names |= {"subcategory": f"s{hue}", "style": look, "split": "held-out" if concept % 4 == 0 else "train"}
            rows.append({**names, "png": stream.getvalue()})
    pq.write_table(pa.Table.from_pylist(rows), path / "corpus.parquet")
    return path


class HueEncoder:
    """Mean colour, less grey: two of them differ in how they weigh the parts of a picture."""

    dimension = 3

    def __init__(self, top: int) -> None:
        self.top = top

    def images(self, pictures):
        rows = np.stack(
            [np.asarray(p.convert("RGB"), dtype=np.float32)[self.top :].mean(axis=(0, 1)) for p in pictures]
        )
        rows = rows - rows.mean(axis=1, keepdims=True) + 1e-3
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    def texts(self, texts):
        return self.images([Image.new("RGB", (64, 64), f"hsl({len(text) * 30}, 90%, 50%)") for text in texts])


@pytest.fixture(scope="module")
def stage(corpus):
    return Stage(corpus, HueEncoder(0), HueEncoder(30), users=20)


@pytest.mark.parametrize("choose", [thumbnails, clips])
def test_a_personal_choice_beats_chance_and_the_original_and_none_beats_the_ceiling(stage, choose):
    rows = {row.method: row for row in choose(stage)}
    assert list(rows) == ["Random", "Original", "Unconditional", "Ours", "Ceiling"]
    for other in ("Random", "Original", "Unconditional"):
        assert rows["Ours"].cosine.value > rows[other].cosine.value
        assert rows["Ours"].score.value > rows[other].score.value
    assert max(row.cosine.value for row in rows.values()) <= rows["Ceiling"].cosine.value + 1e-6
    assert rows["Original"].over_original is None
    over = rows["Ours"].over_original
    assert over is not None
    assert over.value == pytest.approx(rows["Ours"].cosine.value - rows["Original"].cosine.value, abs=1e-6)
    assert over.low > 0
    assert as_table("shown", list(rows.values())).row_count == 5
    assert rows["Ours"].as_json()["cosine"]["value"] == rows["Ours"].cosine.value


class Painter:
    """Paints one colour a seed; a taste picks the hue nearest to it. An oracle for restyling where it is given one."""

    name = "painter 1"

    def __init__(self, answers=None) -> None:
        self.answers = answers or {}

    def create(self, prompt, *, count, seed, taste=None, negative="", progress=None):
        return [drawing((seed + place) % HUES, place, 1) for place in range(count)]

    def restyle(self, picture, prompt, *, strength, seed, progress=None):
        return self.answers.get((picture.tobytes(), prompt.rsplit(" ", 2)[1]), picture)


def test_the_best_of_several_suits_a_user_better_than_one_without_a_taste(stage):
    settings = PictureSettings(candidates=6, preference=1.0)
    rows, pictures = creations(stage, Creator(Painter(), stage.encoder, settings), wishes=2)
    by_method = {row.method: row for row in rows}
    assert by_method["Ours"].cosine.value > by_method["Unconditional"].cosine.value
    assert {len(part) for part in pictures.values()} == {2 * len(stage.users)}
    assert len(set(WISHES)) == len(WISHES)
    assert sheet([part[:3] for part in pictures.values()]).size == (288, 384)


def test_restyling_is_measured_against_the_true_drawing(stage):
    torch.manual_seed(0)
    tower = ImageTower(TowerConfig(block="residual", widths=(8,), depths=(1,), dimension=384, styles=STYLES))
    judge = TowerEncoder(tower)
    true = {}
    for concept in range(96):
        versions = [drawing(concept % HUES, concept, style) for style in range(4)]
        for source in versions:
            true |= {(source.tobytes(), look): target for look, target in zip(STYLES, versions, strict=True)}
    figures, triples = restyling(stage, Painter(true), judge, strengths=(0.5,), floor=0.5, pairs=6)
    assert figures.pairs == 6
    assert figures.cosine_edit.value == pytest.approx(1, abs=1e-5)
    assert figures.distance_edit.value == pytest.approx(0, abs=1e-6)
    assert figures.nearer.value > 0
    assert figures.gain.value > 0
    assert all(edit.tobytes() == target.tobytes() != source.tobytes() for source, edit, target in triples)
    assert figures.translated == 0
    idle, shown = restyling(stage, Painter(), judge, strengths=(0.5,), floor=0.5)
    assert idle.pairs == len(shown) == 24  # every concept held out, once
    assert idle.gain.value == pytest.approx(0, abs=1e-6)
    assert idle.gain_p == 1
    with pytest.raises(DataError, match="none of 3 edits"):
        restyling(stage, Painter(), judge, strengths=(0.5,), floor=1.01, pairs=3)


def test_perceptual_distance_is_symmetric_and_zero_for_the_same():
    torch.manual_seed(1)
    tower = ImageTower(TowerConfig(block="patch", widths=(8, 8), depths=(1, 1), dimension=8, styles=STYLES)).eval()
    ours, theirs = [drawing(0, 0, 0), drawing(1, 1, 1)], [drawing(3, 4, 0), drawing(1, 1, 2)]
    there, back = perceptual_distance(tower, ours, theirs), perceptual_distance(tower, theirs, ours)
    assert there == pytest.approx(back)
    assert there[0] > there[1] > 0  # another colour and place is farther than another shade
    assert perceptual_distance(tower, ours, ours) == pytest.approx([0, 0])
