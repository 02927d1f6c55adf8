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
from genrec.decoding.trie_tensors import NO_NODE, Children, TrieTensors, child_log_probs, contained
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
        state = _Beams(root, scores, scores, root)
        for depth in range(backbone.sid_table.n_levels):
            active = _open_beams(state, trie) if depth else None
            if active is not None and active.shape[1] == 0:
                break
            nodes, generated = state.nodes_BK, state.generated_BK
            if active is not None:
                nodes, generated = nodes.gather(1, active), generated.gather(1, active)
            if depth:
                cache.reorder(state.slots_BK if active is None else state.slots_BK.gather(1, active))
            tokens = trie.token[nodes] if depth else torch.full_like(nodes, PAD_TOKEN)
            children = trie.children(nodes, depth)
            generated = generated[..., None] + child_log_probs(backbone.step(tokens, cache), children)
            scores = generated if mixture is None else mixture.log_probs(generated, children.nodes_BKC, trie)
            closed = _closed(state, active, children, dead_LBS, depth, ranked_by_itself=mixture is None)
            if closed is not None:
                scores = scores.masked_fill(closed, -torch.inf)
            state = _best(state, active, children.nodes_BKC, None if mixture is None else generated, scores, beams)
    return _ranked(state, trie, k)


def _open_beams(state: _Beams, trie: TrieTensors) -> Tensor | None:
    """int64 [B, A]: the beams that need a further code, as many a row as the row with most; None: all beams."""
    is_open = (trie.n_leaves[state.nodes_BK] > 1).logical_and_(state.scores_BK != -torch.inf)
    n_open = int(is_open.sum(dim=1).max())
    if n_open == is_open.shape[1]:
        return None
    return is_open.byte().argsort(dim=1, descending=True, stable=True)[:, :n_open]


def _closed(
    state: _Beams,
    active: Tensor | None,
    children: Children,
    dead_LBS: Tensor | None,
    depth: int,
    *,
    ranked_by_itself: bool,
) -> Tensor | None:
    """bool [B, A, C], the children that no beam may enter and whose score does not say so; None: there are none."""
    closed: Tensor | None = None
    if dead_LBS is not None:
        closed = contained(children.nodes_BKC.flatten(1), dead_LBS[depth]).view(children.nodes_BKC.shape)
    if ranked_by_itself:  # what is no child, or a child of no beam, has probability zero already
        return closed
    parents = state.scores_BK if active is None else state.scores_BK.gather(1, active)
    barred = (parents == -torch.inf)[..., None] | ~children.valid_BKC
    return barred if closed is None else closed | barred


def _best(
    state: _Beams,
    active: Tensor | None,
    nodes_BAC: Tensor,
    generated_BAC: Tensor | None,
    scores_BAC: Tensor,
    beams: int,
) -> _Beams:
    """The best beams among the children of the active beams and the beams that stay where they are.

    ``active`` is None where none stays, ``generated_BAC`` is None where it is what beams are ranked by.
    """
    width = nodes_BAC.shape[2]
    n_active = nodes_BAC.shape[1]
    scores_BX, nodes_BX = scores_BAC.flatten(1), nodes_BAC.flatten(1)
    generated_BX = None if generated_BAC is None else generated_BAC.flatten(1)
    if active is not None:
        staying = state.scores_BK.scatter(1, active, -torch.inf)
        scores_BX = torch.cat([scores_BX, staying], dim=1)
        nodes_BX = torch.cat([nodes_BX, state.nodes_BK], dim=1)
        if generated_BX is not None:
            generated_BX = torch.cat([generated_BX, state.generated_BK], dim=1)
    scores, places = scores_BX.topk(min(beams, scores_BX.shape[1]), dim=1)
    slots = places // width
    if active is not None:  # a beam that stays is finished and never decoded again: any slot will do
        slots.clamp_(max=n_active - 1)
    generated = scores if generated_BX is None else generated_BX.gather(1, places)
    return _Beams(nodes_BX.gather(1, places), generated, scores, slots)


def _ranked(state: _Beams, trie: TrieTensors, k: int) -> Ranked:
    """The first k beams, which are in order."""
    scores = state.scores_BK[:, :k]
    items = trie.leaf_item[trie.leaf_begin[state.nodes_BK[:, :k]]].masked_fill_(scores == -torch.inf, PAD_ITEM)
    if scores.shape[1] == k:
        return Ranked(items, scores)
    missing = (0, k - scores.shape[1])
    return Ranked(functional.pad(items, missing, value=PAD_ITEM), functional.pad(scores, missing, value=-torch.inf))


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
