"""A mixture of the generator with probabilities from elsewhere, exact in ``generate`` and ``score``.

    p(item) = mass(item)              of items that are named
    p(item) = scale * generator(item) of all others

At every node of the trie the masses of all named items below it are known, and what the generator gives them, so a
prefix has the probability mass(prefix) + scale * (generator(prefix) - generator(named items below)): beams are ranked
by the mixture itself at every level, and a beam as wide as the catalog gives the exact ranking.

Shape letters: B batch, X named items, Y queried nodes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from genrec.decoding.trie_tensors import TrieTensors
from genrec.models.contracts import PAD_ITEM
from genrec.tokenizer.sid_table import SidTable


@dataclass(frozen=True, eq=False)
class ItemMixture:
    """Masses of named items and the generator's scale, by row.

    Attributes:
        log_scale_B: float [B], what the generator's log-probability of other items is raised by.
        leaves_BX: int64 [B, X], positions of the named items among the leaves of the trie, ascending; padding is
            behind the last leaf.
        masses_BX: float64 [B, X + 1], mass of all named leaves before each (a cumulative sum).
        generated_BX: float64 [B, X + 1], what the generator gives them, likewise.
    """

    log_scale_B: Tensor
    leaves_BX: Tensor
    masses_BX: Tensor
    generated_BX: Tensor

    @classmethod
    def of(
        cls, sid_table: SidTable, log_scale_B: Tensor, items_BX: Tensor, masses_BX: Tensor, generated_BX: Tensor
    ) -> ItemMixture:
        """Prepare a mixture.

        Args:
            sid_table: the semantic IDs of the items.
            log_scale_B: float [B].
            items_BX: int64 [B, X], named items, each once in its row; PAD_ITEM for none.
            masses_BX: float [B, X], their probabilities.
            generated_BX: float [B, X], their log-probabilities under the generator. The total is one if
                scale * (1 - sum of these probabilities) is what the masses leave.
        """
        trie = TrieTensors.of(sid_table, items_BX.device)
        named = items_BX != PAD_ITEM
        leaves = trie.leaf_begin[trie.path[items_BX.clamp(min=0), -1]].masked_fill(~named, sid_table.n_items)
        leaves, order = leaves.sort(dim=1)
        parts = [
            functional.pad(part.double().masked_fill(~named, 0.0).gather(1, order).cumsum(dim=1), (1, 0))
            for part in (masses_BX, generated_BX.exp())
        ]
        return cls(log_scale_B, leaves.contiguous(), *parts)

    def log_probs(self, generated: Tensor, nodes: Tensor, trie: TrieTensors) -> Tensor:
        """Log-probability, under the mixture, of the prefixes that end at ``nodes``.

        Args:
            generated: float [B, ...], log-probability of each prefix under the generator alone.
            nodes: int64 [B, ...], their trie nodes.
            trie: the trie of the same SidTable.
        """
        generated_BY, n_leaves_BY = generated.flatten(1), trie.n_leaves[nodes].flatten(1)
        begin_BY = trie.leaf_begin[nodes].flatten(1)
        first_BY = torch.searchsorted(self.leaves_BX, begin_BY)
        last_BY = torch.searchsorted(self.leaves_BX, begin_BY + n_leaves_BY)
        n_named_BY = last_BY - first_BY
        mass_BY = self.masses_BX.gather(1, last_BY) - self.masses_BX.gather(1, first_BY)
        taken_BY = self.generated_BX.gather(1, last_BY) - self.generated_BX.gather(1, first_BY)
        # Of a named item itself nothing is left, whatever the rounding of a difference says.
        left_BY = (generated_BY.double().exp() - taken_BY).clamp(min=0).masked_fill(n_named_BY == n_leaves_BY, 0.0)
        mixed_BY = (mass_BY + self.log_scale_B.double().exp()[:, None] * left_BY).log().to(generated.dtype)
        alone_BY = generated_BY + self.log_scale_B[:, None]
        return torch.where(n_named_BY == 0, alone_BY, mixed_BY).view_as(generated)
