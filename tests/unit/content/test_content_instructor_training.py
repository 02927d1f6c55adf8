"""Training and evaluation of the instructor: the grammar's slots, the hand-written sets, the measures."""

from __future__ import annotations

import random
from collections import Counter

import numpy as np
import pytest
import torch

from genrec.content.contracts import ACTIONS, Decision, Instruction, Slots
from genrec.content.instructor.calibration import SPLITS, Reading
from genrec.content.instructor.catalog_view import SIGNS, CatalogView, load_aliases, plain_title, told_of
from genrec.content.instructor.catalogs import movies
from genrec.content.instructor.evaluate import (
    Case,
    action_metrics,
    calibration_error,
    load_cases,
    slot_counts,
    with_intervals,
)
from genrec.content.instructor.generate import SPOKEN_SHARE, Grammar, InstructionMaker, assemble, slip
from genrec.content.instructor.heads import FACTS, INTENTS, OPERATIONS, SPANS, TAGS, Heads, HeadsConfig, averaged
from genrec.content.instructor.spans import medium_in, medium_of, spans_of, trimmed
from genrec.content.instructor.spoken import SETS, spoken
from genrec.content.instructor.told import items_told_of, told_films
from genrec.content.instructor.train_sufficiency import descriptions
from genrec.content.instructor.wishes import CARRIED, WishMaker
from genrec.content.instructor.words import content_words, fold, words
from genrec.content_command import INSTRUCTION_SETS


@pytest.fixture(scope="module")
def view() -> CatalogView:
    items = movies()
    nothing = np.zeros((len(items.titles), 2), np.float32)
    return CatalogView(items.titles, items.texts, nothing, nothing, load_aliases(), told_of(items.titles))


def test_drawn_instructions_have_their_slots_where_they_say(view):
    drawn = InstructionMaker(view, 3).draw(400)
    assert {each.intent for each in drawn} == set(INTENTS)
    for each in drawn:
        for said in (each.said, *each.turns):
            assert said.text.strip() == said.text
            for begin, end, slot in said.spans:
                assert slot in SPANS
                assert said.text[begin:end].strip(), (said.text, said.spans)
        assert each.operation is None or each.operation in OPERATIONS
        assert "<" not in each.said.text
    again = InstructionMaker(view, 3).draw(400)
    assert [each.said for each in drawn] == [each.said for each in again]


def test_a_change_of_nothing_that_can_be_told_is_vague(view):
    for each in InstructionMaker(view, 5).draw(600):
        if each.intent == "change" and not each.turns:
            assert each.picture or each.reference.item is not None or len(each.instruction.shown) == 1


def test_a_dialogue_may_have_been_refined_before(view):
    drawn = [each for each in InstructionMaker(view, 6).draw(600) if each.turns]
    assert {len(each.turns) for each in drawn} == {1, 2}
    for each in drawn:
        assert each.instruction.turns == tuple(turn.text for turn in each.turns)
        assert each.continues is not None
        assert each.earlier_item is None or each.earlier_item in each.instruction.shown


def test_pieces_are_joined_with_articles_and_commas_in_place():
    text, spans = assemble([("draw a ", None), ("orange cat", "T"), (" , ", None), ("flat", "S"), ("  style", None)])
    assert text == "draw an orange cat, flat style"
    assert [text[begin:end] for begin, end, _ in spans] == ["orange cat", "flat"]


def test_a_slip_changes_one_word_a_little():
    rng = random.Random(0)
    for _ in range(50):
        assert abs(len(slip("the wonderful lighthouse", rng)) - 24) <= 1


def test_every_template_can_be_drawn():
    grammar = Grammar(random.Random(1), {"wish": lambda: "Alien", "ref": lambda: "the first one"})
    for name, templates in grammar.lists.items():
        for template in templates:
            assert assemble(grammar.pieces(template)), (name, template)
    assert set(grammar.sentences) <= set(grammar.lists)


