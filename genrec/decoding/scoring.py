"""``score``: log-probabilities of given items, under the same distribution as ``generate``.

Shape letters: B batch, P scored items, L levels, V vocabulary, C children.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from genrec.decoding.mixture import ItemMixture
from genrec.decoding.trie_tensors import TrieTensors, child_log_probs
from genrec.models.contracts import PAD_ITEM, Backbone, Batch, Memory
from genrec.tokenizer.sid_table import PAD_TOKEN

LOGITS_AT_ONCE = 2**24
"""Largest number of logits held at a time (64 MiB of float32)."""


def score(
    backbone: Backbone,
    batch: Batch,
    items_BP: Tensor,
    *,
    memories: Sequence[Memory] | None = None,
    mixture: ItemMixture | None = None,
) -> Tensor:
    """Log-probability [B, P] of each item given its row's history; -inf for PAD_ITEM.

    Over all items of the catalog the probabilities sum to one. Gradients flow, and dropout acts if the
    backbone is in training mode: call ``backbone.eval()`` and ``torch.no_grad()`` to rank.

    Args:
        backbone: the host.
        batch: histories; ``batch.visible_BP``, if given, says how many items of the history count for each item.
        items_BP: int64 [B, P].
        memories: what to attend to in place of the encoded history and ``batch.neighbours``.
        mixture: item distributions to mix the generator with.
    """
    trie = TrieTensors.of(backbone.sid_table, items_BP.device)
    if memories is None:
        memories = [backbone.encode(batch), *batch.neighbours]
    table = backbone.sid_table
    per_item = batch.size * table.n_levels * (table.vocab_size + max(trie.max_children))
    chunk = max(1, LOGITS_AT_ONCE // per_item)
    scored = []
    for begin in range(0, items_BP.shape[1], chunk):
        items = items_BP[:, begin : begin + chunk]
        visible = None if batch.visible_BP is None else batch.visible_BP[:, begin : begin + chunk]
        scored.append(_score_chunk(backbone, trie, memories, items, visible))
    generated_BP = torch.cat(scored, dim=1)
    if mixture is None:
        return generated_BP
    leaves = trie.path[items_BP, -1].clamp(min=0)
    return mixture.log_probs(generated_BP, leaves, trie).masked_fill(items_BP == PAD_ITEM, -torch.inf)


def _score_chunk(
    backbone: Backbone,
    trie: TrieTensors,
    memories: Sequence[Memory],
    items_BP: Tensor,
    visible_BP: Tensor | None,
) -> Tensor:
    missing = items_BP == PAD_ITEM
    path_BPL = trie.path[items_BP.masked_fill(missing, 0)]
    inputs = functional.pad(trie.token[path_BPL[..., :-1]], (1, 0), value=PAD_TOKEN)
    parents_BPL = functional.pad(path_BPL[..., :-1], (1, 0), value=0)
    logits_BPLV = backbone.decode(inputs, memories, visible_BP)
    total = torch.zeros(items_BP.shape, device=items_BP.device)
    for level in range(path_BPL.shape[2]):
        parents = parents_BPL[..., level]
        log_probs = child_log_probs(logits_BPLV[:, :, level], trie.children(parents, level))
        place = path_BPL[..., level] - trie.first_child[parents]
        total = total + log_probs.gather(-1, place[..., None])[..., 0]
    return total.masked_fill(missing, -torch.inf)
