"""Lists that vary: a stochastic re-ranking of the best candidates, whose propensities are known exactly.

Position after position an item is drawn from what is left of the candidates, with probability proportional to

    exp(((1 - d) * relevance - d * likeness to what is listed already) / temperature),    temperature = d / 4

(maximal marginal relevance, Carbonell & Goldstein 1998, drawn as in a Plackett-Luce model). Relevance is the
log-probability scaled to 0..1 over the candidates; likeness is the share of semantic-ID levels that two items have in
common from the first on, the largest over the items listed. ``d`` near 0 is almost the list as it was; ``d`` 0 is not
asked here. The probability of each draw, given the earlier ones, is returned: their product is the probability of the
list, which is what an off-policy estimate for lists needs (McInerney et al. 2020, "Counterfactual evaluation of slate
recommendations with sequential reward interactions").

Shape letters: C candidates, K list length, L code levels.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

COOLEST = 1e-3


def diversify(
    scores_C: NDArray[np.float64], codes_CL: NDArray[np.integer], k: int, diversity: float, seed: int
) -> tuple[list[int], list[float]]:
    """Draw a list.

    Args:
        scores_C: log-probabilities of the candidates, finite.
        codes_CL: their semantic IDs.
        k: length of the list.
        diversity: d, above 0 and at most 1.
        seed: the same seed draws the same list.

    Returns:
        places of the drawn among the candidates, in list order, and the probability of each draw given those before it.
    """
    assert 0 < diversity <= 1, diversity
    rng = np.random.default_rng(seed)
    span = float(np.ptp(scores_C)) if len(scores_C) else 0.0
    relevance_C = (scores_C - scores_C.min()) / span if span > 0 else np.ones(len(scores_C))
    likeness_C = np.zeros(len(scores_C))
    temperature = max(diversity / 4, COOLEST)
    left = np.ones(len(scores_C), dtype=bool)
    drawn: list[int] = []
    propensities: list[float] = []
    for _ in range(min(k, len(scores_C))):
        logits_C = ((1 - diversity) * relevance_C - diversity * likeness_C) / temperature
        logits_C = np.where(left, logits_C - logits_C[left].max(), -np.inf)
        weights_C = np.exp(logits_C)
        chance_C = weights_C / weights_C.sum()
        place = int(rng.choice(len(chance_C), p=chance_C))
        drawn.append(place)
        propensities.append(float(chance_C[place]))
        left[place] = False
        likeness_C = np.maximum(likeness_C, shared_levels(codes_CL, codes_CL[place]))
    return drawn, propensities


def shared_levels(codes_CL: NDArray[np.integer], codes_L: NDArray[np.integer]) -> NDArray[np.float64]:
    """Float [C]: share of the levels that each row has in common with ``codes_L`` from the first on."""
    return np.asarray(np.cumprod(codes_CL == codes_L, axis=1).mean(axis=1), dtype=np.float64)