def test_a_sentence_keeps_its_words_and_changes_what_stands_in_its_slots(view):
    grammar = InstructionMaker(view, 4).grammar
    grammar.sentences = {"seek": ["do you keep [T:Casablanca] somewhere"], "change_add": ["<ref> lacks [T:a cat]"]}
    said = {grammar.say("seek", rough=False) for _ in range(60)}
    kept = [each for each in said if each.family == "seek~0"]
    assert len({each.text for each in kept}) > 5
    for each in kept:
        assert each.text.startswith("do you keep ")
        assert each.text.endswith(" somewhere")
        assert [slot for _, _, slot in each.spans] == ["target"]


def test_what_a_wish_carries_along_is_outside_of_its_target():
    grammar = Grammar(random.Random(3), {"wish": lambda: f"a film about {CARRIED}mozart"})
    text, spans = assemble(grammar.pieces("find <T:wish>, please"))
    assert text == "find a film about mozart, please"
    assert [text[begin:end] for begin, end, _ in spans] == ["mozart"]


def test_wishes_know_whether_a_visible_item_satisfies(view):
    maker = WishMaker(view, random.Random(2))
    nothing, all_hidden = np.zeros(len(view), bool), np.ones(len(view), bool)
    for _ in range(100):
        assert not maker.judged(all_hidden, ["a purple owl"]).satisfied
    judged = [maker.judged(nothing, ["a purple owl"]) for _ in range(200)]
    assert 0.4 < np.mean([wish.satisfied for wish in judged]) < 0.9
    assert all(wish.satisfied for wish in judged if wish.family == "keyword")


def test_told_plots_belong_to_films_of_that_name_alone(view):
    titles = [plain_title(title) for title in view.titles]
    told = {film: [view.titles[item] for item in items] for film, items in items_told_of(titles).items()}
    assert told["M"] == ["M (1931)"]
    assert told["Heat"] == ["Heat (1995)"]
    assert told["Terminator"] == ["Terminator, The (1984)"]
    assert "Rocky" not in told  # The Rocky Horror Picture Show is another
    assert told["Alien"] == ["Alien (1979)"]  # though Aliens is there as well
    assert told["Star Wars"] == ["Star Wars (1977)"]
    assert not any("Paradise Lost" in title for title in told.get("Robin Hood", ()))
    assert len(told) > 1_500
    assert items_told_of([None] * 5) == items_told_of(["No Such Film"]) == {}


def test_a_longer_title_is_told_of_where_it_begins_with_the_name_alone():
    titles = ["Star Wars: Episode IV", "The Making of Star Wars", "Jaws 2"]
    told = items_told_of(titles)
    assert told["Star Wars"] == [0]
    assert "Jaws" not in told
    assert items_told_of(["Terminator", "The Terminator"])["Terminator"] == [0]
    assert items_told_of(["The Terminator"])["Terminator"] == [0]


def test_titles_without_latin_letters_are_told_of_nothing():
    assert told_of(["千と千尋の神隠し (2001)", "$ (1971)", "... (1999)", "Москва (1980)", "", "(1999)"]) == []


def test_signs_tell_a_wish_that_is_met_from_one_that_is_not(view):
    met = dict(zip(SIGNS, view.search("groundhog day", 5).signs, strict=True))
    unmet = dict(zip(SIGNS, view.search("a walrus knitting socks", 5).signs, strict=True))
    assert met["coverage"] == pytest.approx(1)
    assert unmet["coverage"] < 0.5
    assert unmet["heaviest_missing"] > met["heaviest_missing"]


def test_a_wish_made_of_what_is_told_says_so_and_nothing_else_does(view):
    maker = WishMaker(view, random.Random(8))
    phrases = {phrase for told in told_films().values() for phrase in told}
    wishes = [maker.judged(np.zeros(len(view), bool), ["a purple owl"]) for _ in range(400)]
    told = [wish for wish in wishes if wish.told]
    assert len(told) > 30
    assert {wish.told for wish in told} <= phrases
    assert all(wish.family == "topic" and wish.told in wish.target for wish in told)
    films = items_told_of([plain_title(title) for title in view.titles])
    here = {phrase for film in films for phrase in told_films()[film]}
    assert all(wish.satisfied == (wish.told in here) for wish in told)


