"""Trying made items out under a budget, and retiring those that people do not like.

Nobody took a made item yet, so no model can know its worth: a fixed share of lists shows one of them at a fixed
position, drawn evenly from those that fit. The probability of what was shown there is logged with the list, so what
is learnt from it can be weighed (inverse propensity). The draw hangs on the request's id alone: the same request gives
the same list.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from scipy.stats import beta

from genrec.config.content import LibrarySettings
from genrec.recommendation import Recommendation


@dataclass(frozen=True)
class Explored:
    """A list that was perhaps changed.

    Attributes:
        entries: what is to be shown.
        propensities: probability with which the policy shows each entry where it stands, given what was ranked.
        tried: id of the asset that was put in; None: the list is as it was ranked.
    """

    entries: tuple[Recommendation, ...]
    propensities: tuple[float, ...]
    tried: str | None


def explore(
    ranked: Sequence[Recommendation],
    candidates: Sequence[Recommendation],
    request_id: str,
    settings: LibrarySettings,
) -> Explored:
    """Perhaps put a made item into a ranked list; the list keeps its length.

    Args:
        ranked: best first.
        candidates: made items that may be tried with this user, as entries; those ranked already are left out.
        request_id: of the list; the draw follows from it.
        settings: share and position.
    """
    there = {entry.item_id for entry in ranked}
    fresh = sorted((entry for entry in candidates if entry.item_id not in there), key=lambda entry: entry.item_id)
    share = settings.explore_share if fresh else 0.0
    place = min(settings.explore_position, max(len(ranked), 1)) - 1
    if share == 0.0 or not ranked:
        return Explored(tuple(ranked), (1.0,) * len(ranked), None)
    # What stands at the position and after it is pushed back by a try; before it the lists are equal.
    if _uniform(request_id, "try") >= share:
        return Explored(tuple(ranked), (1.0,) * place + (1.0 - share,) * (len(ranked) - place), None)
    tried = fresh[int(_uniform(request_id, "which") * len(fresh))]
    entries = (*ranked[:place], tried, *ranked[place : len(ranked) - 1])
    odds = (1.0,) * place + (share / len(fresh),) + (share,) * (len(ranked) - place - 1)
    return Explored(entries, odds, tried.item_id)


def _uniform(request_id: str, what: str) -> float:
    """In [0, 1), the same for the same request."""
    return int.from_bytes(hashlib.sha256(f"{what}:{request_id}".encode()).digest()[:8]) / 2**64


def upper_like_rate(impressions: int, likes: int, confidence: float) -> float:
    """One-sided upper bound (Clopper and Pearson) of the like rate; 1 without impressions."""
    if likes >= impressions:
        return 1.0
    return float(beta.ppf(confidence, likes + 1, impressions - likes))


def to_retire(counts: Mapping[str, tuple[int, int]], settings: LibrarySettings) -> dict[str, str]:
    """Assets that even in the best case are liked too seldom, with the reason.

    Args:
        counts: impressions and likes (clicks, purchases count as such) by asset id.
        settings: when an asset is judged, and the floor.
    """
    found = {}
    for asset_id, (impressions, likes) in sorted(counts.items()):
        if impressions < settings.retire_impressions:
            continue
        bound = upper_like_rate(impressions, likes, settings.retire_confidence)
        if bound < settings.retire_floor:
            found[asset_id] = f"liked {likes} of {impressions} times, at best {bound:.4f} < {settings.retire_floor}"
    return found
