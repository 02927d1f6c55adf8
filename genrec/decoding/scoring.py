"""``score``: log-probabilities of given items, under the same distribution as ``generate``.

For inference the prefixes of the items are walked level by level, each once, as beams that are told where to go; where
gradients flow, or each item sees a history of its own, the items' codes are decoded teacher-forced.

Shape letters: B batch, P scored items, G groups of items with one prefix, A prefixes of a level, L levels,
V vocabulary, C children.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from genrec.decoding.mixture import ItemMixture
from genrec.decoding.trie_tensors import NO_NODE, TrieTensors, child_log_probs, distinct
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
    if batch.visible_BP is not None or torch.is_grad_enabled() or getattr(backbone, "training", False):
        generated_BP = _teacher_forced(backbone, trie, memories, items_BP, batch.visible_BP)
    else:
        generated_BP = _walked(backbone, trie, memories, items_BP)
    if mixture is None:
        return generated_BP
    leaves = trie.path[items_BP, -1].clamp(min=0)
    return mixture.log_probs(generated_BP, leaves, trie).masked_fill(items_BP == PAD_ITEM, -torch.inf)


def _walked(backbone: Backbone, trie: TrieTensors, memories: Sequence[Memory], items_BP: Tensor) -> Tensor:
    """Log-probability [B, P] of each item; each prefix is decoded once."""
    # Side by side in the trie, so that a chunk holds items of one prefix.
    order_BP = trie.leaf_begin[trie.path[items_BP.clamp(min=0), -1]].argsort(dim=1)
    items, total_BP = items_BP.gather(1, order_BP), torch.zeros(items_BP.shape, device=items_BP.device)
    chunk = max(1, LOGITS_AT_ONCE // (items.shape[0] * (backbone.sid_table.vocab_size + max(trie.max_children))))
    for begin in range(0, items.shape[1], chunk):
        asked_BP = items[:, begin : begin + chunk]
        path_BPL = trie.path[asked_BP.clamp(min=0)]
        cache, slot_BP = backbone.start(memories), torch.zeros_like(asked_BP)
        nodes_BA = slot_BP[:, :1]  # the root
        for level in range(path_BPL.shape[2]):
            tokens = trie.token[nodes_BA] if level else torch.full_like(nodes_BA, PAD_TOKEN)
            children = trie.children(nodes_BA, level)
            log_probs_BAC = child_log_probs(backbone.step(tokens, cache), children)
            total_BP[:, begin : begin + chunk] += _of_children(trie, log_probs_BAC, path_BPL, level, slot_BP)
            # Where one item is left, what follows has probability one.
            decided_BP = (trie.n_leaves[path_BPL[..., level]] == 1) | (asked_BP == PAD_ITEM)
            nodes_BA, slots_BP = distinct(path_BPL[..., level].masked_fill(decided_BP, NO_NODE))
            furthest = int(nodes_BA.max())
            if furthest == NO_NODE:
                break
            parents_BA = torch.zeros_like(nodes_BA).scatter_(1, slots_BP, slot_BP)
            cache.reorder(parents_BA)
            nodes_BA, slot_BP = nodes_BA.where(nodes_BA != NO_NODE, furthest), slots_BP  # any open node fills up
    return torch.empty_like(total_BP).scatter_(1, order_BP, total_BP).masked_fill(items_BP == PAD_ITEM, -torch.inf)


def _of_children(trie: TrieTensors, log_probs_BAC: Tensor, path_BPL: Tensor, level: int, slot_BP: Tensor) -> Tensor:
    """Log-probability [B, P] of each item's code at ``level``, given where its prefix stands among the A."""
    parents_BP = path_BPL[..., level - 1] if level else torch.zeros_like(slot_BP)
    begin_BP = trie.first_child[parents_BP]
    cell_BP = slot_BP * log_probs_BAC.shape[2] + path_BPL[..., level] - begin_BP
    only_child = trie.first_child[parents_BP + 1] - begin_BP == 1
    return log_probs_BAC.flatten(1).gather(1, cell_BP).masked_fill(only_child, 0.0)


def _teacher_forced(
    backbone: Backbone,
    trie: TrieTensors,
    memories: Sequence[Memory],
    items_BP: Tensor,
    visible_BP: Tensor | None,
) -> Tensor:
    """Log-probability [B, P] of each item, all of its codes in one pass; gradients flow."""
    asked_BG, group_BP = (items_BP, None) if visible_BP is not None else _by_prefix(trie, items_BP)
    table = backbone.sid_table
    per_item = len(items_BP) * table.n_levels * (table.vocab_size + max(trie.max_children))
    chunk = max(1, LOGITS_AT_ONCE // per_item)
    parts = []
    for begin in range(0, asked_BG.shape[1], chunk):
        asked = asked_BG[:, begin : begin + chunk]
        visible = None if visible_BP is None else visible_BP[:, begin : begin + chunk]
        parts.append(_child_log_probs(backbone, trie, memories, asked, visible))
    if group_BP is None:
        group_BP = torch.arange(items_BP.shape[1], device=items_BP.device).expand_as(items_BP)
    path_BPL, total = trie.path[items_BP.clamp(min=0)], torch.zeros(items_BP.shape, device=items_BP.device)
    for level, parts_of_level in enumerate(zip(*parts, strict=True)):
        total = total + _of_children(trie, _joined(parts_of_level), path_BPL, level, group_BP)
    return total.masked_fill(items_BP == PAD_ITEM, -torch.inf)


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
