"""Validation while training: Hit and NDCG at 10 on a seeded sample of validation users, over the full catalog, for all
users and for those whose target is a head or a tail item.

It only chooses weights; the numbers of a table come from genrec.evaluation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from genrec.data.interactions import Interactions
from genrec.models.contracts import Batch
from genrec.training.batching import evaluation_batch

CUTOFF = 10

_NAMES = tuple(
    segment + name for segment in ("", "head/", "tail/") for name in (f"hit@{CUTOFF}", f"ndcg@{CUTOFF}", "users")
)

Recommend = Callable[[Batch, Tensor], Tensor]
"""(batch, exclude_BS) -> items [B, 10], best first, -1 where the list ran short."""


def sample_users(data: Interactions, count: int | None, seed: int) -> NDArray[np.int64]:
    """A seeded sample of the users with a validation target (None: all), by rising length of history."""
    users = data.users_with("valid")
    if count is not None and count < len(users):
        users = np.random.default_rng([seed, len(users)]).choice(users, count, replace=False)
    return users[np.argsort(data.valid_at[users], kind="stable")]


def ranking_sums(
    data: Interactions,
    users: NDArray[np.int64],
    recommend: Recommend,
    *,
    max_history: int,
    batch_size: int,
    exclude_seen: bool,
    device: torch.device,
) -> dict[str, float]:
    """Sums of Hit@10 and NDCG@10 over ``users``, and their number; the same under "head/" and "tail/"."""
    head_N = torch.from_numpy(data.head_items).to(device)
    sums = dict.fromkeys(_NAMES, 0.0)
    for batch, seen_BS, target_B in _batches(data, users, max_history, batch_size, exclude_seen):
        items_BK = recommend(batch.to(device), seen_BS.to(device))
        target_B = target_B.to(device)
        found_BK = items_BK == target_B[:, None]
        discount_K = 1.0 / torch.log2(torch.arange(2, items_BK.shape[1] + 2, device=device))
        hit_B, gain_B, head_B = found_BK.sum(dim=1), (found_BK * discount_K).sum(dim=1), head_N[target_B]
        for segment, member_B in (("", torch.ones_like(head_B)), ("head/", head_B), ("tail/", ~head_B)):
            for name, value_B in ((f"hit@{CUTOFF}", hit_B), (f"ndcg@{CUTOFF}", gain_B), ("users", member_B)):
                sums[segment + name] += float(value_B[member_B].sum())
    return sums


def _batches(
    data: Interactions, users: NDArray[np.int64], max_history: int, batch_size: int, exclude_seen: bool
) -> Iterator[tuple[Batch, Tensor, Tensor]]:
    targets = data.targets("valid").astype(np.int64)
    for begin in range(0, len(users), batch_size):
        chunk = users[begin : begin + batch_size]
        batch = evaluation_batch(data, chunk, "valid", max_history)
        longest = int(data.valid_at[chunk].max())
        seen_BS = torch.empty(len(chunk), 0, dtype=torch.int64)
        if exclude_seen:
            seen_BS = evaluation_batch(data, chunk, "valid", max(longest, 1)).history_BT
        yield batch, seen_BS, torch.from_numpy(targets[chunk])