def test_a_theme_is_satisfied_where_one_visible_film_holds_all_of_it(view):
    maker, nothing = WishMaker(view, random.Random(9)), np.zeros(len(view), bool)
    themes = [maker._judged_theme(nothing, []) for _ in range(150)]
    assert {wish.family for wish in themes} == {"theme"}
    # Nearly every word is one that some film holds, and hidden films satisfy nobody.
    assert np.mean([wish.satisfied for wish in themes]) > 0.8
    assert not any(maker._judged_theme(~nothing, []).satisfied for _ in range(50))


def test_words_of_quality_and_age_weigh_little_and_a_title_is_named_among_other_words(view):
    signs = dict(zip(SIGNS, view.search("a cosy musical for my aunt", 5).signs, strict=True))
    assert signs["coverage"] > 0.6  # the kind is all that titles and kinds can tell
    assert signs["plain_missing"] == 0
    assert signs["kinds_share"] > 0.6
    plain = dict(zip(SIGNS, view.search("a kettledrum for my aunt", 5).signs, strict=True))
    assert plain["plain_missing"] > 0
    assert plain["kinds_said"] == plain["recalled"] == 0
    said = "it's a wonderful life - we watch it every december"
    found = view.search("it every december", 5, said=said)
    named = view.named(said)
    assert named is not None
    assert view.titles[named] == "It's a Wonderful Life (1946)"
    assert dict(zip(SIGNS, found.signs, strict=True))["title_named"] == 1
    hidden = np.zeros(len(view), bool)
    hidden[named] = True
    assert view.named(said, hidden) is None
    recalled = view.search("a wolf", 5, said="what's that film where a wolf talks").signs
    assert dict(zip(SIGNS, recalled, strict=True))["recalled"] == 1


def test_calibration_believes_less_where_the_heads_err_and_more_where_wishes_are_met():
    sure = tuple(np.log([0.97, 0.01, 0.01, 0.01]))
    right, wrong = (Reading(Instruction("x"), action, sure, 0.0, 0.5) for action in ("retrieve", "edit"))
    assert wrong.loss(3.0, 1.0, 0.0) < wrong.loss(1.0, 1.0, 0.0)
    assert right.loss(1.0, 1.0, 2.0) < right.loss(1.0, 1.0, 0.0)
    torn = Reading(Instruction("x"), "retrieve", tuple(np.log([0.3, 0.01, 0.68, 0.01])), 3.0, 0.5)
    assert torn.loss(1.0, 1.0, 0.0, 0.5) < torn.loss(1.0, 1.0, 0.0, 0.0)
    shares = right.loss(1.0, 1.0, 0.0)
    assert shares == pytest.approx(-np.log(0.97 * 0.5))


def test_tags_become_spans_of_whole_words():
    text = "draw a red lighthouse, no people"
    offsets = [(0, 4), (5, 6), (7, 10), (11, 16), (16, 21), (21, 22), (23, 25), (26, 32)]
    names = ["O", "B-target", "I-target", "I-target", "O", "O", "O", "B-negative"]
    scores = np.eye(len(TAGS), dtype=np.float32)[[TAGS.index(name) for name in names]]
    found = spans_of(text, offsets, scores)
    assert found.target == ("a red lighthouse",)
    assert found.negative == ("people",)
    assert trimmed("in the style of Klimt", "style") == "Klimt"
    loose = np.full((len(names), len(TAGS)), -5.0, np.float32)
    loose[:, 0] = 0.0
    loose[2, TAGS.index("I-style")] = 1.0  # inside of nothing
    loose[3, TAGS.index("B-target")] = 1.0
    assert spans_of(text, offsets, loose).style == ()
    assert spans_of(text, offsets, loose).target == ("lighthouse",)
    listed = np.full((4, len(TAGS)), -5.0, np.float32)
    listed[[0, 2], TAGS.index("B-target")] = listed[[1, 3], 0] = 0.0
    assert spans_of("tanks, guns please", [(0, 5), (5, 6), (7, 11), (12, 18)], listed).target == ("tanks, guns",)
    told = np.full((3, len(TAGS)), -5.0, np.float32)
    told[:, TAGS.index("B-constraint")] = 0.0
    assert spans_of("a bit, darker", [(0, 1), (2, 5), (7, 13)], told).constraint == ("a bit", "darker")
    media = [medium_of([word]) for word in ("short clip", "posters", "blurb", "lamp")]
    assert media == ["video", "image", "card", None]


