"""Training instructions: a grammar (grammar.yaml) crossed with the titles of real catalogs.

A template's choices are drawn at random, its slots keep their place in the text, and the whole is roughened as people
type: lower case, slips of the keys, politeness, a sentence about the birthday it is for. The situation (list shown,
picture, earlier turns) is drawn too, and the intent follows from both: "make it blue" is a change where "it" can be
told and vague where it cannot.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.resources import files

import yaml

from genrec.content.contracts import Instruction
from genrec.content.instructor.catalog_view import CatalogView
from genrec.content.instructor.lists import written_lists
from genrec.content.instructor.references import Reference
from genrec.content.instructor.spoken import Piece, Spoken
from genrec.content.instructor.understanding import references
from genrec.content.instructor.wishes import CARRIED, WishMaker

SLOTS = {"T": "target", "S": "style", "M": "medium", "C": "constraint", "N": "negative"}
SHARES = {"seek": 0.30, "make": 0.23, "change": 0.25, "vague": 0.10, "dialogue": 0.12}
"""What the training instructions are made of, beside those that were spoken."""
SPOKEN_SHARE = 0.12
"""Of the training instructions, the share drawn from sets that people wrote with what they expect."""
SWAPPED = 0.5
"""Of the slots of what was written by hand, the share that gets other words."""
HAND_SHARE = 0.75
"""Of the texts of a list, the share drawn from sentences.txt where that has some for it."""
REFINED_TWICE = 0.3
"""Of the dialogues in which something is refined, the share in which it was refined before."""
_LITERAL = re.compile(r"\[([TSMCN]):([^\]]*)\]")
_SWAPS = {
    "make": {"T": "subject", "C": "bound", "N": "unwanted", "S": "style"},
    "refine_make": {"T": "subject", "C": "bound_again", "N": "unwanted", "S": "style"},
    "seek": {"N": "disliked"},
    "restyle": {"S": "style"},
    "recolour": {"T": "part", "C": "colour"},
    "add": {"T": "addition"},
    "remove": {"N": "gone"},
    "replace": {"T": "swap_new", "N": "swap_old"},
    "adjust": {"C": "tweak"},
    "crop": {"C": "cropping"},
    "rewrite": {"C": "rewriting"},
}
"""What may stand in place of a slot's words in a sentence, by list and slot."""
_CHOICE = re.compile(r"\(([^()]*)\)")
_NAME = re.compile(r"<(?:([TSMCN]):)?([a-z_]+)>")
_CHANGES = ("restyle", "recolour", "add", "remove", "crop", "replace", "adjust", "rewrite", "animate")
_REFINE_OPERATION = {"S": "restyle", "N": "remove", "NT": "replace", "CT": "recolour", "C": "adjust", "T": "add"}
_COLOURED = "<C:colour>"
Span = tuple[int, int, str]


@dataclass(frozen=True)
class Said:
    """A text with the slots in it, its family and the template it comes from; ``tagged``: all its slots are told."""

    text: str
    spans: tuple[Span, ...]
    family: str
    template: str = ""
    tagged: bool = True


@dataclass(frozen=True)
class Example:
    """One training instruction.

    Attributes:
        said: the text.
        turns: before it.
        instruction: as the instructor gets it; a picture is only said to be there.
        picture: whether one is there.
        reference: what the text points at.
        earlier_item: what the turns pointed at last.
        intent: one of INTENTS.
        operation: of a change; None: no change is described.
        continues: whether the turns still hold; None: there are none.
        catalog: that it is about.
    """

    said: Said
    turns: tuple[Said, ...]
    instruction: Instruction
    picture: bool
    reference: Reference
    earlier_item: int | None
    intent: str
    operation: str | None
    continues: bool | None
    catalog: CatalogView


