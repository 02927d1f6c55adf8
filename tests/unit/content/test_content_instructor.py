"""The instructor: what it weighs, what it refers to, what it decides with the shipped heads, and what it refuses."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from genrec.config import InstructorSettings
from genrec.content.contracts import ACTIONS, Instruction, Slots
from genrec.content.instructor import CatalogView, InstructionError, Instructor, load_instructor
from genrec.content.instructor.catalog_view import SIGNS
from genrec.content.instructor.heads import Heads
from genrec.content.instructor.instructor import SATISFIES_BY_PICTURE, fitting
from genrec.content.instructor.references import resolve
from genrec.content.instructor.slots import as_a_name, years_apart, years_behind
from genrec.content.instructor.spans import trimmed
from genrec.content.instructor.understanding import is_a_kind, is_a_title
from genrec.content.instructor.weighing import choose, compose, informed
from genrec.content.instructor.words import content_words, years
from genrec.encoders.minilm import MiniLMEncoder
from genrec.errors import ArtifactError, SettingsError

FILMS = {
    "Toy Story (1995)": "Animation Children's Comedy",
    "GoldenEye (1995)": "Action Adventure Thriller",
    "Usual Suspects, The (1995)": "Crime Thriller",
    "Alien (1979)": "Action Horror Sci-Fi Thriller",
    "Psycho (1960)": "Horror Romance Thriller",
    "Casablanca (1942)": "Drama Romance War",
    "Unforgiven (1992)": "Western",
    "High Noon (1952)": "Western",
    "Snow White and the Seven Dwarfs (1937)": "Animation Children's Musical",
    "Fargo (1996)": "Crime Drama Thriller",
    "Jaws (1975)": "Action Horror",
    "Groundhog Day (1993)": "Comedy Romance",
}
TITLES = list(FILMS)


@pytest.fixture(scope="module")
def encoder() -> MiniLMEncoder:
    return MiniLMEncoder()


@pytest.fixture(scope="module")
def instructor(encoder: MiniLMEncoder) -> Instructor:
    return load_instructor(InstructorSettings(), encoder=encoder)


@pytest.fixture(scope="module")
def view(encoder: MiniLMEncoder) -> CatalogView:
    return CatalogView.build(TITLES, [f"{title} {kinds}" for title, kinds in FILMS.items()], encoder)


@pytest.mark.parametrize(
    ("text", "span", "left"),
    [
        ("a western from the 50s", (1950, 1959), "a western from"),
        ("noir of the early forties", (1940, 1943), "noir of the"),
        ("comedies before 1960", (1880, 1959), "comedies"),
        ("anything since 1990", (1991, 2100), "anything"),
        ("between 1970 and 1975, crime", (1970, 1975), ", crime"),
        ("horror 1979", (1979, 1979), "horror"),
        ("12 angry men", None, "12 angry men"),
        ("a musical, nothing newer than 1940", (1880, 1940), "a musical,"),
        ("none older than 1990", (1990, 2100), ""),
        ("horror, 2023 or later", (2023, 2100), "horror,"),
        ("1950 or earlier", (1880, 1950), ""),
        ("crime of '97", (1997, 1997), "crime of"),
        ("dramas shot in the 1890s", (1890, 1899), "dramas shot in"),
        ("cartoons of the noughties", (2000, 2009), "cartoons of the"),
        ("the overture of 1812", None, "the overture of 1812"),
    ],
)
def test_years_are_read_from_a_wish(text, span, left):
    found, rest = years(text)
    assert found == span
    assert " ".join(rest.split()).startswith(left)


def test_content_words_leave_out_what_carries_the_wish():
    assert content_words("Could you find me a movie about the Wolves, please?") == ["wolve"]
    assert content_words("Amélie's cats") == ["amelie", "cat"]


@pytest.mark.parametrize(
    ("text", "item"),
    [
        ("make the second one brighter", 3),
        ("number three in blue", 5),
        ("#1 as a gif", 0),
        ("the last one, please", 5),
        ("crop the top poster", 0),
        ("the middle one", 3),
        ("the 2nd picture", 3),
        ("add a hat to the Casablanca poster", 5),
        ("Second from the bottom looks odd", 3),
        ("cut the third to a square", 5),
        ("could the second get a hat", 3),
        ("the one on the left in sepia", 0),
        ("photo 2, but warmer", 3),
        ("a cat in the Cassablanca poster", 5),
        ("the last but one wants a frame", 3),
        ("3 was cute. more of them", 5),
        ("same mood as the middle 1", 3),
        ("everyone slept but in the second. Act on that", 3),
        ("the second reads like a tax form", 3),
        ("the tagline along the bottom of Alien", 3),
        ("the top of the list in charcoal", 0),
        ("now two", 3),
    ],
)
def test_a_place_or_title_names_an_item_of_the_list(text, item, view):
    assert resolve(text, (0, 3, 5), view).item == item


@pytest.mark.parametrize(
    ("text", "slots"),
    [
        ("a 40s drama", {"target": "drama", "constraints": ("40s",)}),
        ("a family film of 2001", {"target": "family film", "constraints": ("of 2001",)}),
        ("1941", {"target": "1941"}),
        ("no years here", {"target": "no years here"}),
    ],
)
def test_years_are_taken_apart_from_a_wish(text: str, slots: dict[str, object]):
    target, years_said = years_apart(text)
    assert target.removeprefix("a ") == slots["target"]
    assert years_said == slots.get("constraints", ())


@pytest.mark.parametrize(
    ("target", "text", "years_said"),
    [
        ("animation", "Animation, from the noughties, as in my dorm", ("from the noughties",)),
        ("a romance", "my parents met in 1954, so a romance", ()),
        ("a romance", "a romance for those who met in 1954", ()),
        ("noir", "any noir", ()),
    ],
)
def test_years_right_behind_a_wish_belong_to_it(target: str, text: str, years_said: tuple[str, ...]):
    assert years_behind(target, text) == years_said


@pytest.mark.parametrize(
    ("title", "text", "name"),
    [
        ("Alien", "two aspirin and Alien", True),
        ("Alien", "an alien and two aspirin", False),
        ("Alien", "Alien hands in a bag", False),
    ],
)
def test_a_capital_inside_of_a_sentence_makes_a_name(title: str, text: str, name: bool):
    assert as_a_name(title, text) == name


@pytest.mark.parametrize(
    ("slot", "span", "kept"),
    [
        ("negative", "that snake", "snake"),
        ("negative", "letters on", "letters"),
        ("constraint", "preferably", ""),
        ("constraint", "before 1946 or", "before 1946"),
        ("constraint", "from before 1950", "before 1950"),
        ("constraint", "from the 60s", "from the 60s"),
    ],
)
def test_spans_lose_what_carries_them(slot: str, span: str, kept: str):
    assert trimmed(span, slot) == kept


@pytest.mark.parametrize(
    ("text", "title"),
    [
        ("the usal suspekts", "Usual Suspects, The (1995)"),
        ("grondhog dya", "Groundhog Day (1993)"),
        ("a good day", None),
    ],
)
def test_a_title_is_read_with_several_slips(text: str, title: str | None, view):
    item = view.nearly_named(text)
    assert (None if item is None else TITLES[item]) == title


@pytest.mark.parametrize(
    ("text", "alone"),
    [("Casablanca, please", True), ("not Casablanca", False), ("a cat in Casablanca", False), ("the one", False)],
)
def test_a_title_alone_is_told_from_a_sentence(text: str, alone: bool):
    assert is_a_title(text, "Casablanca (1942)") == alone


@pytest.mark.parametrize(
    ("text", "alone"),
    [
        ("horror, whichever", True),
        ("science fiction please", True),
        ("make it scary", False),
        ("hello robot", False),
        ("no horror", False),
        ("horror with snails", False),
        ("something nice", False),
    ],
)
def test_a_kind_alone_is_told_from_a_sentence(text: str, alone: bool, view):
    assert is_a_kind(text, view) == alone


def test_of_two_titles_alike_the_one_said_is_meant():
    titles = ["Aliens (1986)", "Alien (1979)"]
    catalog = CatalogView(titles, titles, np.zeros((2, 2), np.float32), np.zeros((2, 2), np.float32))
    for item, said in enumerate(("Aliens", "Alien")):
        for shown in ((0, 1), (1, 0)):
            assert resolve(f"paint out the egg in {said}", shown, catalog).item == item


def test_this_is_the_only_item_the_antecedent_or_unknown(view):
    assert resolve("make it blue", (4,), view).item == 4
    assert resolve("make it blue", (4, 5), view).item is None
    assert resolve("make it blue", (4, 5), view, antecedent=5).item == 5
    assert resolve("the seventh one", (4, 5), view).beyond
    assert resolve("draw a fox", (4, 5), view).kind == "none"


probabilities = st.lists(st.floats(0.001, 1), min_size=4, max_size=4).map(
    lambda values: dict(zip(("seek", "change", "make", "vague"), (v / sum(values) for v in values), strict=True))
)


@given(probabilities, st.floats(0, 1), st.integers(0, 30), st.booleans())
def test_probabilities_sum_to_one_and_rejections_move_towards_making(intents, sufficiency, rejected, can_edit):
    def at(count: int) -> dict[str, float]:
        return compose(intents, sufficiency, rejected=count, can_edit=can_edit, rejection_weight=0.5)

    now, then = at(rejected), at(rejected + 1)
    assert sum(now.values()) == pytest.approx(1)
    assert min(now.values()) >= -1e-12
    assert then["retrieve"] <= now["retrieve"] + 1e-12
    assert then["create"] + then["edit"] >= now["create"] + now["edit"] - 1e-12


@given(probabilities, st.floats(0, 1), st.floats(0, 1))
def test_what_the_catalog_satisfies_was_sought_rather_than_to_be_made(intents, sufficiency, evidence):
    found = informed(intents, sufficiency, evidence)
    assert sum(found.values()) == pytest.approx(1)
    assert found["change"] == intents["change"]
    assert found["vague"] == intents["vague"]
    assert found["seek"] >= intents["seek"] - 1e-12
    if evidence == 0 or sufficiency <= 0.5:
        assert found["seek"] == pytest.approx(intents["seek"])


def test_a_dearer_creation_is_chosen_less():
    close = {"retrieve": 0.48, "create": 0.52, "edit": 0.0, "clarify": 0.0}
    equal = InstructorSettings(cost_retrieve=1, cost_create=1)
    dear = InstructorSettings(cost_retrieve=1, cost_create=1.5)
    assert choose(close, equal)[0] == "create"
    assert choose(close, dear)[0] == "retrieve"
    unsure = {"retrieve": 0.3, "create": 0.3, "edit": 0.2, "clarify": 0.2}
    assert choose(unsure, dear)[0] == "clarify"


def test_search_finds_titles_kinds_years_and_slips(view, encoder):
    def best(target: str, *constraints: str) -> str:
        found = view.search(target, 3, constraints=constraints, encoder=encoder)
        return TITLES[found.items[0]]

    assert best("the usual suspects").startswith("Usual")
    assert best("a western", "from the 50s").startswith("High Noon")
    assert best("scary stuff in space").startswith("Alien")
    assert best("grondhog day").startswith("Groundhog")
    assert best("snow white and the 7 dwarfs").startswith("Snow")
    assert best("casablanka").startswith("Casablanca")
    without = view.search("horror", 12, negatives=["psycho"], encoder=encoder)
    assert TITLES[without.items[-1]].startswith("Psycho")
    assert "elephant" in view.search("a purple elephant on the moon", 3, encoder=encoder).missing


@pytest.mark.parametrize(
    ("target", "said", "lacks"),
    [
        ("Bridgerton at once", "grandmother demands Bridgerton at once", "bridgerton"),
        ("popcorn", "popcorn is ready, so where is Toy Story 4", "toy story 4"),
        ("stranger things", "", "stranger thing"),
        ("strange things in the cellar", "", ""),
        ("Toy Story", "", ""),
        ("cars", "anything about cars", ""),
        ("Fargo", "Fargo, and no Bridgerton this time", ""),
        ("a western", "nothing like Harry Potter, a western please", ""),
        ("a western", "a western rather than the Hunger Games", ""),
        ("the matrix", "the matrix, with the red pill", "matrix"),
        ("Bluey. All of Bluey", "", "bluey"),
    ],
)
def test_a_known_work_that_is_not_here_is_told(view, encoder, target: str, said: str, lacks: str):
    assert view.search(target, said=said, encoder=encoder).lacks == lacks


def test_a_title_before_a_second_one_is_read_with_slips(encoder):
    titles = ["Dr. Strangelove or: How I Learned to Stop Worrying (1963)", "Star Trek: Insurrection (1998)",
              "Star Trek: First Contact (1996)", "Strange Days (1995)"]  # fmt: skip
    there = CatalogView.build(titles, ["War", "Sci-Fi", "Sci-Fi", "Crime"], encoder)
    found = there.search("doctor strangeluv", encoder=encoder)
    assert found.items[0] == 0
    assert found.missing == ()
    assert there.nearly_named("star treck") is None


def test_what_is_wanted_is_not_unwanted(view, encoder):
    found = view.search("romance", 12, negatives=["weddings"], encoder=encoder)
    assert "Romance" in FILMS[TITLES[found.items[0]]]
    assert dict(zip(SIGNS, found.signs.tolist(), strict=True))["coverage"] == 1
    rid = view.search("a western", 12, negatives=["musicals"], encoder=encoder)
    assert "Musical" in FILMS[TITLES[rid.items[-1]]]


def test_a_work_that_is_here_is_not_lacking(encoder):
    there = CatalogView.build(["Toy Story 4 (2019)", "Frozen (2013)"], ["Animation", "Animation"], encoder)
    assert not there.search("toy story 4", encoder=encoder).lacks
    assert not there.search("frozen", encoder=encoder).lacks
    assert there.search("Bridgerton", encoder=encoder).lacks


def test_the_whole_sentence_tells_the_side_of_a_year(view, encoder):
    found = view.search("a western", 12, constraints=["newer than 1960"], said="a western, nothing newer than 1960",
                        encoder=encoder)  # fmt: skip
    assert TITLES[found.items[0]].startswith("High Noon")


def test_a_film_is_found_by_what_people_tell_of_it(view, encoder):
    told = [phrase for phrase, item in view.told if TITLES[item] == "Groundhog Day (1993)"]
    assert len(told) >= 2
    phrase = told[0]
    with_it, without = (
        view.search(f"that film about {phrase}", 3, encoder=encoder, untold=left) for left in ("", phrase)
    )
    assert TITLES[with_it.items[0]] == "Groundhog Day (1993)"
    told_with, told_without = (found.signs[SIGNS.index("told_cosine")] for found in (with_it, without))
    assert told_with > 0.6
    assert told_without < told_with
    hidden = np.array([title == "Groundhog Day (1993)" for title in TITLES])
    away = view.search(f"that film about {phrase}", 3, encoder=encoder, hidden=hidden)
    assert away.signs[SIGNS.index("told_cosine")] < told_with


def test_words_told_of_a_film_cover_a_wish_but_for_the_phrase_left_out(view, encoder):
    told = [phrase for phrase, item in view.told if TITLES[item] == "Jaws (1975)"]
    assert "a shark attacking swimmers" in told
    jaws = TITLES.index("Jaws (1975)")
    assert jaws in view.holding("shark")
    assert jaws not in view.holding("swimmer", "a shark attacking swimmers")
    met, left = (
        dict(zip(SIGNS, view.search("swimmers", 3, encoder=encoder, untold=untold).signs, strict=True))
        for untold in ("", "a shark attacking swimmers")
    )
    assert met["coverage"] == 1
    assert left["coverage"] < 1


def test_nothing_is_told_of_what_has_no_year(encoder):
    view = CatalogView.build(["Jaws", "Titanic shower gel"], ["Jaws", "Titanic shower gel"], encoder)
    assert len(view.told) == 0
    assert view.search("a shark attacking swimmers", 2, encoder=encoder).signs[SIGNS.index("told_cosine")] == 0


def test_a_view_with_further_items_keeps_what_is_told(view, encoder):
    more = view.extended(["A red apple"], ["A red apple"], *encoder.encode(["a red apple", "apple"])[:, None])
    phrase, item = view.told[0]
    assert more.search(phrase, 1, encoder=encoder).items == (item,)


def test_embeddings_of_a_catalog_are_kept_for_the_next_time(tmp_path, view, encoder):
    texts = list(view.texts)
    first = CatalogView.build(TITLES, texts, encoder, tmp_path)
    (kept,) = (tmp_path / encoder.identity).iterdir()
    written = kept.stat().st_mtime_ns
    again = CatalogView.build(TITLES, texts, encoder, tmp_path)
    assert (again.text_NE == first.text_NE).all()
    assert (again.title_NE == first.title_NE).all()
    assert kept.stat().st_mtime_ns == written
    CatalogView.build(TITLES, [*texts[:-1], "another"], encoder, tmp_path)
    assert len(list((tmp_path / encoder.identity).iterdir())) == 2


@pytest.mark.parametrize(
    ("text", "shown", "action"),
    [
        ("Casablanca", (), "retrieve"),
        ("find me a western", (), "retrieve"),
        ("draw a red apple in watercolor style", (), "create"),
        ("paint me a dragon playing chess on the moon", (0, 1, 2), "create"),
        ("make the second one look like a pencil sketch", (0, 3, 5), "edit"),
        ("remove the text from the Jaws poster", (3, 10), "edit"),
        ("something nice", (), "clarify"),
        ("hello there", (), "clarify"),
    ],
)
def test_plain_instructions_are_decided(text, shown, action, instructor, view):
    decision = instructor.decide(Instruction(text, shown=shown), view)
    assert decision.action == action, decision
    assert sum(decision.probabilities.values()) == pytest.approx(1, abs=1e-6)
    assert (decision.question is not None) == (action == "clarify")
    assert len(decision.trace) >= 2
    assert set(decision.matches) <= set(range(len(TITLES)))


def test_slots_are_filled_and_turns_resolved(instructor, view):
    decision = instructor.decide(Instruction("make the second one look like a watercolor", shown=(0, 3, 5)), view)
    assert (decision.slots.source_item, decision.slots.operation, decision.slots.style) == (3, "restyle", "watercolor")
    turns = ("make the first one look like a watercolor",)
    moved = instructor.decide(Instruction("no, the second one", turns=turns, shown=(0, 3, 5)), view)
    assert (moved.action, moved.slots.source_item, moved.slots.style) == ("edit", 3, "watercolor")
    again = instructor.decide(Instruction("the same but as a watercolor", turns=("draw a lighthouse",)), view)
    assert (again.action, again.slots.style) == ("create", "watercolor")
    assert "lighthouse" in str(again.slots.target)


def test_a_change_carries_only_what_it_leaves_open(instructor, view):
    turns = ("make the first one look like a comic",)
    own = instructor.decide(Instruction("now add a ghost", turns=turns, shown=(0, 3, 5)), view).slots
    assert (own.source_item, own.operation, own.style) == (0, "add", None)
    titled = instructor.decide(Instruction("make the Fargo poster brighter", shown=(9, 3, 5)), view).slots
    assert (titled.source_item, titled.target) == (9, None)


def test_a_work_that_is_not_here_is_wanted_by_its_whole_name(instructor, view):
    decision = instructor.decide(Instruction("looking for finding nemo, my toddler insists"), view)
    assert (decision.action, decision.slots.target) == ("create", "finding nemo")


@pytest.mark.parametrize(
    ("action", "left"), [("retrieve", {}), ("create", {"style", "medium"}), ("edit", {"operation", "style", "medium"})]
)
def test_slots_fit_the_action(action, left):
    slots = Slots(target="fox", operation="restyle", style="ink", medium="image")
    assert {name for name, value in fitting(slots, action).model_dump().items() if value} == {"target", *left}


def test_an_edit_of_nobody_knows_what_is_asked_back(instructor, view):
    decision = instructor.decide(Instruction("make it look like a watercolor", shown=(0, 3, 5)), view)
    assert decision.action == "clarify"
    assert "Toy Story" in str(decision.question)


def test_a_picture_alone_means_more_like_this_and_rejections_move_on(instructor, view):
    picture = Image.new("RGB", (8, 8))
    alone = instructor.decide(Instruction("", picture), view)
    assert alone.action == "retrieve"
    assert alone.slots == Slots()
    worded = instructor.decide(Instruction("do you have something like this?", picture), view)
    assert (worded.action, worded.sufficiency) == ("retrieve", SATISFIES_BY_PICTURE)
    assert instructor.decide(Instruction("", picture, rejected=6), view).action in ("create", "edit")
    assert instructor.decide(Instruction("", shown=(1, 2), rejected=6), view).action in ("create", "edit")
    assert instructor.decide(Instruction("  "), view).action == "clarify"


def test_rejections_turn_a_wish_towards_making(instructor, view):
    made = [
        instructor.decide(Instruction("a western", shown=(6, 7), rejected=count), view).probabilities
        for count in (0, 3, 9)
    ]
    assert made[0]["retrieve"] > made[1]["retrieve"] > made[2]["retrieve"]
    assert made[0]["create"] < made[1]["create"] < made[2]["create"]


def test_what_cannot_be_read_is_refused(instructor, view):
    with pytest.raises(InstructionError, match="2,001 characters"):
        instructor.decide(Instruction("x" * 2001), view)
    with pytest.raises(InstructionError, match=r"turns\[0\]"):
        instructor.decide(Instruction("x", turns=("y" * 5000,)), view)
    with pytest.raises(InstructionError, match="item 99"):
        instructor.decide(Instruction("x", shown=(99,)), view)


@given(st.text(max_size=200))
def test_no_text_breaks_references_and_years(text):
    years(text)
    content_words(text)


@pytest.mark.parametrize("text", ["\u202e\u0000", "💥" * 300, "a" * 2000, "<script>", "{}|\\", "пожалуйста кот", "。"])
def test_odd_texts_are_decided(text, instructor, view):
    assert instructor.decide(Instruction(text), view).action in ACTIONS


def test_heads_that_are_not_there_or_altered_are_refused(tmp_path, instructor):
    with pytest.raises(ArtifactError, match="content train instructor"):
        load_instructor(InstructorSettings(weights=str(tmp_path)))
    instructor.heads.save(tmp_path)  # type: ignore[attr-defined]
    config = json.loads((tmp_path / "config.json").read_text())
    config["heads"]["signs"] = ["other"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ArtifactError, match="signs"):
        Heads.load(tmp_path)


@contextmanager
def answering(status: int, body: bytes, seen: list[tuple[dict[str, str], dict[str, object]]]) -> Iterator[str]:
    """A real HTTP server with one answer."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            length = int(self.headers["Content-Length"])
            seen.append((dict(self.headers), json.loads(self.rfile.read(length))))
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def reply(**changes: object) -> bytes:
    values = {"seek": 0.0, "change": 0.96, "make": 0.02, "vague": 0.02, "target": None, "source_place": 2,
              "operation": "crop", "style": None, "medium": None, "constraints": ["square"],
              "negatives": []}  # fmt: skip
    content = json.dumps({**values, **changes})
    return json.dumps({"choices": [{"message": {"content": content}}]}).encode()


