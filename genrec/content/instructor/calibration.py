"""Calibration on instructions written by hand: how far the heads are to be believed, and how much a catalog satisfies.

Templates are easier than people, so probabilities that are honest on held-out templates are too bold on people's
words; and how often a wish is satisfied differs from the share drawn for training. Four numbers mend both: a
temperature of the intents, a scale and a shift of sufficiency, and how much sufficiency tells of the intent; those of
least negative log-likelihood of the right action. How often people ask for what is not there differs from catalog to
catalog and is not what these sets tell, so all but the temperature are fitted half-way between these sets' share of
unmet wishes and as many unmet as met ones (the geometric mean of both weights).

All are fitted on the splits ``calibration`` and ``fifth``, which train nothing and whose wordings no template and no
sentence was written after.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genrec.content.contracts import Action, Instruction
from genrec.content.instructor.catalog_view import CatalogView, Found
from genrec.content.instructor.evaluate import Case, load_cases
from genrec.content.instructor.heads import INTENTS, Heads
from genrec.content.instructor.instructor import EmbeddedInstructor, asks_by_picture, checked
from genrec.content.instructor.slots import fill_slots
from genrec.content.instructor.understanding import Understanding
from genrec.content.instructor.weighing import compose, informed, sigmoid
from genrec.encoders.minilm import MiniLMEncoder

SPLITS = ("calibration", "fifth")
LEAST = 1e-4


@dataclass(frozen=True)
class Reading:
    """One case, read without calibration.

    Attributes:
        instruction: of the case.
        action: expected.
        log_intents: logarithms of the intents' probabilities at temperature 1.
        sufficiency: the head's own logit.
        rejection_weight: of the default settings.
        satisfiable: whether the catalog satisfies the wish; None: not a wish.
    """

    instruction: Instruction
    action: Action
    log_intents: tuple[float, ...]
    sufficiency: float
    rejection_weight: float
    satisfiable: bool | None = None

    def loss(self, temperature: float, scale: float, shift: float, evidence: float = 0.0) -> float:
        """Negative log-likelihood of the expected action."""
        scaled = np.array(self.log_intents) / temperature
        shares = np.exp(scaled - scaled.max())
        shares /= shares.sum()
        sufficiency = sigmoid(self.sufficiency * scale + shift)
        found = compose(
            informed(dict(zip(INTENTS, shares.tolist(), strict=True)), sufficiency, evidence),
            sufficiency,
            rejected=self.instruction.rejected,
            can_edit=bool(self.instruction.shown) or self.instruction.picture is not None,
            rejection_weight=self.rejection_weight,
        )
        return -math.log(max(found[self.action], LEAST))


def calibrate(heads: Heads, view: CatalogView, encoder: MiniLMEncoder) -> dict[str, float]:
    """Set temperature, scale, shift and evidence of ``heads``; returns them."""
    every = [case for split in SPLITS for case in _read(heads, view, encoder, load_cases(split, view))]
    temperature, scale, shift = heads.config.temperature, heads.config.sufficiency_scale, heads.config.sufficiency_shift
    weights = _weights(every)
    evidence = 0.0
    for _ in range(3):
        temperature = min(np.geomspace(0.3, 3.0, 40), key=lambda value: _mean(every, value, scale, shift, evidence))
        scale, shift = min(
            ((a, b) for a in np.geomspace(0.2, 2.0, 16) for b in np.linspace(-1.0, 3.0, 33)),
            key=lambda pair: _mean(every, temperature, pair[0], pair[1], evidence, weights=weights),
        )
        evidence = min(
            np.linspace(0.0, 1.0, 11), key=lambda value: _mean(every, temperature, scale, shift, value, weights=weights)
        )
    fitted = {
        "temperature": temperature,
        "sufficiency_scale": scale,
        "sufficiency_shift": shift,
        "evidence": evidence,
    }
    rounded: dict[str, Any] = {name: round(float(value), 4) for name, value in fitted.items()}
    heads.config = replace(heads.config, **rounded)
    return rounded


def _mean(
    cases: Sequence[Reading],
    temperature: float,
    scale: float,
    shift: float,
    evidence: float,
    *,
    weights: NDArray[np.float64] | None = None,
) -> float:
    return float(np.average([case.loss(temperature, scale, shift, evidence) for case in cases], weights=weights))


def _weights(cases: Sequence[Reading]) -> NDArray[np.float64]:
    """A weight for each case: half-way from 1 to those with which met and unmet wishes sum to the same."""
    counts = Counter(case.satisfiable for case in cases)
    wishes = counts[True] + counts[False]
    balanced = [1.0 if case.satisfiable is None else wishes / 2 / counts[case.satisfiable] for case in cases]
    return np.sqrt(np.array(balanced, np.float64))


def _read(heads: Heads, view: CatalogView, encoder: MiniLMEncoder, cases: Sequence[Case]) -> list[Reading]:
    plain = replace(heads.config, temperature=1.0)
    kept, heads.config = heads.config, plain
    instructor = EmbeddedInstructor(heads.eval(), encoder=encoder)
    readings = []
    for case, understood, found in searched(instructor, view, cases):
        raw = instructor.sufficiency_logit(found)
        logs = tuple(math.log(max(understood.intents[name], 1e-9)) for name in INTENTS)
        weight = instructor.settings.rejection_weight
        readings.append(Reading(case.instruction, case.action, logs, raw, weight, case.satisfiable))
    heads.config = kept
    return readings


def searched(
    instructor: EmbeddedInstructor, view: CatalogView, cases: Sequence[Case]
) -> Iterator[tuple[Case, Understanding, Found]]:
    """Cases as they are understood, with what a search finds; not those without words or that go by a picture."""
    for case in cases:
        instruction = checked(case.instruction, view)
        if not instruction.text:
            continue
        understood = instructor.understand(instruction, view)
        slots = fill_slots(instruction, view, understood)
        if not asks_by_picture(instruction, slots):
            yield replace(case, instruction=instruction), understood, instructor.search(instruction, view, slots)