class Grammar:
    """Expands templates; deterministic for one random generator."""

    def __init__(self, rng: random.Random, makers: Mapping[str, Callable[[], str]] | None = None) -> None:
        text = files(__package__).joinpath("grammar.yaml").read_text(encoding="utf-8")
        self.lists: dict[str, list[str]] = {
            name: [str(value) for value in values] for name, values in yaml.safe_load(text).items()
        }
        self.sentences = written_lists("sentences.txt")
        self.rng = rng
        self.makers = dict(makers or {})
        self.instead: Callable[[str], str] = str

    def pieces(self, template: str) -> list[Piece]:
        """A template drawn out to pieces of text with the letter of their slot."""
        while "(" in template:
            template = _CHOICE.sub(lambda match: self.rng.choice(match[1].split("|")), template)
        drawn: list[Piece] = []
        position = 0
        for match in _NAME.finditer(template):
            drawn.append((template[position : match.start()], None))
            inner = self._named(match[2])
            if match[1]:
                before, said, after = _carried("".join(text for text, _ in inner))
                inner = [(before, None), (said, match[1]), (after, None)]
            drawn.extend(inner)
            position = match.end()
        drawn.append((template[position:], None))
        return drawn

    def _named(self, name: str) -> list[Piece]:
        if name in self.makers:
            return [(self.makers[name](), None)]
        return self.pieces(self.rng.choice(self.lists[name]))

    def say(self, name: str, *, rough: bool = True) -> Said:
        """A text of list ``name``."""
        by_hand = name in self.sentences and self.rng.random() < HAND_SHARE
        templates = self.sentences[name] if by_hand else self.lists[name]
        number = self.rng.randrange(len(templates))
        template = templates[number]
        drawn = self._sentence(name, template) if by_hand else self.pieces(template)
        if rough:
            drawn = self._roughened(drawn)
        text, spans = assemble(drawn)
        if rough:
            text = self._retyped(text)
        return Said(text, spans, f"{name}{'~' if by_hand else ':'}{number}", template)

    def _sentence(self, name: str, sentence: str) -> list[Piece]:
        """A sentence with its own words or others in its slots."""
        drawn: list[Piece] = []
        position = 0
        for match in _LITERAL.finditer(sentence):
            drawn.extend(self.pieces(sentence[position : match.start()]))
            drawn.extend(self._in_slot(name, match[1], match[2]))
            position = match.end()
        return [*drawn, *self.pieces(sentence[position:])]

    def _in_slot(self, name: str, letter: str, said: str) -> list[Piece]:
        """The words of a slot of a text like those of list ``name``, or others in their place."""
        swaps = _SWAPS.get(name) or _SWAPS.get(name.split("_")[-1], {})
        if self.rng.random() < SWAPPED:
            if letter in swaps:
                said = "".join(text for text, _ in self._named(swaps[letter]))
            elif name == "seek" and letter == "T":
                said = self.instead(said)
        before, said, after = _carried(said)
        return [(before, None), (said, letter), (after, None)]

    def say_again(self, name: str, pieces: Sequence[Piece], family: str, *, tagged: bool) -> Said:
        """A text that somebody wrote, like those of list ``name``, with its own or other words in its slots."""
        drawn: list[Piece] = []
        for text, letter in pieces:
            drawn.extend([(text, None)] if letter is None else self._in_slot(name, letter, text))
        text, spans = assemble(self._roughened(drawn))
        return Said(self._retyped(text), spans, family, tagged=tagged)

    def _roughened(self, drawn: list[Piece]) -> list[Piece]:
        rng = self.rng
        if rng.random() < 0.12:
            drawn = [*self._named("opening"), (rng.choice([" ", ", "]), None), *drawn]
        if rng.random() < 0.12:
            aside = self._named("aside")
            drawn = [*aside, (" ", None), *drawn] if rng.random() < 0.6 else [*drawn, (". ", None), *aside]
        elif rng.random() < 0.12:
            drawn = [*drawn, (rng.choice([" ", ", "]), None), *self._named("politely")]
        if rng.random() < 0.15:
            slips = [index for index, (text, _) in enumerate(drawn) if len(text.strip()) > 5]
            for index in rng.sample(slips, min(len(slips), rng.choice([1, 1, 2]))):
                drawn[index] = (slip(drawn[index][0], rng), drawn[index][1])
        return drawn

    def _retyped(self, text: str) -> str:
        """Letter case and the last sign; the length of what comes before stays."""
        chance = self.rng.random()
        if chance < 0.45:
            text = text.lower()
        elif chance < 0.75:
            text = text[:1].upper() + text[1:]
        elif chance < 0.78:
            text = text.upper()
        if self.rng.random() < 0.15 and text[-1:].isalnum():
            text += self.rng.choice([".", "!", "...", "?", "!!"])
        return text


def _carried(said: str) -> tuple[str, str, str]:
    """What stands before the slot, the slot, and what stands after it."""
    before, *rest = said.split(CARRIED)
    return (before, rest[0], "".join(rest[1:])) if rest else ("", before, "")


