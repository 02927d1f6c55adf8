"""Trie-constrained beam search: ``generate``.

All beams of all rows advance together in a few tensor operations a level; nothing runs per beam or per row in
Python. Two things make it exact and cheap:

- Excluded items die inside the beam: a node all of whose items are excluded is never entered, so a list is
  full whenever enough other items exist. Probabilities are not changed by it.
- A beam whose node leads to one item only is finished, because its remaining codes have probability one. It keeps
  its place in the beam and costs no further decoder step.

Shape letters: B batch, K beams, A beams still open, C children, S excluded items, X candidates.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from genrec.decoding.mixture import ItemMixture
from genrec.decoding.trie_tensors import NO_NODE, TrieTensors, child_log_probs, contained
from genrec.errors import SettingsError
from genrec.models.contracts import PAD_ITEM, Backbone, Batch, Memory
from genrec.tokenizer.sid_table import PAD_TOKEN


@dataclass(frozen=True)
class Ranked:
    """Ranked items of each row.

    Attributes:
        items_BK: int64, best first; -1 where the catalog has no further item to give.
        scores_BK: float, log-probability of each item; -inf where there is none.
    """

    items_BK: Tensor
    scores_BK: Tensor


@dataclass
class _Beams:
    """The beams of all rows.

    Attributes:
        nodes_BK: trie node reached.
        generated_BK: log-probability of the codes so far under the generator.
        scores_BK: what beams are ranked by, the same or the mixture's; -inf: no beam.
        slots_BK: beam of the decoder cache that holds each beam's earlier codes.
    """

    nodes_BK: Tensor
    generated_BK: Tensor
    scores_BK: Tensor
    slots_BK: Tensor


@torch.inference_mode()
def generate(
    backbone: Backbone,
    batch: Batch,
    k: int,
    *,
    beams: int,
    exclude_BS: Tensor | None = None,
    memories: Sequence[Memory] | None = None,
    mixture: ItemMixture | None = None,
) -> Ranked:
    """The k most probable items of each history, as far as a beam of this width finds them.

    Args:
        backbone: the host; dropout is off while it decodes.
        batch: histories; ``batch.neighbours`` are attended to after the history.
        k: length of the lists.
        beams: beam width, at least k. As wide as the catalog: the exact ranking.
        exclude_BS: int64 [B, S] items that must not be listed, padded with PAD_ITEM, repeats allowed.
        memories: what to attend to in place of the encoded history and ``batch.neighbours``.
        mixture: item distributions to mix the generator with; the scores are then the mixture's.

    Raises:
        SettingsError: fewer beams than k.
    """
    if not 1 <= k <= beams:
        raise SettingsError(f"beams: {beams} beams cannot fill a list of {k}; use at least as many beams as items")
    trie = TrieTensors.of(backbone.sid_table, batch.history_BT.device)
    dead_LBS = None
    if exclude_BS is not None and exclude_BS.shape[1]:
        dead_LBS = trie.dead_nodes(exclude_BS)
    with evaluating(backbone):
        if memories is None:
            memories = [backbone.encode(batch), *batch.neighbours]
        cache = backbone.start(memories)
        root = torch.zeros(batch.size, 1, dtype=torch.int64, device=batch.history_BT.device)
        scores = torch.zeros(root.shape, device=root.device)
        if dead_LBS is not None:  # a dead node stands there once for each of its items
            scores[(dead_LBS[0] != NO_NODE).sum(dim=1) == backbone.sid_table.n_items] = -torch.inf
        state = _Beams(root, torch.zeros_like(scores), scores, root)
        for depth in range(backbone.sid_table.n_levels):
            active = _open_beams(state, trie)
            if active is None:
                break
            nodes = state.nodes_BK.gather(1, active)
            if depth:
                cache.reorder(state.slots_BK.gather(1, active))
            tokens = trie.token[nodes] if depth else torch.full_like(nodes, PAD_TOKEN)
            children = trie.children(nodes, depth)
            closed = ~children.valid_BKC | ~state.scores_BK.gather(1, active).isfinite()[..., None]
            if dead_LBS is not None:
                gone = contained(children.nodes_BKC.flatten(1), dead_LBS[depth])
                closed |= gone.view_as(closed)
            log_probs = child_log_probs(backbone.step(tokens, cache), children)
            generated = state.generated_BK.gather(1, active)[..., None] + log_probs
            scores = generated if mixture is None else mixture.log_probs(generated, children.nodes_BKC, trie)
            scores = scores.masked_fill(closed, -torch.inf)
            state = _best(state, active, children.nodes_BKC, generated, scores, beams)
    return _ranked(state, trie, k)


def _open_beams(state: _Beams, trie: TrieTensors) -> Tensor | None:
    """int64 [B, A]: the beams that need a further code, as many a row as the row with most; None: none."""
    is_open = (trie.n_leaves[state.nodes_BK] > 1) & state.scores_BK.isfinite()
    n_open = int(is_open.sum(dim=1).max())
    if n_open == 0:
        return None
    return is_open.byte().argsort(dim=1, descending=True, stable=True)[:, :n_open]


def _best(
    state: _Beams, active_BA: Tensor, nodes_BAC: Tensor, generated_BAC: Tensor, scores_BAC: Tensor, beams: int
) -> _Beams:
    """The best beams among the children of the active beams and the beams that stay where they are."""
    width = nodes_BAC.shape[2]
    staying = state.scores_BK.scatter(1, active_BA, -torch.inf)
    scores_BX = torch.cat([scores_BAC.flatten(1), staying], dim=1)
    nodes_BX = torch.cat([nodes_BAC.flatten(1), state.nodes_BK], dim=1)
    generated_BX = torch.cat([generated_BAC.flatten(1), state.generated_BK], dim=1)
    best = scores_BX.topk(min(beams, scores_BX.shape[1]), dim=1)
    # A beam that stays is finished and never decoded again: any slot will do.
    slots = (best.indices // width).clamp(max=active_BA.shape[1] - 1)
    places = best.indices
    return _Beams(nodes_BX.gather(1, places), generated_BX.gather(1, places), best.values, slots)


def _ranked(state: _Beams, trie: TrieTensors, k: int) -> Ranked:
    best = state.scores_BK.topk(min(k, state.scores_BK.shape[1]), dim=1)
    items = trie.leaf_item[trie.leaf_begin[state.nodes_BK.gather(1, best.indices)]]
    items = items.masked_fill(best.values.isinf(), PAD_ITEM)
    missing = (0, k - items.shape[1])
    return Ranked(
        functional.pad(items, missing, value=PAD_ITEM), functional.pad(best.values, missing, value=-torch.inf)
    )


@contextmanager
def evaluating(backbone: Backbone) -> Iterator[None]:
    """Dropout off, and afterwards as it was."""
    if not isinstance(backbone, torch.nn.Module) or not backbone.training:
        yield
        return
    backbone.eval()
    try:
        yield
    finally:
        backbone.train()