def test_parts_of_one_word_share_a_tag():
    told = np.full((3, len(TAGS)), -9.0, np.float32)
    told[:, TAGS.index("O")] = 0.0
    told[0, TAGS.index("B-constraint")] = 9.0
    assert spans_of("ten-second", [(0, 3), (3, 4), (4, 10)], told).constraint == ("ten-second",)
    assert spans_of("16:9", [(0, 2), (2, 3), (3, 4)], told).constraint == ("16:9",)
    assert spans_of("dark - low", [(0, 4), (5, 6), (7, 10)], told).constraint == ("dark",)


def test_a_medium_counts_where_it_carries_the_thing():
    assert medium_in("a picture of a fox", []) == "image"
    assert medium_in("video: rain on a window", []) == "video"
    assert medium_in("paint a lighthouse for my picture wall", []) is None
    assert medium_in("a picture of a fox", ["a picture of a fox"]) is None


def test_a_slip_names_the_title_that_it_is_a_slip_of(view):
    assert view.named("goodfelas") is None
    assert view.titles[view.nearly_named("goodfelas")] == "GoodFellas (1990)"
    assert view.nearly_named("a walrus knitting socks") is None


@pytest.mark.parametrize(
    ("said", "title"),
    [
        ("clockwork orange, if you have it", "Clockwork Orange, A (1971)"),
        ("is Terminator 2 in there", "Terminator 2: Judgment Day (1991)"),
        ("a good player", None),  # The Player is named with its article alone
    ],
)
def test_a_title_is_named_without_its_article_or_by_its_first_part(said, title, view):
    named = view.named(said)
    assert (named if named is None else view.titles[named]) == title


def test_what_the_readers_say_is_averaged():
    torch.manual_seed(0)
    config = HeadsConfig(readers=2)
    heads = Heads(config).eval()
    given = (torch.randn(1, 5, config.states), torch.ones(1, 5, dtype=torch.bool), torch.zeros(1, 5, dtype=torch.int64),
             torch.randn(1, config.sentence), torch.randn(1, len(FACTS)))  # fmt: skip
    with torch.inference_mode():
        said = [each.instruction(*given) for each in heads.read_by()]
        both = averaged(said).intents_BI
        each = [output.intents_BI.log_softmax(-1) for output in said]
    assert torch.allclose(both, (each[0] + each[1]) / 2)
    assert not torch.allclose(each[0], each[1])


@pytest.mark.parametrize(
    ("split", "least"), [*((name, 200) for name in SETS), ("calibration", 70), ("fifth", 350), ("test", 400)]
)
def test_the_hand_written_sets_are_whole(split, least, view):
    cases = load_cases(split, view)
    assert len(cases) >= least
    assert {case.action for case in cases} == set(ACTIONS)
    assert {case.satisfiable for case in cases} == {True, False, None}
    assert all(set(case.slots) <= set(Slots.model_fields) for case in cases)
    assert all(case.slots.get("operation", "crop") in OPERATIONS for case in cases)
    for case in cases:
        assert case.satisfiable is not (case.action == "create" or None) or case.action != "create"


def test_the_test_set_is_not_templated_like_training_and_shares_nothing_with_dev(view):
    test = load_cases("test", view)
    dev = [case for split in (*SETS, *SPLITS) for case in load_cases(split, view)]
    assert not {case.family for case in test} & {case.family for case in dev}
    told = {case.instruction.text.lower() for case in test if len(case.instruction.text.split()) > 2}
    assert not told & {case.instruction.text.lower() for case in dev}
    drawn = {each.said.text.lower().strip(".!?") for each in InstructionMaker(view, 9).draw(3000)}
    assert not {text.strip(".!?") for text in told} & drawn


def test_no_instruction_that_trains_has_nearly_the_words_of_one_of_the_test(view):
    test = [Counter(words(case.instruction.text)) for case in load_cases("test", view)]
    for said in {"".join(text for text, _ in each.pieces) for each in spoken(view)}:
        own = Counter(words(said))
        longer = [max(own.total(), other.total()) for other in test]
        if max(longer) > 2:
            shared = [(own & other).total() / most for other, most in zip(test, longer, strict=True) if most > 2]
            assert max(shared) < 0.7, said


