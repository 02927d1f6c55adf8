"""The picture tower: shapes, the loss against a plain one, learning on a tiny corpus, and the shipped files' checks."""

from __future__ import annotations

import io
import json
import math
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image, ImageDraw
from torch.nn import functional

from genrec.content.corpus import COLOURS, STYLES
from genrec.content.vision import load_encoder
from genrec.content.vision.augment import Augmentation
from genrec.content.vision.encoder import CONFIG, TOWER, WEIGHTS, as_batch, save_encoder, squared
from genrec.content.vision.examples import NONE, colourless, read_examples
from genrec.content.vision.figures import retrieval
from genrec.content.vision.tower import ImageTower, TowerConfig
from genrec.content.vision.training import Batch, Batches, TowerTraining, contrastive_loss, train_tower
from genrec.errors import ArtifactError

DIMENSION = 24
SHAPES = ("circle", "square", "cross", "bar")


def config(block: str = "residual") -> TowerConfig:
    return TowerConfig(block=block, widths=(8, 16), depths=(1, 1), dimension=DIMENSION, styles=STYLES, dropout=0.0)


def drawing(shape: str, style: int, colour: str) -> Image.Image:
    picture = Image.new("RGB", (64, 64), "white")
    draw = ImageDraw.Draw(picture)
    width = 2 + 2 * style
    if shape == "circle":
        draw.ellipse((12, 12, 52, 52), outline=colour, width=width, fill=colour if style > 1 else None)
    elif shape == "square":
        draw.rectangle((12, 12, 52, 52), outline=colour, width=width, fill=colour if style > 1 else None)
    elif shape == "cross":
        draw.line((10, 10, 54, 54), fill=colour, width=4 + width)
        draw.line((54, 10, 10, 54), fill=colour, width=4 + width)
    else:
        draw.rectangle((28, 6, 36, 58), fill=colour)
    return picture


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    path = tmp_path_factory.mktemp("corpus")
    rows = []
    for place, shape in enumerate(SHAPES):
        for style, look in enumerate(STYLES):
            stream = io.BytesIO()
            drawing(shape, style, "red").save(stream, "PNG")
            rows.append(
                {
                    "concept": f"c{place}",
                    "name": f"red {shape}" if shape == "cross" else shape,
                    "keywords": ["shape", shape],
                    "style": look,
                    "split": "train",
                    "colour": "red",
                    "hue": 0.0,
                    "unseen_colours": ["blue"] if shape == "circle" else [],
                    "png": stream.getvalue(),
                }
            )
    pq.write_table(pa.Table.from_pylist(rows), path / "corpus.parquet")
    return path


def sentence_vectors(examples) -> dict[str, np.ndarray]:
    """A unit vector by chance for all that can be said."""
    said = {sentence.text for row in range(len(examples.concept_N)) for sentence in examples.sentences(row)}
    rng = np.random.default_rng(5)
    rows = {text: rng.normal(size=DIMENSION).astype(np.float32) for text in sorted(said | set(examples.names))}
    return {text: row / np.linalg.norm(row) for text, row in rows.items()}


@pytest.mark.parametrize("pool", ["moments", "places"])
@pytest.mark.parametrize("block", ["residual", "patch"])
def test_a_tower_gives_unit_vectors_and_styles_one_picture_at_a_time_or_together(block, pool):
    torch.manual_seed(0)
    tower = ImageTower(config(block).model_copy(update={"pool": pool, "hidden": (12,)})).eval()
    batch = as_batch([drawing(shape, 1, "green") for shape in SHAPES])
    assert batch.shape == (4, 3, 64, 64)
    assert float(batch.min()) >= -1
    assert float(batch.max()) == 1
    with torch.inference_mode():
        vectors, styles = tower(batch)
        alone = torch.cat([tower(batch[place : place + 1])[0] for place in range(4)])
    assert vectors.shape == (4, DIMENSION)
    assert styles.shape == (4, len(STYLES))
    assert torch.allclose(vectors.norm(dim=1), torch.ones(4), atol=1e-5)
    assert torch.allclose(vectors, alone, atol=1e-5)


def test_pictures_are_seen_whole_on_white():
    wide = squared(Image.new("RGB", (200, 50), "black"))
    assert wide.size == (64, 64)
    assert wide.getpixel((32, 5)) == (255, 255, 255)
    assert wide.getpixel((32, 32)) == (0, 0, 0)
    assert squared(Image.new("L", (1, 900), 0)).getpixel((5, 5)) == (255, 255, 255)