def at(address: str, encoder: MiniLMEncoder, **more: object) -> Instructor:
    return load_instructor(InstructorSettings(endpoint=address, endpoint_timeout_s=5, **more), encoder=encoder)


def test_an_endpoint_reads_and_its_slots_are_checked_against_the_list(encoder, view, monkeypatch):
    monkeypatch.setenv("INSTRUCTOR_KEY", "secret-key")
    seen: list[tuple[dict[str, str], dict[str, object]]] = []
    with answering(200, reply(), seen) as address:
        instructor = at(address, encoder, endpoint_key_env="INSTRUCTOR_KEY", endpoint_model="small")
        decision = instructor.decide(Instruction("hello there", shown=(0, 3, 5)), view)
    assert (decision.action, decision.slots.source_item, decision.slots.operation) == ("edit", 3, "crop")
    headers, body = seen[0]
    assert headers["Authorization"] == "Bearer secret-key"
    assert body["model"] == "small"
    assert body["response_format"]["json_schema"]["schema"]["required"]  # type: ignore[index]
    assert "secret-key" not in "".join(decision.trace)


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (500, b"broken"),
        (200, b"not json"),
        (200, b"[]"),
        (200, b'{"choices": []}'),
        (200, reply(seek=7)),
        (200, reply(operation="format the disk")),
        (200, reply(change=0.0, make=0.0, vague=0.0)),
        (200, b"[" * 200_000),
    ],
)
def test_an_endpoint_that_fails_leaves_the_decision_to_the_embedded_instructor(status, body, encoder, view, instructor):
    wish = Instruction("Casablanca")
    with answering(status, body, []) as address:
        decision = at(address, encoder).decide(wish, view)
    own = instructor.decide(wish, view)
    assert decision.model_copy(update={"trace": ()}) == own.model_copy(update={"trace": ()})
    assert "embedded instructor decided" in decision.trace[0]


def test_an_endpoint_that_is_not_there_leaves_it_too(encoder, view):
    assert at("http://127.0.0.1:9/v1", encoder).decide(Instruction("Casablanca"), view).action == "retrieve"


def test_endpoint_settings_are_checked(encoder, monkeypatch):
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    with pytest.raises(SettingsError, match="NO_SUCH_KEY"):
        at("http://127.0.0.1:9/v1", encoder, endpoint_key_env="NO_SUCH_KEY")
    with pytest.raises(ValueError, match="endpoint_key_env"):
        InstructorSettings(endpoint="https://user:password@host/v1")
