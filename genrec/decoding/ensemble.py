"""Recommending by a host of several tables: a beam search in each, and one list of them all.

Rules (``model.tasks.ensemble``):

* ``average``, the rule of MQL4GRec (arXiv 2504.05314; read in the release that GENPLUGIN's authors carry, MQL4Rec's
  ensemble script): an item's score in a list is its log-probability a code; an item in one list keeps it, an item in
  two gets their mean plus 1, so what both lists hold comes first. Here with any number of lists: mean plus (lists - 1).
  The result is no log-probability.
* ``mixture``: the mean of the tables' distributions over items, log(mean of p). The lists give the candidates, and each
  is scored in every table; with beams as wide as the catalog it is exact, and the scores are log-probabilities.
* ``first``: the first table's list, as if there were no other.

Shape letters: B batch, K list length, X candidates (all lists, one after the other), Y distinct ones of them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from genrec.decoding.scoring import score
from genrec.decoding.search import Ranked, evaluating, generate
from genrec.decoding.trie_tensors import distinct
from genrec.errors import SettingsError
from genrec.models.contracts import PAD_ITEM, Backbone, Batch, MultiTable


@torch.inference_mode()
def recommend(backbone: Backbone, batch: Batch, k: int, *, beams: int, exclude_BS: Tensor | None = None) -> Ranked:
    """The k items that a host recommends: of ``generate``, or of the ensemble where it speaks several tables.

    Arguments and errors as of :func:`genrec.decoding.generate`.
    """
    if isinstance(backbone, MultiTable) and backbone.ensemble != "first":
        return generate_ensemble(backbone, batch, k, beams=beams, exclude_BS=exclude_BS)
    return generate(backbone, batch, k, beams=beams, exclude_BS=exclude_BS)


@torch.inference_mode()
def generate_ensemble(
    backbone: Backbone, batch: Batch, k: int, *, beams: int, exclude_BS: Tensor | None = None
) -> Ranked:
    """The k best items of each history over all tables of a host, as far as beams of this width find them.

    Args:
        backbone: a host that is a :class:`~genrec.models.contracts.MultiTable`; dropout is off while it decodes.
        batch: histories.
        k: length of the lists.
        beams: beam width in each table, at least k.
        exclude_BS: int64 [B, S] items that must not be listed, padded with PAD_ITEM.

    Raises:
        SettingsError: fewer beams than k.
    """
    assert isinstance(backbone, MultiTable)
    if not 1 <= k <= beams:
        raise SettingsError(f"beams: {beams} beams cannot fill a list of {k}; use at least as many beams as items")
    with evaluating(backbone):
        members = backbone.members()
        lists = [generate(member, batch, beams, beams=beams, exclude_BS=exclude_BS) for member in members]
        if backbone.ensemble == "average":
            lengths = [member.sid_table.n_levels for member in members]
            items_BY, scores_BY = averaged(lists, lengths)
        else:
            items_BY = distinct(torch.cat([ranked.items_BK for ranked in lists], dim=1))[0]
            each = torch.stack([score(member, batch, items_BY) for member in members])
            scores_BY = each.logsumexp(dim=0) - math.log(len(members))
    scores_BY = scores_BY.masked_fill(items_BY == PAD_ITEM, -torch.inf)
    best = scores_BY.topk(min(k, scores_BY.shape[1]), dim=1)
    missing = (0, k - best.indices.shape[1])
    return Ranked(
        functional.pad(items_BY.gather(1, best.indices), missing, value=PAD_ITEM),
        functional.pad(best.values, missing, value=-torch.inf),
    )


def averaged(lists: Sequence[Ranked], lengths: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Distinct items [B, Y] of all lists (padded with PAD_ITEM), and their scores by the rule ``average``.

    Args:
        lists: of the same histories, each item once a list.
        lengths: codes of an item in each list's table.
    """
    items_BY, place_BX = distinct(torch.cat([ranked.items_BK for ranked in lists], dim=1))
    scores = [ranked.scores_BK / length for ranked, length in zip(lists, lengths, strict=True)]
    scores_BX = torch.cat(scores, dim=1)
    there_BX = scores_BX.isfinite()
    total_BY = torch.zeros(items_BY.shape, device=items_BY.device)
    total_BY = total_BY.scatter_add(1, place_BX, scores_BX.masked_fill(~there_BX, 0.0))
    count_BY = torch.zeros_like(total_BY).scatter_add(1, place_BX, there_BX.to(total_BY.dtype))
    return items_BY, total_BY / count_BY.clamp(min=1) + count_BY - 1
