"""A mixture of the generator with item distributions from elsewhere, exact in ``generate`` and ``score``.

    p(item) = g * generator(item) + sum of masses given for the item

(kNN-LM, Khandelwal et al. 2020, over items.) At every node of the trie the mass of all items below it is known,
so a prefix has the probability g * generator(prefix) + mass(prefix): beams are ranked by the mixture itself at every
level, whichever of the parts proposes them, and a beam as wide as the catalog gives the exact ranking.

Shape letters: B batch, X items with a mass (of all sources, repeats add up), Y queried leaves.
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
    """Gate of the generator and masses of items, by row.

    Attributes:
        log_gate_B: float [B], log g; the masses of a row sum to 1 - g.
        leaves_BX: int64 [B, X], positions of the items among the leaves of the trie, ascending.
        before_BX: float64 [B, X + 1], mass of all leaves before each position (a cumulative sum).
    """

    log_gate_B: Tensor
    leaves_BX: Tensor
    before_BX: Tensor

    @classmethod
    def of(cls, sid_table: SidTable, gate_B: Tensor, items_BX: Tensor, masses_BX: Tensor) -> ItemMixture:
        """Prepare a mixture.

        Args:
            sid_table: the semantic IDs of the items.
            gate_B: float [B], weight of the generator, in (0, 1].
            items_BX: int64 [B, X], items of all sources; PAD_ITEM for none, repeats add up.
            masses_BX: float [B, X], their weights; each row sums to 1 - gate.
        """
        trie = TrieTensors.of(sid_table, items_BX.device)
        leaves = trie.leaf_begin[trie.path[items_BX.clamp(min=0), -1]]
        masses = masses_BX.double().masked_fill(items_BX == PAD_ITEM, 0.0)
        leaves, order = leaves.sort(dim=1)
        before = functional.pad(masses.gather(1, order).cumsum(dim=1), (1, 0))
        return cls(gate_B.log(), leaves.contiguous(), before)

    def log_probs(self, generated: Tensor, nodes: Tensor, trie: TrieTensors) -> Tensor:
        """Log-probability, under the mixture, of the prefixes that end at ``nodes``.

        Args:
            generated: float [B, ...], log-probability of each prefix under the generator alone.
            nodes: int64 [B, ...], their trie nodes.
            trie: the trie of the same SidTable.
        """
        begin = trie.leaf_begin[nodes].flatten(1)
        mass = self._before(begin + trie.n_leaves[nodes].flatten(1)) - self._before(begin)
        gate_B1 = self.log_gate_B[:, None]
        mixed = torch.logaddexp(gate_B1 + generated.flatten(1), mass.log().to(generated.dtype))
        return mixed.view_as(generated)

    def _before(self, leaf_BY: Tensor) -> Tensor:
        return self.before_BX.gather(1, torch.searchsorted(self.leaves_BX, leaf_BY.contiguous()))