def test_what_calibrates_does_not_train(view):
    assert not set(SETS) & {*SPLITS, "test"}
    assert set(INSTRUCTION_SETS) == {"test", *SPLITS, *SETS}
    trains, calibrates = (
        {(case.instruction.text, case.instruction.turns) for split in splits for case in load_cases(split, view)}
        for splits in (SETS, SPLITS)
    )
    assert {text for text, _ in trains & calibrates} <= {""}


def test_slots_of_what_people_wrote_are_found_again_in_their_words(view):
    found = spoken(view)
    assert sum(each.tagged for each in found) > 0.99 * len(found)
    for each in found:
        assert "".join(text for text, _ in each.pieces) == each.case.instruction.text
        targets = [text for text, letter in each.pieces if letter == "T"]
        assert len(targets) <= 1
        if targets:
            assert fold(targets[0]) == fold(each.case.slots["target"])
    (lost,) = [each for each in found if each.case.instruction.text == "Got Gladiator with Russell Crowe?"]
    assert lost.intent == "seek"  # the wish is for a film, though it has to be made
    assert ("Gladiator", "T") in lost.pieces


def test_what_people_wrote_is_drawn_with_its_own_intent(view):
    said = spoken(view)
    drawn = [each for each in InstructionMaker(view, 4, said).draw(1500) if each.said.family.split()[0] in SETS]
    assert len(drawn) == pytest.approx(1500 * SPOKEN_SHARE, rel=0.3)
    intents = {
        each.family: each.intent for each in said if len({o.intent for o in said if o.family == each.family}) == 1
    }
    assert all(each.intent == intents.get(each.said.family, each.intent) for each in drawn)
    assert all(each.continues in (None, True) for each in drawn)
    assert all(not turn.tagged for each in drawn for turn in each.turns)


def test_a_description_is_of_a_film_of_the_catalog_or_of_none(view):
    told = list(descriptions(view))
    assert len(told) > 1_000
    assert 0.15 < sum(item is None for _, item in told) / len(told) < 0.5
    test = [set(words(case.instruction.text)) for case in load_cases("test", view)]
    for text, _ in told:
        telling = content_words(text) or words(text)
        near = [sum(word in case for word in telling) for case in test]
        assert len(telling) < 2 or max(near) < 0.75 * len(telling), text


def _decision(action: str, **slots: object) -> Decision:
    return Decision.model_validate(
        {"action": action, "probabilities": {action: 1.0}, "slots": slots, "sufficiency": 0.5}
    )


def test_measures_agree_with_scikit_learn_and_by_hand():
    from sklearn.metrics import f1_score

    draw = np.random.default_rng(0)
    expected = [ACTIONS[place] for place in draw.integers(4, size=200)]
    given = [ACTIONS[place] for place in draw.integers(4, size=200)]
    found = action_metrics(expected, given)
    assert found["macro_f1"] == pytest.approx(f1_score(expected, given, average="macro"))
    assert action_metrics(["retrieve", "create"], ["create", "retrieve"])["over_generation"] == 1
    assert calibration_error(np.array([0.9, 0.9, 0.3]), np.array([True, True, False])) == pytest.approx(
        (2 / 3) * 0.1 + (1 / 3) * 0.3
    )
    case = Case(Instruction("x"), "create", {"target": "red apple", "style": "flat", "negatives": ["text"]}, None, "f")
    credit = slot_counts(case, _decision("create", target="a red apple", style="flat", negatives=("words", "text")))
    assert credit == (3, 4, 3)
    assert slot_counts(case, _decision("create", target="an apple"))[0] == pytest.approx(2 / 3)
    assert slot_counts(case, _decision("create", target="an apple"), exact=True)[0] == 0


def test_intervals_hold_the_value_and_resample_families():
    families = ["a"] * 50 + ["b"] * 50
    right = np.array([1.0] * 50 + [0.0] * 50)
    (value, low, high) = with_intervals(lambda rows: {"mean": float(right[rows].mean())}, families)["mean"]
    assert value == 0.5
    assert (low, high) == (0, 1)
