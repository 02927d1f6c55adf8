"""The instructor: from what a user says or shows to what is to be done, with the reasons.

It reads the instruction (genrec.content.instructor.understanding), asks the catalog whether something there satisfies
it (genrec.content.instructor.catalog_view), weighs both (genrec.content.instructor.weighing), and asks back where it
cannot tell or where the action lacks what it needs.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from importlib.resources import files
from pathlib import Path
from typing import Protocol

import torch

from genrec.config import InstructorSettings
from genrec.content.contracts import Action, Decision, Instruction, Slots
from genrec.content.instructor.catalog_view import CatalogView, Found, plain_title
from genrec.content.instructor.heads import INTENTS, Heads
from genrec.content.instructor.questions import question_for
from genrec.content.instructor.reading import Reader
from genrec.content.instructor.slots import fill_slots
from genrec.content.instructor.trace import reasons
from genrec.content.instructor.understanding import Understanding, understand
from genrec.content.instructor.weighing import choose, compose, informed, logit, sigmoid
from genrec.encoders.minilm import MiniLMEncoder
from genrec.errors import GenrecError, SettingsError

MAX_CHARACTERS = 2_000
MATCHES = 10
SATISFIES_BY_PICTURE = 0.75
"""Sufficiency of a picture without a target: some item of a catalog is the nearest to any picture."""
NOT_HERE = 0.02


class InstructionError(GenrecError):
    """An instruction that no instructor can read: too long, or not about this catalog."""


class Instructor(Protocol):
    """Decides what an instruction asks for."""

    @property
    def encoder(self) -> MiniLMEncoder:
        """Embeds the catalog: ``CatalogView.of_catalog(catalog, instructor.encoder)``."""
        ...

    def decide(self, instruction: Instruction, catalog: CatalogView) -> Decision:
        """What is to be done.

        Raises:
            InstructionError: the text is longer than 2,000 characters, or an item shown is not of the catalog.
        """
        ...


class EmbeddedInstructor:
    """The instructor that runs here: MiniLM's features and the trained heads.

    Args:
        heads: trained (:mod:`genrec.content.instructor.train`).
        settings: section content.instructor.
        encoder: the MiniLM that the heads were trained on; None: the installed package's.

    Raises:
        SettingsError: the heads were trained on another MiniLM.
    """

    def __init__(
        self, heads: Heads, settings: InstructorSettings | None = None, encoder: MiniLMEncoder | None = None
    ) -> None:
        self.heads = heads
        self.settings = settings or InstructorSettings()
        self._encoder = encoder or MiniLMEncoder()
        if heads.config.encoder not in ("", self._encoder.identity):
            raise SettingsError(
                f"content.instructor.weights: trained on the text encoder {heads.config.encoder}, this one is "
                f"{self._encoder.identity}; train again: python -m genrec content train instructor"
            )

    @property
    def encoder(self) -> MiniLMEncoder:
        """Embeds texts and the catalog."""
        return self._encoder

    @cached_property
    def readers(self) -> tuple[Reader, ...]:
        """Read instructions with the encoder's model, each with its own trained adapters."""
        return tuple(Reader(self._encoder, each.adapters) for each in self.heads.read_by())

    def decide(self, instruction: Instruction, catalog: CatalogView) -> Decision:
        """See :meth:`Instructor.decide`."""
        instruction = checked(instruction, catalog)
        if not instruction.text:
            return self._decide_without_words(instruction)
        return self.weigh(instruction, catalog, self.understand(instruction, catalog))

    def understand(self, instruction: Instruction, catalog: CatalogView) -> Understanding:
        """Intent, spans and reference of an instruction with words."""
        return understand(instruction, catalog, self.readers, self.heads)

    def weigh(
        self, instruction: Instruction, catalog: CatalogView, understood: Understanding, slots: Slots | None = None
    ) -> Decision:
        """The decision on what was understood.

        Args:
            instruction: checked.
            catalog: asked for items that satisfy.
            understood: of this instruction.
            slots: found elsewhere; None: filled from ``understood``.
        """
        asked = slots or fill_slots(instruction, catalog, understood)
        found = self.search(instruction, catalog, asked)
        if asks_by_picture(instruction, asked):
            sufficiency = SATISFIES_BY_PICTURE
        else:
            sufficiency = self.sufficiency(found)
            if instruction.picture is not None and understood.intents["seek"] > 0.5:
                sufficiency = max(sufficiency, SATISFIES_BY_PICTURE)  # the words may tell where the picture was found
        probabilities = compose(
            informed(understood.intents, sufficiency, self.heads.config.evidence),
            sufficiency,
            rejected=instruction.rejected,
            can_edit=bool(instruction.shown) or instruction.picture is not None,
            rejection_weight=self.settings.rejection_weight,
        )
        action, expected = choose(probabilities, self.settings)
        asked = fitting(asked, action)
        question = None
        lacking = _lacking(action, asked, understood, instruction)
        if lacking:
            probabilities = probabilities | {"clarify": probabilities["clarify"] + probabilities[action], action: 0.0}
            action = "clarify"
        if action == "clarify":
            question = question_for(instruction, catalog, asked, understood, probabilities, lacking)
        return Decision(
            action=action,
            probabilities=probabilities,
            slots=asked,
            sufficiency=sufficiency,
            matches=found.items,
            question=question,
            trace=reasons(instruction, catalog, asked, understood, found, sufficiency, action, expected, lacking),
        )

    def search(self, instruction: Instruction, catalog: CatalogView, slots: Slots) -> Found:
        """The items that satisfy the wish best; without a target, those nearest to the whole text."""
        target = slots.target or instruction.text
        (embedding,) = self._encoder.encode([target])
        return catalog.search(
            target,
            MATCHES,
            constraints=slots.constraints,
            negatives=slots.negatives,
            embedding=embedding,
            said=instruction.text,
        )

    def sufficiency(self, found: Found) -> float:
        """Calibrated probability that what was found satisfies.

        Next to none where no item is of the years named, or a work is named that the catalog does not have.
        """
        if found.ruled_out:
            return NOT_HERE
        config = self.heads.config
        return sigmoid(self.sufficiency_logit(found) * config.sufficiency_scale + config.sufficiency_shift)

    def sufficiency_logit(self, found: Found) -> float:
        """What the head says of a search, before calibration."""
        with torch.inference_mode():
            wish = torch.from_numpy(found.embedding)[None]
            return float(self.heads.sufficiency(torch.from_numpy(found.signs)[None], wish)[0])

    def _decide_without_words(self, instruction: Instruction) -> Decision:
        """A bare picture means: more like this. Bare feedback means: not these. Nothing at all is asked back."""
        shows = instruction.picture is not None
        intents = dict.fromkeys(INTENTS, 0.0)
        if shows:
            intents |= {"seek": 0.9, "make": 0.05, "vague": 0.05}
        else:
            intents |= {"seek": 0.1, "vague": 0.9}
        rejected = instruction.rejected
        weight = self.settings.rejection_weight
        can_edit = shows or bool(instruction.shown)
        probabilities = compose(
            intents, SATISFIES_BY_PICTURE, rejected=rejected, can_edit=can_edit, rejection_weight=weight
        )
        action, _ = choose(probabilities, self.settings)
        said = "A picture without words means: more like this." if shows else "Neither words nor a picture came."
        trace = [said]
        if rejected:
            trace.append(f"The last {rejected} items were rejected, which speaks against the catalog.")
        trace.append(f"So: {action}.")
        return Decision(
            action=action,
            probabilities=probabilities,
            slots=Slots(),
            sufficiency=sigmoid(logit(SATISFIES_BY_PICTURE) - weight * rejected),
            question="What are you looking for, or what shall I make?" if action == "clarify" else None,
            trace=tuple(trace),
        )


