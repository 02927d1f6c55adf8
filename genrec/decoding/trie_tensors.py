"""The trie on the model's device, and the distribution over a node's children.

Every probability of genrec is defined here: at a node the next code is drawn from the softmax of the
logits over the node's *children*, so the probabilities of all items of the catalog sum to one. ``generate``
and ``score`` both call :func:`child_log_probs`. Other sources of items (retrieved neighbours) are mixed in by
:class:`genrec.decoding.mixture.ItemMixture`.

Shape letters: B batch, K beams or scored items, C children of a node (padded), V vocabulary, S excluded
items, N items, M nodes, L levels.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from genrec.models.contracts import PAD_ITEM
from genrec.tokenizer.sid_table import SidTable

NO_NODE = -1


@dataclass(frozen=True)
class Children:
    """Children of one trie node per beam.

    Attributes:
        nodes_BKC: int64, their children, padded to the largest family.
        tokens_BKC: int64, token that leads into each child.
        valid_BKC: bool, False where a place is padding.
    """

    nodes_BKC: Tensor
    tokens_BKC: Tensor
    valid_BKC: Tensor


@dataclass(frozen=True, eq=False)
class TrieTensors:
    """A SidTable's trie as tensors; numbering as in :class:`genrec.tokenizer.trie.Trie`.

    Attributes:
        first_child: int64 [M + 1].
        token: int64 [M], token id that leads into a node.
        leaf_begin, n_leaves: int64 [M], first leaf and number of leaves below a node.
        leaf_item: int64 [N].
        path: int64 [N + 1, L], nodes on the way to an item; the last row (reached by PAD_ITEM) holds NO_NODE.
        max_children: largest family at each depth.
    """

    first_child: Tensor
    token: Tensor
    leaf_begin: Tensor
    n_leaves: Tensor
    leaf_item: Tensor
    path: Tensor
    max_children: tuple[int, ...]

    @classmethod
    def of(cls, sid_table: SidTable, device: torch.device) -> TrieTensors:
        """The table's trie on ``device``, kept for the next call."""
        return _tensors(sid_table, device)

    def children(self, nodes_BK: Tensor, depth: int) -> Children:
        """Children of nodes that all lie at ``depth``."""
        begin_BK = self.first_child[nodes_BK]
        count_BK = self.first_child[nodes_BK + 1] - begin_BK
        # Most families are far smaller than the largest; asking for the largest here is cheap on a CPU only.
        width = self.max_children[depth] if nodes_BK.is_cuda else int(count_BK.max())
        place_C = torch.arange(width, device=nodes_BK.device)
        valid_BKC = place_C < count_BK[..., None]
        nodes_BKC = begin_BK[..., None] + place_C * valid_BKC
        return Children(nodes_BKC, self.token[nodes_BKC], valid_BKC)

    def dead_nodes(self, exclude_BS: Tensor) -> Tensor:
        """int64 [L, B, S], sorted: at each depth the nodes all of whose items are excluded, else NO_NODE.

        Args:
            exclude_BS: int64 item indices in any order, repeats allowed, PAD_ITEM for none.
        """
        items_BS = exclude_BS.sort(dim=1).values
        repeated = torch.zeros_like(items_BS, dtype=torch.bool)
        repeated[:, 1:] = items_BS[:, 1:] == items_BS[:, :-1]
        nodes_LBS = self.path[items_BS.masked_fill(repeated, PAD_ITEM)].permute(2, 0, 1).contiguous()
        nodes_LBS = nodes_LBS.sort(dim=2).values
        excluded_LBS = torch.searchsorted(nodes_LBS, nodes_LBS, right=True) - torch.searchsorted(nodes_LBS, nodes_LBS)
        dead = (nodes_LBS != NO_NODE) & (excluded_LBS == self.n_leaves[nodes_LBS.clamp(min=0)])
        return nodes_LBS.masked_fill(~dead, NO_NODE).sort(dim=2).values


@lru_cache(maxsize=8)
def _tensors(sid_table: SidTable, device: torch.device) -> TrieTensors:
    trie = sid_table.trie
    depth_sizes = np.diff(trie.depth_begin)
    offsets = np.repeat(np.concatenate([[1], sid_table.level_offsets]), depth_sizes)
    path = np.concatenate([trie.path_NL, np.full((1, sid_table.n_levels), NO_NODE)])

    def tensor(array: NDArray[np.int64]) -> Tensor:
        with torch.inference_mode(False):  # kept for calls that train, too
            return torch.tensor(array, device=device)

    return TrieTensors(
        first_child=tensor(trie.first_child),
        token=tensor(trie.code + offsets),
        leaf_begin=tensor(trie.leaf_begin),
        n_leaves=tensor(trie.leaf_end - trie.leaf_begin),
        leaf_item=tensor(trie.leaf_item),
        path=tensor(path),
        max_children=trie.max_children,
    )


def child_log_probs(logits_BKV: Tensor, children: Children) -> Tensor:
    """Log-probabilities [B, K, C] of each child given its node; -inf at padding."""
    logits_BKC = logits_BKV.float().gather(-1, children.tokens_BKC)
    return logits_BKC.masked_fill(~children.valid_BKC, -torch.inf).log_softmax(dim=-1)


def contained(nodes_BX: Tensor, sorted_BS: Tensor) -> Tensor:
    """bool [B, X]: is each node among its row's ``sorted_BS``?"""
    place = torch.searchsorted(sorted_BS, nodes_BX).clamp(max=sorted_BS.shape[1] - 1)
    return sorted_BS.gather(1, place) == nodes_BX


def distinct(items_BX: Tensor) -> tuple[Tensor, Tensor]:
    """Each row's items or nodes once, ascending [B, Y], padded with PAD_ITEM; and each old place's new one [B, X]."""
    ordered, order = items_BX.sort(dim=1)
    new = torch.ones_like(ordered, dtype=torch.bool)
    new[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    group = new.long().cumsum(dim=1) - 1
    found = torch.full_like(items_BX, PAD_ITEM).scatter(1, group, ordered)
    return found[:, : int(group.max()) + 1], torch.empty_like(group).scatter(1, order, group)
