"""Several runs in one table: runs that differ in nothing but the seed are averaged, others stand side by side.

Which settings a model's row depends on is read from the manifests of its stages, so two rows are never
mixed that were made differently, and a row is called by the settings in which it differs from the others
of its model, for example ``tiger [kind=random]``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genrec.artifacts import ArtifactStore, Manifest, canonical_json, read_manifest, store_at
from genrec.bundle import AUGMENTED, MEMORY
from genrec.config import EvaluationSettings
from genrec.errors import ArtifactError
from genrec.stages.evaluation import BLEND, CONTENT_KNN, FRAMES, ITEM_KNN, LINEAR, METRICS, POPULARITY, SASREC, USER_KNN
from genrec.stages.runner import open_stage

if TYPE_CHECKING:
    from genrec.evaluation.frame import EvalFrame
    from genrec.evaluation.metrics import MetricRow

SEED = "run.seed"
STAGES_OF = {
    POPULARITY: ("prepare",),
    ITEM_KNN: ("prepare", "item-knn"),
    CONTENT_KNN: ("prepare", "content-knn"),
    LINEAR: ("prepare", "linear"),
    USER_KNN: ("prepare",),
    BLEND: ("prepare", "item-knn"),
    SASREC: ("prepare", "sasrec"),
}
HOST_STAGES = ("prepare", "tokenize", "pretrain")
AUGMENTED_STAGES = (*HOST_STAGES, "item-knn", "content-knn", "linear", "sasrec", "finetune")
USER_KNN_LEAVES = ("retrieval.", "data.max_history", "evaluation.seen_items")
OWN_LEAVES = {USER_KNN: USER_KNN_LEAVES, BLEND: USER_KNN_LEAVES}
"""Leaves of the evaluate stage that a model's lists depend on, where it is not the seen-item policy alone (hosts: and
the beam)."""


@dataclass(frozen=True)
class _Run:
    frame: EvalFrame
    dataset: str
    made_with: Mapping[str, Any]


def compare(
    directory: str | Path, names: Sequence[str], evaluation: EvaluationSettings, mirror: str | None = None
) -> list[MetricRow]:
    """Metric rows of all models of all runs.

    Args:
        directory: the runs' directory, or its URI.
        names: of the runs.
        evaluation: cutoffs, bootstrap samples and confidence.
        mirror: ``run.mirror``.

    Raises:
        ArtifactError: a run is absent or was not evaluated.
    """
    from genrec.evaluation.metrics import evaluate_frames

    groups: dict[bytes, dict[int | None, _Run]] = {}
    for name in names:
        for run in _runs(directory, name, mirror):
            identity = canonical_json([run.frame.model, run.dataset, dict(run.made_with)])
            groups.setdefault(identity, {}).setdefault(run.frame.seed, run)
    members = [list(group.values()) for group in groups.values()]
    labels = _labels([group[0] for group in members])
    rows: list[MetricRow] = []
    for label, group in zip(labels, members, strict=True):
        frames = [replace(run.frame, model=label) for run in group]
        rows += evaluate_frames(frames, group[0].dataset, evaluation)
    return rows


def _runs(directory: str | Path, name: str, mirror: str | None) -> list[_Run]:
    path = open_stage(directory, name, "evaluate", mirror)
    from genrec.evaluation.rank import load_frame  # brings torch; a misspelt name is told without it

    manifests = _chain(store_at(directory, mirror), read_manifest(path, verify_files=False))
    dataset = json.loads((path / METRICS).read_bytes())[0]["dataset"]
    return [
        _Run(frame, dataset, _made_with(frame.model, manifests))
        for frame in (load_frame(file) for file in sorted((path / FRAMES).glob("*.parquet")))
    ]


def _chain(store: ArtifactStore, manifest: Manifest) -> dict[str, Manifest]:
    """The manifest and those of all that it was made from, by stage."""
    chain = {manifest.stage: manifest}
    for stage, key in manifest.inputs.items():
        if not stage.startswith("file:"):
            if not store.has(stage, key):
                raise ArtifactError(
                    f"{store.where(store.path(stage, key))}: deleted, so runs cannot be told apart. Run {stage} again."
                )
            chain |= _chain(store, store.manifest(stage, key))
    return chain


def _made_with(model: str, manifests: Mapping[str, Manifest]) -> dict[str, Any]:
    """Leaf -> value of all that a model's lists depend on, but for the seed; raw files by their digests."""
    made: dict[str, Any] = {}
    for stage in STAGES_OF.get(model, AUGMENTED_STAGES if model.endswith((AUGMENTED, MEMORY)) else HOST_STAGES):
        made |= manifests[stage].settings
        made |= {
            f"{stage}.{name}": value for name, value in manifests[stage].inputs.items() if name.startswith("file:")
        }
    default = ("evaluation.seen_items",) if model in STAGES_OF else ("evaluation.seen_items", "evaluation.beams")
    own = OWN_LEAVES.get(model, default)
    made |= {leaf: value for leaf, value in manifests["evaluate"].settings.items() if leaf.startswith(own)}
    made.pop(SEED, None)
    return made


def _labels(groups: Sequence[_Run]) -> list[str]:
    """A name for each group: the model, and the leaves that tell it from the model's other groups."""
    labels = []
    for group in groups:
        others = [g for g in groups if g.frame.model == group.frame.model and g.dataset == group.dataset]
        leaves = sorted({leaf for other in others for leaf in other.made_with})
        differing = [leaf for leaf in leaves if len({canonical_json(o.made_with.get(leaf)) for o in others}) > 1]
        telling = [f"{_ending(leaf, differing)}={_short(group.made_with.get(leaf))}" for leaf in differing]
        labels.append(f"{group.frame.model} [{', '.join(telling)}]" if telling else group.frame.model)
    return labels


def _ending(leaf: str, among: Sequence[str]) -> str:
    """The shortest end of a dotted name that no other of them shares."""
    parts = leaf.split(".")
    endings = (".".join(parts[-count:]) for count in range(1, len(parts) + 1))
    return next((end for end in endings if sum(f".{other}".endswith(f".{end}") for other in among) == 1), leaf)


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 24 else f"{text[:12]}…"
