"""Bias: words that demean a group, and checks that would treat one group's words unlike another's.

Two questions of each draft. Do its words tie a group of people to something bad (``rules_bias.yaml``)? And
counterfactually: with the group's word exchanged for another's, do the other checks say the same (Garg et al. 2019)? A
third question is asked of the log, over many drafts: exposure share and pass rate of each group (:func:`group_rates`).
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from genrec.content.contracts import FidelityReport, Verdict
from genrec.content.fidelity.context import Check, Subject
from genrec.content.fidelity.hazards import HazardModel
from genrec.content.fidelity.safety import load_rules
from genrec.content.fidelity.text import readings

RULES = "rules_bias.yaml"
SWAPS: tuple[tuple[str, ...], ...] = (
    ("man", "woman", "nonbinary person"),
    ("men", "women", "nonbinary people"),
    ("boy", "girl"),
    ("boys", "girls"),
    ("he", "she"),
    ("husband", "wife"),
    ("father", "mother"),
    ("king", "queen"),
    ("white", "black", "asian"),
    ("christian", "muslim", "jewish", "hindu", "atheist"),
    ("american", "mexican", "nigerian", "chinese", "german", "indian"),
    ("straight", "gay"),
    ("young", "old"),
)
"""Words that may stand for one another without changing what a check says."""
TOLERANCE = 0.35
"""How far the scores of two counterfactuals may lie apart."""
PEOPLE = re.compile(r"\b(?:person|people|man|men|woman|women|boy|girl|family|couple|doctor|nurse|worker|child|kid)s?\b")


def counterfactuals(text: str, most: int = 4) -> list[str]:
    """The text with one group's word exchanged for each other word of its row; none if it names no group."""
    found = []
    for row in SWAPS:
        for word in row:
            pattern = re.compile(rf"\b{re.escape(word)}\b", re.IGNORECASE)
            if not pattern.search(text):
                continue
            if word in ("white", "black", "straight", "old", "young") and not PEOPLE.search(text.lower()):
                continue  # a colour, a line, or an age of things
            found += [pattern.sub(other, text) for other in row if other != word]
    return found[:most]


@dataclass(eq=False)
class Bias:
    """The check.

    Attributes:
        others: checks of words whose verdicts are compared between counterfactuals.
        hazards: tells how likely words demean a group; None: the rules alone do.
        threshold: probability from which words are refused.
    """

    others: Sequence[Check]
    hazards: HazardModel | None = None
    threshold: float = 0.5
    name: str = "bias"

    @cached_property
    def rules(self) -> dict[str, list[re.Pattern[str]]]:
        """Patterns by kind of slight."""
        return load_rules(RULES)

    def __call__(self, subject: Subject) -> Verdict:
        """Rules first, then counterfactuals of the prompt."""
        for text in readings(subject.words):
            for kind, rules in self.rules.items():
                if any(rule.search(text) for rule in rules):
                    return Verdict(check=self.name, passed=False, score=1.0, evidence=f"words that demean: {kind}")
        if self.hazards is not None:
            _, probability = self.hazards.worst(subject.words, demeaning=True)
            if probability >= self.threshold:
                evidence = f"the words seem to demean a group (probability {probability:.2f})"
                return Verdict(check=self.name, passed=False, score=probability, evidence=evidence)
        variants = counterfactuals(subject.prompt)
        apart = 0.0
        for check in self.others if variants else ():
            asked = check(Subject(subject.prompt))
            for variant in variants:
                other = check(Subject(variant))
                gap = abs(asked.score - other.score)
                apart = max(apart, gap if check.name == "safety" else 0.0)
                if asked.passed and not other.passed:
                    evidence = f"the {check.name} check would refuse the same words about another group"
                    return Verdict(check=self.name, passed=False, score=1.0, evidence=evidence)
        return Verdict(
            check=self.name,
            passed=apart <= TOLERANCE,
            score=apart,
            evidence=f"{len(variants)} counterfactuals, scores at most {apart:.2f} apart",
        )


@dataclass(frozen=True)
class GroupRate:
    """One group's row.

    Attributes:
        group: as the context named it.
        drafts: reviewed.
        passed: share of them that passed.
        shown: share of all that passed (exposure).
    """

    group: str
    drafts: int
    passed: float
    shown: float


def group_rates(entries: Iterable[tuple[str, FidelityReport, Mapping[str, str]]]) -> list[GroupRate]:
    """Pass rate and exposure share of each audience group, from a log's entries; groups by name."""
    counts: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for _, report, facts in entries:
        group = facts.get("group")
        if group:
            counts[group][0] += 1
            counts[group][1] += report.passed
    shown = max(1, sum(passed for _, passed in counts.values()))
    return [GroupRate(name, n, passed / n, passed / shown) for name, (n, passed) in sorted(counts.items())]
