"""The creator's parts: words, latents, network, training that goes on where it was cut, making, choosing."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from genrec.config.content import PictureSettings
from genrec.content.corpus import STYLES
from genrec.content.creator import Creator, joint_taste, taste_of, title_of
from genrec.content.creator.embedded import EmbeddedMaker
from genrec.content.creator.examples import Examples
from genrec.content.creator.latents import PatchLatents
from genrec.content.creator.network import Conditions, Network, NetworkShape
from genrec.content.creator.train import TrainOptions, load_weights, save_weights, train
from genrec.content.creator.upscale import UPSCALER, Upscaler, load_upscaler
from genrec.content.creator.words import Words, parse, style_index
from genrec.errors import DataError, SettingsError

SHAPE = NetworkShape(patches=16, components=6, width=32, layers=2, heads=2, hidden=48)


@pytest.mark.parametrize(
    ("prompt", "subject", "style"),
    [
        ("a red apple in 3D style", "red apple", "3d"),
        ("red apple, 3d style", "red apple", "3d"),
        ("Draw me a cat as a sticker design", "cat", "twitter"),
        ("flat style", "", "flat"),
        ("an umbrella", "umbrella", None),
        ("a flat tire", "flat tire", None),
        ("picture of the moon, cartoon style, at night", "moon , at night", "google"),
        ("a castle in watercolor style", "castle in watercolor style", None),
    ],
)
def test_a_prompt_is_taken_apart(prompt, subject, style):
    wish = parse(prompt)
    assert (wish.subject, wish.style) == (subject, style)


def test_titles_come_from_the_words():
    assert title_of("a red apple in 3D style") == "Red apple, 3D"
    assert title_of("flat style") == "flat"
    assert style_index(None) == len(STYLES)


def pictures(count: int, size: int = 32, seed: int = 0) -> torch.Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def test_latents_are_the_leading_principal_components():
    from sklearn.decomposition import PCA

    pixels = pictures(40, 16).cumsum(-1) / 8
    latents = PatchLatents(16, 4, 10)
    kept = latents.fit(pixels)
    rows = pixels.view(40, 3, 4, 4, 4, 4).permute(0, 2, 4, 1, 3, 5).reshape(-1, 48).numpy()
    reference = PCA(10).fit(rows)
    assert kept == pytest.approx(reference.explained_variance_ratio_.sum(), rel=1e-4)
    again = latents.decode(latents.encode(pixels)).view(40, 3, 4, 4, 4, 4).permute(0, 2, 4, 1, 3, 5).reshape(-1, 48)
    np.testing.assert_allclose(again, reference.inverse_transform(reference.transform(rows)), atol=2e-4)


def test_all_components_give_the_picture_back():
    pixels = pictures(30, 8)
    latents = PatchLatents(8, 4, 48)
    assert latents.fit(pixels) == pytest.approx(1.0)
    torch.testing.assert_close(latents.decode(latents.encode(pixels)), pixels, atol=1e-4, rtol=0)


def conditions(count: int, seed: int = 0) -> Conditions:
    generator = torch.Generator().manual_seed(seed)
    mask = torch.zeros(count, 8, dtype=torch.bool)
    mask[:, :3] = True
    unit = torch.nn.functional.normalize(torch.randn(2, count, 384, generator=generator), dim=-1)
    states = torch.randn(count, 8, 384, generator=generator)
    return Conditions(states, mask, unit[0], unit[1], torch.arange(count) % 4)


def woken(shape: NetworkShape = SHAPE) -> Network:
    """A network whose zero layers are not zero, as after training."""
    torch.manual_seed(0)
    network = Network(shape)
    for parameter in network.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.05)
    torch.nn.init.normal_(network.style.weight)
    return network.eval()


@torch.no_grad()
def test_masked_tokens_and_absent_words_change_nothing_and_all_else_does():
    network, given = woken(), conditions(3)
    noisy, time = torch.randn(3, 16, 6), torch.tensor([0.2, 0.5, 0.9])
    out = network(noisy, time, given)
    other = conditions(3)
    other.words_BTE[:, 3:] += 9.0
    torch.testing.assert_close(network(noisy, time, other), out)
    everyone = torch.ones(3, dtype=torch.bool)
    other.words_BTE[:, :3] += 9.0
    bare = network(noisy, time, given.without_words(everyone))
    torch.testing.assert_close(network(noisy, time, other.without_words(everyone)), bare)
    for name in ("words_BTE", "pooled_BE", "taste_BE", "style_B"):
        changed = conditions(3)
        value = getattr(changed, name)
        setattr(changed, name, (value + 1) % 4 if name == "style_B" else value.flip(0))
        assert (network(noisy, time, changed) - out).abs().amax() > 1e-4, name
    assert (network(noisy, time.flip(0), given) - out).abs().amax() > 1e-4


def examples(latents: PatchLatents) -> Examples:
    pixels = pictures(8).cumsum(-1) / 16
    latents.fit(pixels)
    given = conditions(8)
    return Examples(
        latents.encode(pixels).half(),
        torch.arange(8) % 4,
        torch.arange(8)[:, None].expand(8, 4).contiguous(),
        torch.arange(8),
        torch.full((8,), 1 / 8),
        Words(given.words_BTE.half(), given.mask_BT, given.pooled_BE.half()),
    )


class CutError(Exception):
    pass


def cut_after(steps: int):
    left = iter(range(steps))

    def agree(done: float) -> float:
        if next(left, None) is None:
            raise CutError
        return done

    return agree


def test_a_training_that_was_cut_off_goes_on_as_if_it_had_not_been(tmp_path):
    latents = PatchLatents(32, 8, 6)
    drawn = examples(latents)
    options = TrainOptions(steps=6, batch=8, warmup=2, shape=SHAPE, save_every=0.0)
    train(drawn, latents, tmp_path / "whole", options)
    with pytest.raises(CutError):
        train(drawn, latents, tmp_path / "cut", options, agree=cut_after(3))
    train(drawn, latents, tmp_path / "cut", options)
    whole, _, _ = load_weights(tmp_path / "whole")
    cut, again, config = load_weights(tmp_path / "cut")
    for name, value in whole.state_dict().items():
        torch.testing.assert_close(cut.state_dict()[name], value, msg=name, rtol=0, atol=0)
    torch.testing.assert_close(again.basis, latents.basis)
    assert config["training"]["step"] == 6


def test_training_learns_and_style_and_taste_are_left_out_at_times(tmp_path):
    latents = PatchLatents(32, 8, 6)
    drawn = examples(latents)
    options = TrainOptions(steps=100, batch=8, warmup=5, shape=SHAPE, ema=0.9)
    train(drawn, latents, tmp_path, options)
    import json

    losses = [json.loads(line)["loss"] for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert losses[-1] < 0.8 * losses[0]
    _, given = drawn.batch(400, torch.Generator().manual_seed(0))
    shares = [
        (given.style_B == 4).float().mean(),
        (given.taste_BE.norm(dim=1) == 0).float().mean(),
        (~given.mask_BT.any(1)).float().mean(),
    ]
    assert [0.05, 0.5, 0.05] < [float(share) for share in shares] < [0.16, 0.7, 0.16]


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    directory = tmp_path_factory.mktemp("weights")
    latents = PatchLatents(32, 8, 6)
    examples(latents)
    save_weights(directory, woken().state_dict(), latents, TrainOptions(shape=SHAPE), 25)
    torch.manual_seed(3)
    upscaler = Upscaler(4, 1)
    torch.nn.init.normal_(upscaler.last.weight, std=0.02)
    save_file({name: value.half() for name, value in upscaler.state_dict().items()}, directory / UPSCALER)
    return directory


@pytest.fixture(scope="module")
def maker(weights):
    return EmbeddedMaker(weights, steps=4, size=64)


def same(one: Image.Image, other: Image.Image) -> bool:
    return bool(np.abs(np.asarray(one, int) - np.asarray(other, int)).max() <= 1)


def test_a_seed_makes_the_same_picture_however_many_are_made(maker):
    told: list[float] = []
    three = maker.create("red apple in flat style", count=3, seed=5, progress=told.append)
    assert told == [0.25, 0.5, 0.75, 1.0]
    assert [picture.size for picture in three] == [(64, 64)] * 3
    assert same(maker.create("red apple in flat style", count=1, seed=6)[0], three[1])
    assert not same(three[0], three[1])


def test_words_style_negative_and_taste_each_change_the_picture(maker):
    plain = maker.create("red apple in flat style", count=1, seed=0)[0]
    taste = np.eye(384, dtype=np.float32)[7]
    assert not same(maker.create("blue whale in flat style", count=1, seed=0)[0], plain)
    assert not same(maker.create("red apple in 3d style", count=1, seed=0)[0], plain)
    assert not same(maker.create("red apple in flat style", count=1, seed=0, negative="apple")[0], plain)
    assert not same(maker.create("red apple in flat style", count=1, seed=0, taste=taste)[0], plain)
    with pytest.raises(SettingsError, match="taste: 3 values; the creator's space has 384"):
        maker.create("red apple", count=1, seed=0, taste=np.ones(3, np.float32))


def test_restyling_keeps_all_or_nothing_at_the_ends_of_its_strength(maker):
    source = Image.new("RGB", (40, 40), "teal")
    assert same(maker.restyle(source, "flat style", strength=0.0, seed=1), source)
    far = maker.restyle(source, "flat style", strength=1.0, seed=1)
    assert same(far, maker.restyle(Image.new("RGB", (40, 40), "red"), "flat style", strength=1.0, seed=1))
    near = maker.restyle(source, "flat style", strength=0.25, seed=1)
    centre = [np.asarray(p.resize((8, 8)), float).mean((0, 1)) for p in (near, far)]
    teal = np.array([0, 128, 128])
    assert np.abs(centre[0] - teal).sum() < np.abs(centre[1] - teal).sum()


def test_what_nobody_should_ask_is_refused_and_missing_weights_are_named(maker, tmp_path):
    with pytest.raises(DataError, match="prompt: 100000 characters; write at most 2000"):
        maker.create("x" * 100_000, count=1, seed=0)
    with pytest.raises(DataError, match="count: 17"):
        maker.create("apple", count=17, seed=0)
    with pytest.raises(SettingsError, match=r"content\.pictures\.provider: embedded needs .*config\.json"):
        EmbeddedMaker(tmp_path)


def test_an_untrained_upscaler_is_the_bicubic_enlargement(tmp_path):
    network = Upscaler(4, 1)
    small = pictures(1)
    plain = torch.nn.functional.interpolate(small, scale_factor=8, mode="bicubic", align_corners=False)
    torch.testing.assert_close(network(small), plain)
    save_file({name: value.half() for name, value in network.state_dict().items()}, tmp_path / UPSCALER)
    torch.testing.assert_close(load_upscaler(tmp_path / UPSCALER)(small), plain)


class Painter:
    """Makes one plain colour after another."""

    name = "painter"
    colours = ("red", "lime", "blue", "white")

    def create(self, prompt, *, count, seed, taste=None, negative="", progress=None):
        self.taste = taste
        return [Image.new("RGB", (8, 8), self.colours[(seed + place) % 4]) for place in range(count)]

    def restyle(self, picture, prompt, *, strength, seed, progress=None):
        return picture


class ColourSpace:
    """Pictures by their mean colour, texts by the colour they name."""

    dimension = 3

    def images(self, pictures):
        rows = np.array([np.asarray(p, float).mean((0, 1)) for p in pictures])
        return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)

    def texts(self, texts):
        return self.images([Image.new("RGB", (1, 1), text) for text in texts])


def test_the_best_of_several_weighs_words_against_taste():
    painter = Painter()
    settings = PictureSettings(candidates=3, preference=0.3)
    likes_blue = np.array([0, 0, 2], np.float32)
    draft = Creator(painter, ColourSpace(), settings).create("lime", seed=0)
    assert (draft.seed, draft.action, draft.model) == (1, "create", "painter")
    assert painter.taste is None
    draft = Creator(painter, ColourSpace(), settings).create("lime", seed=0, taste=likes_blue)
    assert draft.frames[0].getpixel((0, 0)) == (0, 255, 0)
    assert draft.details["conditioned_on"] == "words, taste"
    mostly = settings.model_copy(update={"preference": 0.9})
    assert Creator(painter, ColourSpace(), mostly).create("lime", seed=0, taste=likes_blue).seed == 2
    alone = Creator(painter, None, settings).create("lime", seed=3)
    assert alone.seed == 3
    assert "no encoder" in str(alone.details["chosen_by"])


def test_taste_and_next_item_become_one_direction():
    one, two = np.array([3, 0, 0], np.float32), np.array([0, 0, 5], np.float32)
    np.testing.assert_allclose(joint_taste(one, two), [2**-0.5, 0, 2**-0.5], atol=1e-6)
    np.testing.assert_allclose(joint_taste(None, two), [0, 0, 1])
    assert joint_taste(None, np.zeros(3, np.float32)) is None
    assert taste_of([]) is None
    np.testing.assert_allclose(taste_of([one, two], [1, 0]), [1, 0, 0])
    with pytest.raises(SettingsError, match="not of one space"):
        joint_taste(one, np.ones(4, np.float32))
