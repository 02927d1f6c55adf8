"""Measures the exposure bias of a generator; what is measured stands in :mod:`genrec.evaluation.exposure`.

It needs nothing of a host but the Protocol: ``encode`` once a batch, and ``decode`` for true, own and spoilt prefixes.

Shape letters: B batch, S code positions (the first is 0), V vocabulary, N items, U users, X points of both curves.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from genrec.config import EvaluationSettings
from genrec.data.interactions import Interactions, Split
from genrec.data.windows import padded_histories
from genrec.decoding import TrieTensors, child_log_probs
from genrec.evaluation.exposure import KINDS, SHARES, ErrorPoint, Exposure, PositionAccuracy, UserAccuracy
from genrec.models.contracts import Backbone, Batch, Memory
from genrec.tokenizer.sid_table import PAD_TOKEN, SidTable

SEED = 0
SAMPLES_AT_ONCE = 100


@torch.inference_mode()
def measure_exposure(
    backbone: Backbone,
    interactions: Interactions,
    split: Split,
    settings: EvaluationSettings,
    *,
    max_history: int,
    model: str,
    users: NDArray[np.int64] | None = None,
    prepare: Callable[[Batch], Batch] | None = None,
    device: torch.device | str = "cpu",
) -> Exposure:
    """Measure a generator on the targets of a split.

    Args:
        backbone: the host, on ``device``, in evaluation mode; of several tables the first is measured.
        interactions: the data set.
        split: whose targets.
        settings: batch size, bootstrap samples and confidence.
        max_history: latest items of the history that the host is given.
        model: its name.
        users: measure only these; None: all with a target.
        prepare: adds what the host needs besides the history (the memory of retrieved users).
        device: where the batches go.
    """
    users = interactions.users_with(split) if users is None else users
    users = users[
        np.argsort((interactions.valid_at if split == "valid" else interactions.test_at)[users], kind="stable")
    ]
    targets = interactions.targets(split).astype(np.int64)
    gauge = _Gauge(backbone, torch.device(device))
    right = []
    for begin in range(0, len(users), settings.batch_size):
        rows = users[begin : begin + settings.batch_size]
        histories = padded_histories(interactions, rows, split, max_history)
        batch = Batch(torch.from_numpy(histories), users_B=torch.from_numpy(rows)).to(device)
        right.append(gauge(batch if prepare is None else prepare(batch), torch.from_numpy(targets[rows])))
    forced_US, own_US, errors_UX = (np.concatenate(parts) for parts in zip(*right, strict=True))
    gap_US = forced_US - own_US
    later = slice(1, meaningful(backbone.sid_table))
    forced_U, own_U = (
        part[:, later].mean(axis=1) if part[:, later].shape[1] else np.zeros(len(part)) for part in (forced_US, own_US)
    )
    later_U = forced_U - own_U
    values = np.concatenate([gap_US, errors_UX, later_U[:, None]], axis=1)
    mean, low, high = (bound.tolist() for bound in _intervals(values, settings))
    n_positions, points = gap_US.shape[1], [(kind, share) for kind in KINDS for share in SHARES]
    forced, own = forced_US.mean(axis=0).tolist(), own_US.mean(axis=0).tolist()
    return Exposure(
        model,
        len(users),
        *(mean[-1], low[-1], high[-1]),
        tuple(PositionAccuracy(s + 1, forced[s], own[s], mean[s], low[s], high[s]) for s in range(n_positions)),
        tuple(
            ErrorPoint(*point, mean[place], low[place], high[place])
            for place, point in enumerate(points, start=n_positions)
        ),
        UserAccuracy(users, forced_U, own_U),
    )


class _Gauge:
    """Which codes of a batch are right; random replacements go on from batch to batch."""

    def __init__(self, backbone: Backbone, device: torch.device) -> None:
        self.backbone = backbone
        self.trie = TrieTensors.of(backbone.sid_table, device)
        self.ranges = level_ranges(backbone.sid_table)
        self.n_meaningful = meaningful(backbone.sid_table)
        self.tokens_NL = torch.from_numpy(backbone.sid_table.tokens_NL).to(device)
        self.near_V = near_codes(backbone.token_embedding.weight, self.ranges)
        self.generator = torch.Generator().manual_seed(SEED)

    def __call__(
        self, batch: Batch, targets_B: Tensor
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """Right codes after true prefixes [B, S] and after own [B, S]; mean right codes under errors [B, X]."""
        targets_B = targets_B.to(self.tokens_NL.device)
        labels_BS = self.tokens_NL[targets_B]
        memories = [self.backbone.encode(batch), *batch.neighbours]
        forced_BS = self._forced(memories, labels_BS, targets_B) == labels_BS
        own_BS = self._greedy(memories, labels_BS) == labels_BS
        errors_BX = torch.stack(self._under_errors(memories, labels_BS), dim=1)
        return forced_BS.double().cpu().numpy(), own_BS.double().cpu().numpy(), errors_BX.double().cpu().numpy()

    def _logits(self, memories: Sequence[Memory], written_BS: Tensor) -> Tensor:
        """Float [B, S + 1, V] after the start token and each of the codes written."""
        inputs = functional.pad(written_BS, (1, 0), value=PAD_TOKEN)
        return self.backbone.decode(inputs[:, None], memories)[:, 0]

    def _likeliest_child(self, logits_BV: Tensor, nodes_B: Tensor, depth: int) -> tuple[Tensor, Tensor]:
        """Token and node [B] of the likeliest child of each node."""
        children = self.trie.children(nodes_B[:, None], depth)
        best_B1 = child_log_probs(logits_BV[:, None], children)[:, 0].argmax(dim=-1, keepdim=True)
        return children.tokens_BKC[:, 0].gather(1, best_B1)[:, 0], children.nodes_BKC[:, 0].gather(1, best_B1)[:, 0]

    def _forced(self, memories: Sequence[Memory], labels_BS: Tensor, targets_B: Tensor) -> Tensor:
        logits_BSV = self._logits(memories, labels_BS[:, :-1])
        nodes_BS = functional.pad(self.trie.path[targets_B][:, :-1], (1, 0), value=0)
        found = [self._likeliest_child(logits_BSV[:, s], nodes_BS[:, s], s)[0] for s in range(labels_BS.shape[1])]
        return torch.stack(found, dim=1)

    def _greedy(self, memories: Sequence[Memory], labels_BS: Tensor) -> Tensor:
        written_BS, nodes_B = labels_BS[:, :0], labels_BS.new_zeros(len(labels_BS))
        for depth in range(labels_BS.shape[1]):
            logits_BV = self._logits(memories, written_BS)[:, -1]
            tokens_B, nodes_B = self._likeliest_child(logits_BV, nodes_B, depth)
            written_BS = torch.cat([written_BS, tokens_B[:, None]], dim=1)
        return written_BS

    def _under_errors(self, memories: Sequence[Memory], labels_BS: Tensor) -> list[Tensor]:
        """The mean over later positions [B], for each kind and share; the same coins for all."""
        true_BS = labels_BS[:, :-1]
        coins_BS = torch.rand(true_BS.shape, generator=self.generator).to(true_BS.device)
        found = []
        for other_BS in (self._random(true_BS), self.near_V[true_BS]):
            for share in SHARES:
                logits_BSV = self._logits(memories, torch.where(coins_BS < share, other_BS, true_BS))[:, 1:]
                right = [
                    logits_BSV[:, s, first:end].argmax(dim=-1) + first == labels_BS[:, s + 1]
                    for s, (first, end) in enumerate(self.ranges[1 : self.n_meaningful])
                ]
                found.append(torch.stack(right).double().mean(dim=0) if right else coins_BS.new_zeros(len(labels_BS)))
        return found

    def _random(self, true_BS: Tensor) -> Tensor:
        """A code of the same level in place of each, never itself (where the level has another)."""
        columns = []
        for s, (first, end) in enumerate(self.ranges[:-1]):
            size = end - first
            step = torch.randint(1, max(size, 2), (len(true_BS),), generator=self.generator).to(true_BS.device)
            columns.append((true_BS[:, s] - first + step) % size + first)
        return torch.stack(columns, dim=1) if columns else true_BS


def meaningful(table: SidTable) -> int:
    """Number of levels whose codes mean something by themselves; a collision code only tells a prefix's items apart."""
    return table.n_levels - int(table.collision_level)


