"""Full-ranking evaluation: every user's top list over the whole catalog, as an EvalFrame.

Policies. ``exclude``: all items of the user's history before the target leave the ranking, also
those older than the model's window, and a target that the user had before is no exception: it cannot
be recommended, so it counts as a miss (the literature's filter; Amazon Beauty and Scientific hold no
such target). ``keep``: nothing leaves. Equal scores rank by item index, so a frame is repeatable.

Shape letters: B users of a chunk, U' evaluated users, N items, K list length, S excluded items.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from torch import Tensor

from genrec.config import EvaluationSettings
from genrec.data.interactions import Interactions, Split
from genrec.data.windows import padded_histories
from genrec.errors import ArtifactError
from genrec.evaluation.frame import EvalFrame
from genrec.models.contracts import PAD_ITEM, Backbone, Batch
from genrec.models.dense import DenseScorer


class RankedItems(Protocol):
    """What a generator returns: items and their log-probabilities, best first."""

    @property
    def items_BK(self) -> Tensor:
        """int64 [B, K], -1 where a list ran short."""

    @property
    def scores_BK(self) -> Tensor:
        """float [B, K]."""


class GenerateFn(Protocol):
    """The call of ``genrec.decoding.generate``."""

    def __call__(
        self, backbone: Backbone, batch: Batch, k: int, *, beams: int, exclude_BS: Tensor | None
    ) -> RankedItems:
        """The k best items of each history; ``exclude_BS`` int64 [B, S], padded with -1, never come back."""


def rank_dense(
    scorer: DenseScorer,
    interactions: Interactions,
    split: Split,
    settings: EvaluationSettings,
    *,
    max_history: int,
    model: str,
    seed: int | None = None,
    users: NDArray[np.int64] | None = None,
    chunk: int = 512,
) -> EvalFrame:
    """Rank the catalog for every user of a split by a dense scorer.

    Args:
        scorer: gives float [B, N] scores.
        interactions: the data set.
        split: whose targets.
        settings: list length (the largest cutoff) and the seen-item policy.
        max_history: latest items of the history that the scorer is given.
        model: name for the frame.
        seed: seed of the scorer's training, None if it has none.
        users: evaluate only these (ascending); None: all with a target.
        chunk: users scored at once; B x N floats are held.
    """
    users = _evaluated(interactions, split, users)
    k = min(max(settings.cutoffs), interactions.n_items)
    lists, scores = np.empty((len(users), k), dtype=np.int64), np.empty((len(users), k), dtype=np.float32)
    for begin in range(0, len(users), chunk):
        rows = users[begin : begin + chunk]
        scores_BN = scorer.score_histories(padded_histories(interactions, rows, split, max_history), rows)
        assert scores_BN.shape == (len(rows), interactions.n_items), f"{model}: scores of shape {scores_BN.shape}"
        if settings.seen_items == "exclude":
            seen_BS = padded_histories(interactions, rows, split, None)
            row_index, column = np.nonzero(seen_BS >= 0)
            scores_BN[row_index, seen_BS[row_index, column]] = -np.inf
        lists[begin : begin + len(rows)], scores[begin : begin + len(rows)] = top_items(scores_BN, k)
    return _frame(model, interactions, split, users, lists, scores, seed)


@torch.inference_mode()
def rank_generative(
    generate: GenerateFn,
    backbone: Backbone,
    interactions: Interactions,
    split: Split,
    settings: EvaluationSettings,
    *,
    max_history: int,
    model: str,
    seed: int | None = None,
    users: NDArray[np.int64] | None = None,
    prepare: Callable[[Batch], Batch] | None = None,
    device: torch.device | str = "cpu",
) -> EvalFrame:
    """Rank by constrained generation: the top of a beam search instead of N scores.

    Args:
        generate: ``genrec.decoding.generate``, or anything with its call.
        backbone: the host, on ``device``, in evaluation mode.
        interactions: the data set.
        split: whose targets.
        settings: cutoffs, beams, batch size and seen-item policy.
        max_history: latest items of the history that the host is given.
        model: name for the frame.
        seed: seed of the host's training, None if it has none.
        users: evaluate only these (ascending); None: all with a target.
        prepare: adds what the host needs besides the history (language embeddings, neighbours).
        device: where the batches go.
    """
    users = _evaluated(interactions, split, users)
    k = min(max(settings.cutoffs), interactions.n_items)
    lists = np.full((len(users), k), PAD_ITEM, dtype=np.int64)
    scores = np.full((len(users), k), -np.inf, dtype=np.float32)
    for rows in _batches_by_length(interactions, split, users, settings.batch_size):
        batch = Batch(
            history_BT=torch.from_numpy(padded_histories(interactions, users[rows], split, max_history)),
            users_B=torch.from_numpy(users[rows]),
        )
        exclude_BS = None
        if settings.seen_items == "exclude":
            exclude_BS = torch.from_numpy(padded_histories(interactions, users[rows], split, None)).to(device)
        batch = (prepare(batch) if prepare else batch).to(device)
        ranked = generate(backbone, batch, k, beams=settings.beams, exclude_BS=exclude_BS)
        found = ranked.items_BK.shape[1]
        lists[rows, :found] = ranked.items_BK.cpu().numpy()
        scores[rows, :found] = ranked.scores_BK.float().cpu().numpy()
    return _frame(model, interactions, split, users, lists, scores, seed)


def top_items(scores_BN: NDArray[np.float32], k: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The k best items of each row: (int64 [B, k] items, float32 [B, k] scores), ties by item index.

    Score and index are packed into one integer key, whose order is total, so the choice among equal
    scores doesn't depend on the machine. Items scored -inf are never listed; -1 fills their places.
    """
    scores = np.ascontiguousarray(scores_BN, dtype=np.float32) + np.float32(0)  # -0.0 becomes 0.0
    assert not np.isnan(scores).any(), "a scorer returned NaN"
    bits = scores.view(np.int32).astype(np.int64)
    order = np.where(bits < 0, bits ^ 0x7FFFFFFF, bits)  # monotone in the score
    n_items = scores.shape[1]
    keys = (order << 32) | (n_items - 1 - np.arange(n_items))
    best = torch.topk(torch.from_numpy(keys), k, dim=1, sorted=True).values.numpy()
    items = n_items - 1 - (best & 0xFFFFFFFF)
    values = np.take_along_axis(scores, items, axis=1)
    return np.where(np.isneginf(values), PAD_ITEM, items), values