def test_augmentation_keeps_shape_range_and_white_ground_and_can_be_nothing():
    batch = as_batch([drawing(shape, 2, "blue") for shape in SHAPES])
    generator = torch.Generator().manual_seed(1)
    changed = Augmentation(hide=1.0)(batch, generator)
    assert changed.shape == batch.shape
    assert float(changed.abs().max()) <= 1
    assert not torch.allclose(changed, batch)
    nothing = Augmentation(turn=0, shift=0, zoom=0, mirror=0, brightness=0)
    assert torch.allclose(nothing(batch, generator), batch, atol=1e-5)
    mirrored = Augmentation(turn=0, shift=0, zoom=0, mirror=1, brightness=0)(batch, generator)
    assert torch.allclose(mirrored, batch.flip(3), atol=1e-4)
    shifted = Augmentation(turn=0, shift=0.3, zoom=0, mirror=0, brightness=0)(torch.ones(3, 3, 64, 64), generator)
    assert torch.allclose(shifted, torch.ones(3, 3, 64, 64), atol=1e-5)  # what comes in from outside is white
    softened = Augmentation(turn=0, shift=0, zoom=0, mirror=0, brightness=0, soften=1)(batch, generator)
    assert 0 < float((softened - batch).abs().mean()) < 0.1  # edges are blurred, the rest stays
    assert torch.allclose(softened.mean(dim=(2, 3)), batch.mean(dim=(2, 3)), atol=0.02)


def test_copies_in_other_colours_leave_out_the_unseen_ones(corpus):
    examples = read_examples(corpus, "train", turned=6)
    assert examples.names == ["circle", "square", "red cross", "bar"]
    assert (~examples.turned_N).sum() == 16
    blue = COLOURS.index("blue")
    circles = examples.colour_N[(examples.concept_N == 0) & examples.turned_N]
    assert set(circles) == {COLOURS.index(word) for word in COLOURS if word not in ("red", "blue")}
    assert blue in examples.colour_N[examples.concept_N == 1]
    row = int(np.flatnonzero((examples.concept_N == 2) & examples.turned_N)[0])
    (said,) = examples.sentences(row)
    assert said.text == f"{COLOURS[examples.colour_N[row]]} cross"
    assert said.colour == examples.colour_N[row]
    plain = examples.sentences(int(np.flatnonzero(~examples.turned_N)[0]))
    assert plain[0].text == "circle"
    assert plain[0].colour == NONE
    assert colourless("red") == "red"


def test_the_loss_is_the_plain_one_where_nothing_is_left_out():
    torch.manual_seed(2)
    pictures, texts, names = (functional.normalize(torch.randn(n, 8), dim=1) for n in (5, 5, 7))
    batch = Batch(torch.zeros(5, 3, 64, 64), texts, torch.eye(5, dtype=torch.bool), torch.arange(5), torch.zeros(5))
    scale = torch.tensor(math.log(10.0))
    loss = contrastive_loss(pictures, batch, names, scale)
    logits, with_names = 10 * pictures @ texts.T, 10 * pictures @ names.T
    terms = []
    for i in range(5):
        others = sum(math.exp(logits[i, j]) for j in range(5))
        others += sum(math.exp(with_names[i, c]) for c in range(7) if c != i)
        terms.append((-math.log(math.exp(logits[i, i]) / others), -float(logits[:, i].log_softmax(0)[i])))
    assert float(loss) == pytest.approx(np.mean(terms), rel=1e-5)


def test_a_true_sentence_of_another_row_does_not_compete():
    torch.manual_seed(3)
    pictures, names = (functional.normalize(torch.randn(n, 8), dim=1) for n in (3, 4))
    texts = functional.normalize(torch.randn(3, 8), dim=1)
    concept = torch.tensor([0, 0, 1])
    true = torch.eye(3, dtype=torch.bool)
    true[0, 1] = true[1, 0] = True
    left_out = contrastive_loss(pictures, Batch(pictures, texts, true, concept, concept), names, torch.tensor(2.0))
    texts_moved = texts.clone()
    texts_moved[1] = pictures[0]  # now a perfect match of row 0, said of row 1
    moved = contrastive_loss(pictures, Batch(pictures, texts_moved, true, concept, concept), names, torch.tensor(2.0))
    apart = contrastive_loss(
        pictures,
        Batch(pictures, texts_moved, torch.eye(3, dtype=torch.bool), concept, concept),
        names,
        torch.tensor(2.0),
    )
    assert torch.isfinite(left_out)
    assert float(apart) > float(moved)