def level_ranges(table: SidTable) -> list[tuple[int, int]]:
    """(first, end) token ids of each level's codes."""
    return [(int(f), int(f) + size) for f, size in zip(table.level_offsets, table.level_sizes, strict=True)]


def near_codes(embedding_VD: Tensor, ranges: Sequence[tuple[int, int]]) -> Tensor:
    """int64 [V]: of each code the other one of its level whose embedding has the largest cosine."""
    near_V = torch.arange(len(embedding_VD), device=embedding_VD.device)
    for first, end in ranges:
        if end - first > 1:
            unit = functional.normalize(embedding_VD[first:end].detach().float(), dim=-1)
            near_V[first:end] = (unit @ unit.T).fill_diagonal_(-2).argmax(dim=1) + first
    return near_V


def _intervals(values_UX: NDArray[np.float64], settings: EvaluationSettings) -> tuple[NDArray[np.float64], ...]:
    """Means over users, and the bounds of their percentile-bootstrap intervals."""
    n_users, rng = len(values_UX), np.random.default_rng(SEED)
    means = []
    for begin in range(0, settings.bootstrap_samples, SAMPLES_AT_ONCE):
        count = min(SAMPLES_AT_ONCE, settings.bootstrap_samples - begin)
        drawn = rng.multinomial(n_users, np.full(n_users, 1 / n_users), size=count)
        means.append(drawn @ values_UX / n_users)
    tail = (1 - settings.confidence) / 2
    low, high = np.quantile(np.concatenate(means), [tail, 1 - tail], axis=0)
    return values_UX.mean(axis=0), low, high