def assemble(drawn: Sequence[Piece]) -> tuple[str, tuple[Span, ...]]:
    """Pieces joined: single spaces, none before a comma, ``a`` before a vowel as ``an``."""
    text, spans = "", []
    for piece, letter in drawn:
        value = re.sub(r"\s+", " ", re.sub(r"\s+([,.;?!])", r"\1", piece))
        if letter:
            value = value.strip()
        if value[:1] in (",", ".", "?", "!", " ") or not text:
            text, value = text.rstrip(" "), value if text else value.lstrip()
        if text.endswith((" a ", "(a ")) or text.lower() == "a ":
            text = text[:-1] + ("n " if value[:1].lower() in tuple("aeiou") else " ")
        if letter and value:
            spans.append((len(text), len(text) + len(value), SLOTS[letter]))
        text += value
    kept = text.rstrip()
    return kept, tuple((begin, min(end, len(kept)), slot) for begin, end, slot in spans if begin < len(kept))


def slip(text: str, rng: random.Random) -> str:
    """One slip of the keys inside a word: two letters swapped, one lost, doubled or hit beside."""
    places = [match.start() + 1 for match in re.finditer(r"[A-Za-z]{4,}", text)]
    if not places:
        return text
    at = rng.choice(places) + rng.choice([0, 1])
    kind = rng.randrange(4)
    if kind == 0:
        return text[:at] + text[at + 1] + text[at] + text[at + 2 :]
    if kind == 1:
        return text[:at] + text[at + 1 :]
    if kind == 2:
        return text[:at] + text[at] + text[at:]
    return text[:at] + rng.choice("abcdefghijklmnopqrstuvwxyz") + text[at + 1 :]


