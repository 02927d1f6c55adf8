"""The shipped creator, as a user has it: words decide what is seen, as the shipped encoder sees it."""

from __future__ import annotations

import numpy as np
import pytest

from genrec.config.content import PictureSettings
from genrec.content.creator import Creator
from genrec.content.creator.embedded import SHIPPED
from genrec.content.creator.train import WEIGHTS
from genrec.content.providers import load_maker
from genrec.content.vision import load_encoder

pytestmark = pytest.mark.skipif(
    not (SHIPPED / WEIGHTS).is_file(), reason="the creator's weights are not in this checkout"
)
SUBJECTS = ("red heart", "red apple", "sun", "soccer ball", "house", "strawberry")


@pytest.fixture(scope="module")
def creator():
    settings = PictureSettings(candidates=2, steps=16)
    return Creator(load_maker(settings), load_encoder(), settings)


def test_pictures_show_what_was_asked(creator):
    pictures = [creator.create(f"a {subject} in flat style", seed=3).frames[0] for subject in SUBJECTS]
    assert all(picture.size == (256, 256) and picture.mode == "RGB" for picture in pictures)
    cosines = creator.encoder.images(pictures) @ creator.encoder.texts(SUBJECTS).T
    own = np.diagonal(cosines)
    others = (cosines.sum() - own.sum()) / (cosines.size - len(own))
    assert own.mean() > others + 0.05


def test_a_colour_is_put_on_a_thing(creator):
    colours = {"green": 1, "blue": 2, "red": 0}
    for colour, channel in colours.items():
        picture = np.asarray(creator.create(f"a {colour} heart in flat style", seed=1).frames[0], float)
        assert picture[96:160, 96:160].mean((0, 1)).argmax() == channel, colour


def test_a_taste_pulls_the_pictures_towards_it(creator):
    salad, heart = creator.encoder.texts(["green salad", "red heart"])
    prompts = ("a drink", "a hat", "a square", "a fruit")

    def greenness(taste):
        made = [creator.maker.create(prompt, count=1, seed=2, taste=taste)[0] for prompt in prompts]
        pixels = np.asarray([np.asarray(picture, float) for picture in made])
        return (pixels[..., 1] - pixels[..., 0]).mean()

    assert greenness(salad) > greenness(heart) + 1.0