def test_a_batch_holds_two_drawings_of_each_concept_and_knows_what_is_true(corpus):
    examples = read_examples(corpus, "train", turned=2)
    batches = Batches(examples, sentence_vectors(examples), TowerTraining(tower=config(), concepts=4, steps=1))
    for _ in range(5):
        batch = batches.draw()
        assert batch.pictures_B3HW.shape == (8, 3, 64, 64)
        assert sorted(batch.concept_B.tolist()) == [0, 0, 1, 1, 2, 2, 3, 3]
        assert batch.true_BB.diagonal().all()
        assert not batch.true_BB[batch.concept_B[:, None] != batch.concept_B[None, :]].any()
    plain = TowerTraining(tower=config(), concepts=4, steps=1, own_share=1.0)
    own = Batches(examples, sentence_vectors(examples), plain)
    assert not any(examples.turned_N[own._two_rows(concept)].any() for concept in range(4) for _ in range(20))


def test_a_tower_learns_four_shapes_and_the_same_seed_gives_the_same_weights(corpus):
    examples = read_examples(corpus, "train")
    vectors = sentence_vectors(examples)
    settings = TowerTraining(
        tower=config(),
        concepts=4,
        steps=60,
        rate=5e-3,
        average=0.9,
        bfloat16=False,
        augmentation=Augmentation(turn=3, shift=0.02),
    )
    losses: list[float] = []
    tower = train_tower(examples, vectors, settings, lambda step, done, loss: losses.append(loss))
    assert np.mean(losses[-5:]) < np.mean(losses[:5]) / 2
    with torch.inference_mode():
        seen, _ = tower(examples.pictures_N3HW.float() / 127.5 - 1)
    names = np.stack([vectors[name] for name in examples.names])
    (first,) = retrieval(seen.numpy(), examples.concept_N, names, (1,))
    assert first > 0.9
    short = settings.model_copy(update={"steps": 3})
    one, two = (train_tower(examples, vectors, short).state_dict() for _ in range(2))
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_retrieval_counts_ties_against():
    names = np.eye(3, dtype=np.float32)
    pictures = np.array([[1, 0, 0], [0.5, 0.5, 0], [0, 0.2, 0.9]], dtype=np.float32)
    assert retrieval(pictures, np.array([0, 0, 1]), names, (1, 2)) == [pytest.approx(1 / 3), 1.0]


@pytest.mark.parametrize("name", ["encoder", "judge"])
def test_the_shipped_encoder_keeps_what_its_card_says(name):
    encoder = load_encoder(name)
    assert encoder.dimension == 384
    assert (WEIGHTS / name / "MODEL_CARD.md").read_text().startswith(f"# {name}")
    figures = json.loads((WEIGHTS / name / CONFIG).read_text())["figures"]["held_out"]
    assert figures["r@1"] > 10 / figures["choices"]  # ten times chance
    pictures = [drawing("circle", 3, colour) for colour in ("red", "blue", "green")]
    vectors = encoder.images(pictures)
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-4)
    texts = encoder.texts(["red circle", "blue circle", "green circle"])
    assert (vectors @ texts.T).argmax(axis=1).tolist() == [0, 1, 2]
    shares = encoder.style_shares(pictures)
    assert np.allclose(shares.sum(axis=1), 1, atol=1e-5)
    assert encoder.images([]).shape == (0, 384)


def test_encoder_and_judge_share_no_architecture():
    assert load_encoder().tower.config.block != load_encoder("judge").tower.config.block


def test_altered_or_missing_weights_are_refused(tmp_path):
    with pytest.raises(ArtifactError, match="content train other"):
        load_encoder("other")
    tower = ImageTower(TowerConfig(block="residual", widths=(4,), depths=(1,), dimension=384, styles=STYLES))
    encoder = load_encoder()
    good = tmp_path / "good"
    save_encoder(good, tower, encoder.text.identity, {})
    assert load_encoder(directory=good, text=encoder.text).dimension == 384
    for name, change in {
        "altered": lambda path: (path / TOWER).write_bytes((path / TOWER).read_bytes()[:-1] + b"\1"),
        "gone": lambda path: (path / TOWER).unlink(),
        "no json": lambda path: (path / CONFIG).write_text("{"),
        "other text": lambda path: (path / CONFIG).write_text(
            (path / CONFIG).read_text().replace(encoder.text.identity, "0" * 16)
        ),
        "other widths": lambda path: (path / CONFIG).write_text(
            json.dumps({**(raw := json.loads((path / CONFIG).read_text())), "tower": {**raw["tower"], "widths": [8]}})
        ),
    }.items():
        folder = tmp_path / name
        shutil.copytree(good, folder)
        change(folder)
        with pytest.raises(ArtifactError, match=r"install|train"):
            load_encoder(directory=folder, text=encoder.text)