def segments_of(interactions: Interactions, targets: NDArray[np.int64]) -> dict[str, NDArray[np.bool_]]:
    """Membership of each target: head, tail (all that is not head) and cold (never in training).

    Head and tail follow the data set's rule (`data.head_rule`). "head-literature" and "tail-literature" follow the
    papers' rule whatever that is: as many head items, by counts over all interactions, test targets too.
    """
    head = interactions.head_items[targets]
    counts = np.bincount(interactions.items, minlength=interactions.n_items)
    popular = np.argsort(-counts, kind="stable")[: int(interactions.head_items.sum())]
    published = np.isin(targets, popular[counts[popular] > 0])
    cold = interactions.train_counts[targets] == 0
    return {"head": head, "tail": ~head, "cold": cold, "head-literature": published, "tail-literature": ~published}


def save_frame(frame: EvalFrame, path: Path) -> None:
    """Write a frame as one Parquet file; model and seed go into the schema's metadata."""
    columns: dict[str, Any] = {
        "user": frame.users,
        "target": frame.targets,
        "items": _list_column(frame.lists),
        **{f"segment:{name}": member for name, member in frame.segments.items()},
    }
    if frame.scores is not None:
        columns["scores"] = _list_column(frame.scores)
    meta = {"model": frame.model, "seed": "" if frame.seed is None else str(frame.seed)}
    pq.write_table(pa.table(columns).replace_schema_metadata(meta), path)


def load_frame(path: Path) -> EvalFrame:
    """Read what :func:`save_frame` wrote.

    Raises:
        ArtifactError: no such file, or not a frame.
    """
    try:
        table = pq.read_table(path)
        meta = {key.decode(): value.decode() for key, value in (table.schema.metadata or {}).items()}
        arrays = {name: table[name].combine_chunks() for name in table.column_names}
        return EvalFrame(
            model=meta["model"],
            users=arrays["user"].to_numpy(),
            lists=_matrix(arrays["items"]),
            targets=arrays["target"].to_numpy(),
            segments={
                name.removeprefix("segment:"): column.to_numpy(zero_copy_only=False)
                for name, column in arrays.items()
                if name.startswith("segment:")
            },
            scores=_matrix(arrays["scores"]) if "scores" in arrays else None,
            seed=int(meta["seed"]) if meta["seed"] else None,
        )
    except (OSError, KeyError, pa.ArrowInvalid) as error:
        raise ArtifactError(f"{path}: not a saved evaluation frame ({error}). Run `evaluate` again.") from error


def _evaluated(interactions: Interactions, split: Split, users: NDArray[np.int64] | None) -> NDArray[np.int64]:
    chosen = interactions.users_with(split) if users is None else np.asarray(users, dtype=np.int64)
    assert (np.diff(chosen) > 0).all(), "users must ascend"
    return chosen


def _batches_by_length(
    interactions: Interactions, split: Split, users: NDArray[np.int64], size: int
) -> Iterator[NDArray[np.int64]]:
    """Positions in ``users``, batch by batch, users of like history length together (little padding)."""
    lengths = (interactions.valid_at if split == "valid" else interactions.test_at)[users]
    order = np.argsort(lengths, kind="stable")
    for begin in range(0, len(order), size):
        yield order[begin : begin + size]


def _frame(
    model: str,
    interactions: Interactions,
    split: Split,
    users: NDArray[np.int64],
    lists: NDArray[np.int64],
    scores: NDArray[np.float32],
    seed: int | None,
) -> EvalFrame:
    targets = interactions.targets(split)[users].astype(np.int64)
    assert (targets >= 0).all(), "a user without a target in this split"
    return EvalFrame(model, users, lists, targets, segments_of(interactions, targets), scores, seed)


def _list_column(matrix: NDArray[Any]) -> pa.FixedSizeListArray:
    return pa.FixedSizeListArray.from_arrays(pa.array(np.ascontiguousarray(matrix).ravel()), matrix.shape[1])


def _matrix(column: pa.FixedSizeListArray) -> NDArray[Any]:
    return column.flatten().to_numpy().reshape(len(column), column.type.list_size)