def fitting(slots: Slots, action: Action) -> Slots:
    """The slots without those that say nothing of this action: what is retrieved is neither made nor changed."""
    if action == "retrieve":
        return slots.model_copy(update={"operation": None, "style": None, "medium": None})
    return slots.model_copy(update={"operation": None}) if action == "create" else slots


def asks_by_picture(instruction: Instruction, slots: Slots) -> bool:
    """Whether the words name nothing and the picture is all that a search could go by."""
    return instruction.picture is not None and slots.target is None


def checked(instruction: Instruction, catalog: CatalogView) -> Instruction:
    """The instruction with its white space trimmed.

    Raises:
        InstructionError: too long, or items that the catalog does not have.
    """
    for name, text in (("text", instruction.text), *((f"turns[{i}]", t) for i, t in enumerate(instruction.turns))):
        if len(text) > MAX_CHARACTERS:
            raise InstructionError(
                f"instruction.{name}: {len(text):,} characters; write at most {MAX_CHARACTERS:,} and name the "
                "essential first"
            )
    for item in instruction.shown:
        if not 0 <= item < len(catalog):
            raise InstructionError(f"instruction.shown: item {item} is not of this catalog of {len(catalog):,} items")
    if instruction.rejected < 0:
        raise InstructionError(f"instruction.rejected: {instruction.rejected}; it counts items, from 0")
    turns = tuple(turn.strip() for turn in instruction.turns if turn.strip())
    return replace(instruction, text=" ".join(instruction.text.split()), turns=turns)


def _lacking(action: Action, slots: Slots, understood: Understanding, instruction: Instruction) -> str | None:
    """What the action needs and nobody said: source, change or target."""
    if action == "edit" and slots.source_item is None and instruction.picture is None:
        return "source"
    if action == "create" and not slots.target and slots.source_item is None and understood.intents["make"] > 0.5:
        return "target" if instruction.picture is None else None
    return None


def load_instructor(settings: InstructorSettings | None = None, *, encoder: MiniLMEncoder | None = None) -> Instructor:
    """The instructor of the settings: the embedded one, behind an endpoint where one is set.

    Args:
        settings: section content.instructor; None: its defaults.
        encoder: a MiniLM that is loaded already, to share it.

    Raises:
        ArtifactError: no heads where content.instructor.weights says.
        SettingsError: the endpoint's key is not in the environment.
    """
    settings = settings or InstructorSettings()
    embedded = EmbeddedInstructor(Heads.load(weights_directory(settings)), settings, encoder)
    if settings.endpoint is None:
        return embedded
    from genrec.content.instructor.endpoint import EndpointInstructor

    return EndpointInstructor(embedded, settings)


def weights_directory(settings: InstructorSettings) -> Path:
    """Where the heads lie: content.instructor.weights, else those that are shipped."""
    if settings.weights is not None:
        return Path(settings.weights)
    return Path(str(files("genrec.content"))) / "weights" / "instructor"


__all__ = ["EmbeddedInstructor", "InstructionError", "Instructor", "load_instructor", "plain_title"]
