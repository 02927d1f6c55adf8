"""How well the instructor decides, on instructions written by hand and split by paraphrase family.

Macro-F1 over the four actions, the expected calibration error of the action taken, slots F1, the confusion matrix,
and two rates: over-generation (something is edited or made though the catalog satisfies) and under-generation (the
catalog is searched though something was to be made or changed). Beside it two rules: always retrieve, and BM25 with a
threshold chosen on the set ``dev``. Intervals are 95% bootstrap intervals over families, so that ten wordings of one
idea count as one.

Slots: a text slot scores the overlap of its words with the expected ones (F1 of the two bags, articles left out);
style, medium, operation and item score 1 when equal (styles: when they share a word). "exact" asks for equal texts.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import bm25s
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from genrec.content.contracts import ACTIONS, Action, Decision, Instruction
from genrec.content.instructor.catalog_view import CatalogView
from genrec.content.instructor.instructor import Instructor
from genrec.content.instructor.words import words

BINS = 10
SAMPLES = 1_000
SINGLE = ("target", "style", "medium", "operation", "source_item")
SEVERAL = ("constraints", "negatives")
_ARTICLES = frozenset(("a", "an", "the", "some", "my", "our"))
Metrics = dict[str, float]


@dataclass(frozen=True)
class Case:
    """One instruction of the evaluation set with what is expected."""

    instruction: Instruction
    action: Action
    slots: Mapping[str, Any]
    satisfiable: bool | None
    family: str


def load_cases(split: str, view: CatalogView) -> list[Case]:
    """The cases of ``test``, ``fifth``, ``calibration`` or a set that trains (evaluation/*.jsonl)."""
    lines = files(__package__).joinpath("evaluation", f"{split}.jsonl").read_text(encoding="utf-8").splitlines()
    return [_case(json.loads(line), view.item_by_title) for line in lines]


def _case(row: Mapping[str, Any], index: Mapping[str, int]) -> Case:
    slots = dict(row["slots"])
    if "source_item" in slots:
        slots["source_item"] = index[slots["source_item"]]
    picture = Image.new("RGB", (64, 64), (200, 120, 40)) if row.get("picture") else None
    shown = tuple(index[title] for title in row.get("shown", ()))
    instruction = Instruction(
        row["text"], picture, tuple(row.get("turns", ())), shown=shown, rejected=row.get("rejected", 0)
    )
    return Case(instruction, row["action"], slots, row["satisfiable"], row["family"])


def decide_all(instructor: Instructor, view: CatalogView, cases: Sequence[Case]) -> tuple[list[Decision], list[float]]:
    """Decisions, and how many milliseconds each took."""
    decisions, took = [], []
    for case in cases:
        began = time.perf_counter()
        decisions.append(instructor.decide(case.instruction, view))
        took.append((time.perf_counter() - began) * 1e3)
    return decisions, took


def measure(cases: Sequence[Case], decisions: Sequence[Decision]) -> dict[str, tuple[float, float, float]]:
    """Each metric with its interval: value, low, high."""
    actions = [decision.action for decision in decisions]
    confidence = np.array([decision.probabilities[decision.action] for decision in decisions])
    counts = np.array([slot_counts(case, decision) for case, decision in zip(cases, decisions, strict=True)])
    exact = np.array([slot_counts(case, decision, exact=True) for case, decision in zip(cases, decisions, strict=True)])
    satisfied = np.array([decision.sufficiency >= 0.5 for decision in decisions])

    def metrics(rows: NDArray[np.int64]) -> Metrics:
        found = action_metrics([cases[row].action for row in rows], [actions[row] for row in rows])
        right = np.array([cases[row].action == actions[row] for row in rows])
        found["ece"] = calibration_error(confidence[rows], right)
        found["slots_f1"] = _f1(counts[rows])
        found["slots_f1_exact"] = _f1(exact[rows])
        told = [row for row in rows if cases[row].satisfiable is not None and cases[row].instruction.text]
        found["sufficiency_accuracy"] = float(np.mean([satisfied[row] == cases[row].satisfiable for row in told]))
        return found

    return with_intervals(metrics, [case.family for case in cases])


def action_metrics(expected: Sequence[Action], given: Sequence[Action]) -> Metrics:
    """Accuracy, F1 per action and macro, over- and under-generation."""
    pairs = Counter(zip(expected, given, strict=True))
    found: Metrics = {}
    for action in ACTIONS:
        right = pairs[action, action]
        of_given = sum(count for (_, act), count in pairs.items() if act == action)
        of_expected = sum(count for (act, _), count in pairs.items() if act == action)
        found[f"f1_{action}"] = 2 * right / max(of_given + of_expected, 1)
    found["macro_f1"] = float(np.mean([found[f"f1_{action}"] for action in ACTIONS]))
    found["accuracy"] = sum(pairs[action, action] for action in ACTIONS) / max(len(expected), 1)
    made, kept = ("edit", "create"), ("retrieve",)
    found["over_generation"] = _rate(pairs, kept, made)
    found["under_generation"] = _rate(pairs, made, kept)
    return found


def _rate(pairs: Counter[tuple[Action, Action]], of: tuple[str, ...], to: tuple[str, ...]) -> float:
    total = sum(count for (expected, _), count in pairs.items() if expected in of)
    return sum(count for (expected, given), count in pairs.items() if expected in of and given in to) / max(total, 1)


def calibration_error(confidence: NDArray[np.float64], right: NDArray[np.bool_]) -> float:
    """Expected calibration error in ten bins of equal width (Guo et al. 2017, equation 3)."""
    bins = np.minimum((confidence * BINS).astype(int), BINS - 1)
    total = 0.0
    for place in range(BINS):
        inside = bins == place
        if inside.any():
            total += inside.mean() * abs(confidence[inside].mean() - right[inside].mean())
    return float(total)


def slot_counts(case: Case, decision: Decision, *, exact: bool = False) -> tuple[float, float, float]:
    """Credit, slots given, slots expected, of one case."""
    given = decision.slots.model_dump()
    credit = found = wanted = 0.0
    for name in SINGLE:
        expected = case.slots.get(name)
        found += given[name] is not None
        wanted += expected is not None
        if expected is not None and given[name] is not None:
            credit += _agreement(name, expected, given[name], exact)
    for name in SEVERAL:
        expected_all, left = case.slots.get(name, ()), list(given[name])
        found += len(left)
        wanted += len(expected_all)
        for expected in expected_all:
            scores = [_agreement(name, expected, value, exact) for value in left]
            if scores and max(scores) > 0:
                credit += max(scores)
                left.pop(int(np.argmax(scores)))
    return credit, found, wanted


def _agreement(name: str, expected: Any, given: Any, exact: bool) -> float:
    if name in ("medium", "operation", "source_item"):
        return float(expected == given)
    bags = [Counter(word for word in words(str(text)) if word not in _ARTICLES) for text in (expected, given)]
    if exact:
        return float(bags[0] == bags[1])
    shared = (bags[0] & bags[1]).total()
    if name == "style":
        return float(shared > 0)
    return 2 * shared / max(bags[0].total() + bags[1].total(), 1)


def _f1(counts: NDArray[np.float64]) -> float:
    credit, found, wanted = counts.sum(0)
    return float(2 * credit / max(found + wanted, 1e-9))


def with_intervals(
    metrics: Callable[[NDArray[np.int64]], Metrics], families: Sequence[str], seed: int = 0
) -> dict[str, tuple[float, float, float]]:
    """Values on all cases with 95% percentile intervals over resampled families."""
    members: dict[str, list[int]] = {}
    for row, family in enumerate(families):
        members.setdefault(family, []).append(row)
    names = sorted(members)
    draw = np.random.default_rng(seed)
    samples = [
        metrics(np.concatenate([members[names[place]] for place in draw.integers(len(names), size=len(names))]))
        for _ in range(SAMPLES)
    ]
    values = metrics(np.arange(len(families)))
    found = {}
    for name, value in values.items():
        low, high = np.quantile([sample[name] for sample in samples], (0.025, 0.975))
        found[name] = (value, float(low), float(high))
    return found


def bm25_threshold(view: CatalogView, dev: Sequence[Case], cases: Sequence[Case]) -> tuple[list[Action], float]:
    """The rule: retrieve where BM25 of the best item is at least a threshold (the best on dev), else create."""
    index = bm25s.BM25(method="robertson")
    index.index([words(text) for text in view.texts], show_progress=False)

    def best(case: Case) -> float:
        said = [word for word in words(case.instruction.text) if word in index.vocab_dict]
        return float(index.get_scores(said).max()) if said else 0.0

    def rule(scores: Sequence[float], threshold: float) -> list[Action]:
        return ["retrieve" if score >= threshold else "create" for score in scores]

    on_dev = [best(case) for case in dev]
    expected = [case.action for case in dev]
    threshold = max(sorted(set(on_dev)), key=lambda value: action_metrics(expected, rule(on_dev, value))["macro_f1"])
    return rule([best(case) for case in cases], threshold), threshold


def confusion(cases: Sequence[Case], decisions: Sequence[Decision]) -> NDArray[np.int64]:
    """int64 [4, 4]: rows expected, columns given, in the order of ACTIONS."""
    counts = np.zeros((len(ACTIONS), len(ACTIONS)), np.int64)
    for case, decision in zip(cases, decisions, strict=True):
        counts[ACTIONS.index(case.action), ACTIONS.index(decision.action)] += 1
    return counts
