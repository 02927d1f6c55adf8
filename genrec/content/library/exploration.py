"""Trying made items out under a budget, and retiring those that people do not like.

Nobody took a made item yet, so no model can know its worth: a fixed share of lists shows one of them at a fixed
position, drawn evenly from those that fit; who had one made sees it there in any case. The probability of what was
shown there is logged with the list, so what is learnt from it can be weighed (inverse propensity). The draw hangs on
the list's id alone. After a fixed number of lists that people reacted to, an item is retired or ranked like any other.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
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


@dataclass(frozen=True)
class Reactions:
    """What people did with a made item.

    Attributes:
        impressions: lists that showed it and on which somebody did something.
        likes: lists on which it was liked, clicked or consumed.
        reports: people who reported it.
    """

    impressions: int
    likes: int
    reports: int = 0


def explore(
    ranked: Sequence[Recommendation],
    candidates: Sequence[str],
    draw: str,
    settings: LibrarySettings,
    entry: Callable[[str], Recommendation],
    own: str | None = None,
) -> Explored:
    """Perhaps put a made item into a ranked list; the list keeps its length.

    Args:
        ranked: best first.
        candidates: ids of made items that may be tried with this user; those ranked already are left out.
        draw: id of the list; the draw follows from it.
        settings: share and position.
        entry: the entry of a made item, asked for the one that is tried.
        own: a made item that is shown in any case, for this user had it made.
    """
    there = {entry.item_id for entry in ranked}
    place = min(settings.explore_position, max(len(ranked), 1)) - 1
    fresh = sorted(set(candidates) - there)
    share = settings.explore_share if fresh else 0.0
    if own is not None and own not in there and ranked:
        return Explored(_put(ranked, entry(own), place), (1.0,) * len(ranked), own)
    if share == 0.0 or not ranked:
        return Explored(tuple(ranked), (1.0,) * len(ranked), None)
    # What stands at the position and after it is pushed back by a try; before it the lists are equal.
    if _uniform(draw, "try") >= share:
        return Explored(tuple(ranked), (1.0,) * place + (1.0 - share,) * (len(ranked) - place), None)
    tried = fresh[int(_uniform(draw, "which") * len(fresh))]
    odds = (1.0,) * place + (share / len(fresh),) + (share,) * (len(ranked) - place - 1)
    return Explored(_put(ranked, entry(tried), place), odds, tried)


def _put(ranked: Sequence[Recommendation], entry: Recommendation, place: int) -> tuple[Recommendation, ...]:
    return (*ranked[:place], entry, *ranked[place : len(ranked) - 1])


def _uniform(draw: str, what: str) -> float:
    """In [0, 1), the same for the same list."""
    return int.from_bytes(hashlib.sha256(f"{what}:{draw}".encode()).digest()[:8]) / 2**64


def upper_like_rate(impressions: int, likes: int, confidence: float) -> float:
    """One-sided upper bound (Clopper and Pearson) of the like rate; 1 without impressions."""
    if likes >= impressions:
        return 1.0
    return float(beta.ppf(confidence, likes + 1, impressions - likes))


def to_retire(counts: Mapping[str, Reactions], settings: LibrarySettings) -> dict[str, str]:
    """Assets that were reported, or that even in the best case are liked too seldom, with the reason.

    Args:
        counts: reactions by asset id.
        settings: when an asset is judged, and the floor.
    """
    found = {}
    for asset_id, told in sorted(counts.items()):
        if told.reports >= settings.retire_reports:
            found[asset_id] = f"reported by {told.reports} people"
            continue
        if told.impressions < settings.retire_impressions:
            continue
        bound = upper_like_rate(told.impressions, told.likes, settings.retire_confidence)
        if bound < settings.retire_floor:
            rate = f"liked {told.likes} of {told.impressions} times"
            found[asset_id] = f"{rate}, at best {bound:.4f} < {settings.retire_floor}"
    return found


def to_prove(counts: Mapping[str, Reactions], settings: LibrarySettings) -> list[str]:
    """Assets whose trial is over: judged often enough, and likely liked often enough."""
    retired = to_retire(counts, settings)
    return [
        asset_id
        for asset_id, told in sorted(counts.items())
        if asset_id not in retired
        and told.impressions >= settings.retire_impressions
        and told.likes >= settings.retire_floor * told.impressions
    ]
