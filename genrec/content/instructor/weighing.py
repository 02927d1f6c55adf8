"""From what is likely to what is done: composition of probabilities, feedback, and the cost of a wrong action.

The instruction's intent and the catalog's sufficiency together give the action: a wish that the catalog satisfies is
retrieved, one that it does not satisfy is made. With intents ``p`` and sufficiency ``s``

    retrieve = p(seek) s      create = p(make) + p(seek) (1 - s)      edit = p(change)      clarify = p(vague)

Before that the catalog has its say on the intent (:func:`informed`): words that it satisfies were sought rather than
given as something to be made. Items rejected in a row are evidence against ``s``; what that moves goes to create, and
partly to edit where there is something to edit. The action taken is the one of least expected cost: its cost times the
probability that it is wrong.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from genrec.config import InstructorSettings
from genrec.content.contracts import ACTIONS, Action

MOST_EVIDENCE = 3.0
"""Log-odds of sufficiency beyond which the catalog tells no more of what was meant."""
EDIT_SHARE = 0.25
"""Of what rejections move, the share that goes to edit where items are shown."""


def sigmoid(logit: float) -> float:
    """Probability of a logit."""
    return 1.0 / (1.0 + math.exp(-logit)) if logit > -700 else 0.0


def logit(probability: float) -> float:
    """Its inverse, clipped away from certainty."""
    clipped = min(max(probability, 1e-6), 1 - 1e-6)
    return math.log(clipped / (1 - clipped))


def informed(intents: Mapping[str, float], sufficiency: float, evidence: float) -> dict[str, float]:
    """Intents after a look into the catalog.

    Args:
        intents: of seek, change, make, vague.
        sufficiency: that the catalog satisfies the wish.
        evidence: what each unit of its log-odds adds to the log-odds of seeking against making. What is not there
            may be sought all the same, so only odds above even count.
    """
    both = intents["seek"] + intents["make"]
    gained = math.exp(evidence * min(max(logit(sufficiency), 0.0), MOST_EVIDENCE))
    weighed = intents["seek"] * gained + intents["make"]
    seek = both * intents["seek"] * gained / weighed if weighed else 0.0
    return {**intents, "seek": seek, "make": both - seek}


def compose(
    intents: Mapping[str, float],
    sufficiency: float,
    *,
    rejected: int,
    can_edit: bool,
    rejection_weight: float,
) -> dict[Action, float]:
    """Probability of each action.

    Args:
        intents: of seek, change, make, vague.
        sufficiency: that the catalog satisfies the wish.
        rejected: items skipped or disliked in a row.
        can_edit: something is shown that could be edited.
        rejection_weight: log-odds that each rejection takes from sufficiency.
    """
    seek, vague = intents["seek"], intents["vague"]
    doubted = sigmoid(logit(sufficiency) - rejection_weight * rejected)
    moved = seek * (sufficiency - doubted)
    # Who rejects again and again and says nothing more has said something: offer what is not in the catalog.
    told = vague * (1 - math.exp(-rejection_weight * max(rejected - 1, 0) / 2))
    to_edit = EDIT_SHARE * (moved + told) if can_edit else 0.0
    return {
        "retrieve": seek * doubted,
        "edit": intents["change"] + to_edit,
        "create": intents["make"] + seek * (1 - doubted) + told - to_edit,
        "clarify": vague - told,
    }


def choose(probabilities: Mapping[Action, float], settings: InstructorSettings) -> tuple[Action, dict[Action, float]]:
    """The action of least expected cost, and the expected cost of each; clarify where none is likely enough."""
    costs: dict[Action, float] = {
        "retrieve": settings.cost_retrieve,
        "edit": settings.cost_edit,
        "create": settings.cost_create,
        "clarify": settings.cost_clarify,
    }
    expected = {action: costs[action] * (1 - probabilities[action]) for action in ACTIONS}
    if max(probabilities.values()) < settings.clarify_below:
        return "clarify", expected
    return min(ACTIONS, key=lambda action: (expected[action], -probabilities[action])), expected