class InstructionMaker:
    """Draws training instructions over one catalog.

    Args:
        view: titles and texts of the catalog.
        seed: the same seed draws the same instructions.
        spoken: what people wrote about this catalog, to draw from as well.
    """

    def __init__(self, view: CatalogView, seed: int, spoken: Sequence[Spoken] = ()) -> None:
        self.rng = random.Random(seed)
        self.view = view
        self.spoken = spoken
        self.wishes = WishMaker(view, self.rng)
        self._shown: tuple[int, ...] = ()
        self._reference = ""
        self.grammar = Grammar(
            self.rng, {"wish": self.wishes.words, "ref": lambda: self._reference, "subject_wish": self.wishes.words}
        )
        self.grammar.instead = self.wishes.like

    def draw(self, count: int) -> list[Example]:
        """``count`` instructions of all kinds."""
        shares = {**SHARES, "spoken": SPOKEN_SHARE / (1 - SPOKEN_SHARE) if self.spoken else 0.0}
        kinds = self.rng.choices(list(shares), list(shares.values()), k=count)
        return [getattr(self, f"_{kind}")() for kind in kinds]

    def _list(self, least: int = 2) -> tuple[int, ...]:
        return tuple(self.rng.sample(range(len(self.view)), self.rng.randint(least, 8)))

    def _any_list(self) -> tuple[int, ...]:
        return self._list(1) if self.rng.random() < 0.5 else ()

    def _example(
        self,
        said: Said,
        intent: str,
        *,
        shown: tuple[int, ...] = (),
        picture: bool = False,
        turns: tuple[Said, ...] = (),
        operation: str | None = None,
        continues: bool | None = None,
    ) -> Example:
        instruction = Instruction(said.text, None, tuple(turn.text for turn in turns), (), shown)
        reference, earlier = references(instruction, self.view)
        told = reference.item is not None or picture or (continues and earlier is not None)
        if intent == "change" and not told and not (len(shown) == 1 and reference.kind in ("none", "this")):
            intent = "vague"
        return Example(said, turns, instruction, picture, reference, earlier, intent, operation, continues, self.view)

    def _seek(self) -> Example:
        if self.rng.random() < 0.06:
            return self._example(self.grammar.say("seek_by_picture"), "seek", picture=True)
        if self.rng.random() < 0.06:
            shown = self._list(3)
            self._point(shown, this=False)
            return self._example(self.grammar.say("seek_like"), "seek", shown=shown)
        return self._example(self.grammar.say("seek"), "seek", shown=self._any_list())

    def _make(self) -> Example:
        return self._example(self.grammar.say("make"), "make", shown=self._any_list())

    def _point(self, shown: tuple[int, ...], *, this: bool) -> None:
        """Draw how the next text points at an item."""
        rng, lists = self.rng, self.grammar.lists
        if this or not shown:
            self._reference = rng.choice(lists["this_ref"])
        elif rng.random() < 0.25:
            title = self.wishes.title(rng.choice(shown))
            self._reference = rng.choice(["the {} poster", "the {} one", "the cover of {}", "{}", "the {} picture"])
            self._reference = self._reference.format(title)
        else:
            self._reference = assemble(self.grammar.pieces("<place_ref>"))[0]

    def _change(self) -> Example:
        chance = self.rng.random()
        picture = chance < 0.15
        shown = () if chance < 0.25 else self._list(1)
        if 0.25 <= chance < 0.45:
            shown = shown[:1]
        self._point(shown, this=len(shown) <= 1 or self.rng.random() < 0.12)
        if self.rng.random() < 0.07:
            return self._example(self.grammar.say("unclear_change"), "vague", shown=shown, picture=picture)
        operation = self.rng.choice((*_CHANGES, "restyle", "restyle", "add", "remove"))
        bare = (chance < 0.45 and self.rng.random() < 0.55) or chance > 0.94
        said = self.grammar.say(f"{'bare' if bare else 'change'}_{operation}")
        return self._example(said, "change", shown=shown, picture=picture, operation=operation)

    def _vague(self) -> Example:
        shown = self._any_list()
        if self.rng.random() < 0.15:
            self._point(shown, this=True)
            return self._example(self.grammar.say("unclear_change"), "vague", shown=shown)
        return self._example(self.grammar.say("vague"), "vague", shown=shown)

    def _dialogue(self) -> Example:
        kind = self.rng.choice(["make", "make", "seek", "seek", "edit", "edit", "point", "point", "switch", "switch"])
        if kind == "make":
            turns, said = self._turns("make"), self.grammar.say("refine_make")
            return self._example(said, "make", turns=turns, continues=True)
        if kind == "seek":
            turns, said = self._turns("seek"), self.grammar.say("refine_seek")
            return self._example(said, "seek", shown=self._list(3), turns=turns, continues=True)
        if kind == "switch":
            turns = self._turns(self.rng.choice(["seek", "make", "vague"]))
            after = self.rng.choice([self._seek, self._make, self._vague, self._change])()
            if after.intent != "change" and self.rng.random() < 0.4:
                after = replace(after, said=self._turned_away(after.said))
            return self._example(after.said, after.intent, shown=after.instruction.shown, picture=after.picture,
                                 turns=turns, operation=after.operation, continues=False)  # fmt: skip
        shown = self._list(4)
        self._point(shown, this=False)
        operation = self.rng.choice(_CHANGES)
        turns = (self.grammar.say(f"change_{operation}"),)
        if kind == "point":
            self._point(shown, this=False)
            said = self.grammar.say("point_again")
        else:
            if self.rng.random() < 0.4:
                turns, shown = (self.grammar.say("make"),), shown[:1]
            if self.rng.random() < REFINED_TWICE:
                turns = (*turns, self._refined_edit()[0])
            said, operation = self._refined_edit()
        return self._example(said, "change", shown=shown, turns=turns, operation=operation, continues=True)

    def _spoken(self) -> Example:
        drawn = self.rng.choice(self.spoken)
        given, slots = drawn.case.instruction, drawn.case.slots
        name = slots.get("operation", "vague") if drawn.intent == "change" else drawn.intent
        # Another title would not be what the list holds.
        keeps = drawn.intent == "seek" and "source_item" in slots
        said = self.grammar.say_again("" if keeps else name, drawn.pieces, drawn.family, tagged=drawn.tagged)
        turns = tuple(Said(turn, (), drawn.family, tagged=False) for turn in given.turns)
        instruction = replace(given, text=said.text, picture=None)
        reference, earlier = references(instruction, self.view)
        # Who changes something without a word of which item goes on with the one before.
        held = drawn.continues or (drawn.intent == "change" and earlier is not None and reference.item is None)
        return Example(
            said,
            turns,
            instruction,
            given.picture is not None,
            reference,
            earlier,
            drawn.intent,
            slots.get("operation"),
            held or None,
            self.view,
        )

    def _turns(self, name: str) -> tuple[Said, ...]:
        """What was said before: a text of list ``name``, at times refined once already."""
        first, refined = self.grammar.say(name), f"refine_{name}"
        if refined in self.grammar.lists and self.rng.random() < REFINED_TWICE:
            return first, self.grammar.say(refined)
        return (first,)

    def _turned_away(self, said: Said) -> Said:
        """The text after words that leave the turn before."""
        begin = self.rng.choice(self.grammar.lists["turning_away"]) + self.rng.choice([" ", " ", ". "])
        spans = tuple((left + len(begin), right + len(begin), slot) for left, right, slot in said.spans)
        return replace(said, text=begin + said.text, spans=spans)

    def _refined_edit(self) -> tuple[Said, str]:
        said = self.grammar.say("refine_edit")
        letters = "".join(sorted({slot for slot, _ in _LITERAL.findall(said.template)}))
        letters = letters or "".join(sorted({slot for slot, _ in _NAME.findall(said.template) if slot}))
        if _COLOURED in said.template:
            letters = "CT"
        return said, _REFINE_OPERATION[letters]
