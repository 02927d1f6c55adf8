"""``score``: log-probabilities of given items, under the same distribution as ``generate``.

Shape letters: B batch, P scored items, G groups of items with one prefix, L levels, V vocabulary, C children.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from genrec.decoding.mixture import ItemMixture
from genrec.decoding.trie_tensors import TrieTensors, child_log_probs, distinct
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
    visible_BP = batch.visible_BP
    asked_BG, group_BP = (items_BP, None) if visible_BP is not None else _by_prefix(trie, items_BP)
    table = backbone.sid_table
    per_item = batch.size * table.n_levels * (table.vocab_size + max(trie.max_children))
    chunk = max(1, LOGITS_AT_ONCE // per_item)
    parts = []
    for begin in range(0, asked_BG.shape[1], chunk):
        asked = asked_BG[:, begin : begin + chunk]
        visible = None if visible_BP is None else visible_BP[:, begin : begin + chunk]
        parts.append(_child_log_probs(backbone, trie, memories, asked, visible))
    levels = [_joined(level) for level in zip(*parts, strict=True)]
    generated_BP = _of_items(trie, levels, items_BP, group_BP)
    if mixture is None:
        return generated_BP
    leaves = trie.path[items_BP, -1].clamp(min=0)
    return mixture.log_probs(generated_BP, leaves, trie).masked_fill(items_BP == PAD_ITEM, -torch.inf)


def _by_prefix(trie: TrieTensors, items_BP: Tensor) -> tuple[Tensor, Tensor]:
    """Group items whose undecided codes are read off the same prefix, so that each prefix is decoded once.

    The prefix of an item ends at its last node with more than one child: what follows has probability one.

    Returns:
        int64 [B, G], an item of each group (PAD_ITEM fills up), and int64 [B, P], the group of each item.
    """
    path_BPL = trie.path[items_BP.clamp(min=0)]
    parents_BPL = functional.pad(path_BPL[..., :-1], (1, 0), value=0)
    branches = trie.first_child[parents_BPL + 1] - trie.first_child[parents_BPL] > 1
    # Nodes are numbered by depth, so the last one that branches is the largest.
    prefix_BP = parents_BPL.masked_fill(~branches, 0).amax(dim=-1)
    prefixes_BG, group_BP = distinct(prefix_BP)
    return torch.full_like(prefixes_BG, PAD_ITEM).scatter_(1, group_BP, items_BP), group_BP


def _child_log_probs(
    backbone: Backbone, trie: TrieTensors, memories: Sequence[Memory], items_BG: Tensor, visible_BG: Tensor | None
) -> list[Tensor]:
    """Of each level [B, G, C]: log-probabilities of the children of the node where each item has come to."""
    path_BGL = trie.path[items_BG.clamp(min=0)]
    inputs = functional.pad(trie.token[path_BGL[..., :-1]], (1, 0), value=PAD_TOKEN)
    parents_BGL = functional.pad(path_BGL[..., :-1], (1, 0), value=0)
    logits_BGLV = backbone.decode(inputs, memories, visible_BG)
    return [
        child_log_probs(logits_BGLV[:, :, level], trie.children(parents_BGL[..., level], level))
        for level in range(path_BGL.shape[2])
    ]


def _joined(parts: Sequence[Tensor]) -> Tensor:
    """Chunks [B, G, C] side by side; families are as wide as the largest in their chunk."""
    width = max(part.shape[2] for part in parts)
    return torch.cat([functional.pad(part, (0, width - part.shape[2]), value=-torch.inf) for part in parts], dim=1)


def _of_items(trie: TrieTensors, levels: Sequence[Tensor], items_BP: Tensor, group_BP: Tensor | None) -> Tensor:
    """Log-probability [B, P] of each item, a sum over its codes; -inf for PAD_ITEM."""
    path_BPL = trie.path[items_BP.clamp(min=0)]
    total = torch.zeros(items_BP.shape, device=items_BP.device)
    for level, log_probs_BGC in enumerate(levels):
        parents_BP = path_BPL[..., level - 1] if level else torch.zeros_like(items_BP)
        begin_BP = trie.first_child[parents_BP]
        place_BP = path_BPL[..., level] - begin_BP
        width = log_probs_BGC.shape[2]
        if group_BP is None:
            chosen = log_probs_BGC.gather(-1, place_BP[..., None])[..., 0]
        else:
            cell_BP = group_BP * width + place_BP
            chosen = log_probs_BGC.flatten(1).gather(1, cell_BP)
        only_child = trie.first_child[parents_BP + 1] - begin_BP == 1
        total = total + chosen.masked_fill(only_child, 0.0)
    return total.masked_fill(items_BP == PAD_ITEM, -torch.inf)
