"""The gate between the generator and what neighbours vote for.

    p(item) = (1 - g) * pool(item)                           of candidates, the items that any source names
    p(item) = g * generator(item) / generator(all others)    of all others
    pool(item) ~ generator(item) ** c * exp(sum over sources s of w_s * r_s(item) ** a_s)

r_s is a source's vote relative to its strongest, 0 where it does not name the item. The pool is a product of opinions
(a logarithmic opinion pool; Hinton 2002), the generator's among them: an item on which sources and generator agree
rises, where a sum of probabilities would follow the surest alone. What no source names is left to the generator, and g
is no more than the chance that the target is there: it does not bear on the order of the candidates. Prefixes stay
exact (genrec.decoding.mixture).

Few parameters, learnt on validation targets by maximum likelihood: the sources are counted on training
interactions, so on training targets they would be judged by what they were made from. Then g is lowered as far as lists
gain by it (:func:`lower_share`).

Shape letters: B users, S sources, M items of a source, X candidates, F features of a user.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from genrec.decoding import ItemMixture
from genrec.decoding.search import Ranked
from genrec.models.contracts import PAD_ITEM, Memory
from genrec.tokenizer.sid_table import SidTable

FEATURES_OF_A_SOURCE = 3
TINY, ROUNDING, LEAST = 1e-12, 1e-4, -50.0
"""Of a weight; of a sum of float32 probabilities; the least log-probability that an opinion is told from."""
ITERATIONS_A_LOOK, PATIENCE = 4, 4
"""Iterations of the optimizer between two looks at the held-out users, and looks without gain until it stops."""
GAIN = 1e-6
"""Nats a target that count as gain."""
SHIFTS = (0.0, -1.0, -2.0, -3.0, -4.0, -6.0, -9.0)
"""Log-odds by which g is lowered, as far as lists gain."""
CUTOFF = 10
"""Length of those lists."""


@dataclass(frozen=True)
class Votes:
    """What the sources say of each user, by candidate.

    Attributes:
        items_BX: int64, the items that any source names, each once in its row; PAD_ITEM fills up.
        weights_BXS: float, what each source gives them; a source's weights sum to 1, or to 0 if it is silent.
        generated_BX: float, log-probability of each under the generator; -inf at PAD_ITEM.
        history_B: int64, length of each user's history.
        memories: what the generator attended to, so that who decodes next need not encode the histories again.
    """

    items_BX: Tensor
    weights_BXS: Tensor
    generated_BX: Tensor
    history_B: Tensor
    memories: tuple[Memory, ...] | None = None

    def rows(self, index: Tensor) -> Votes:
        """The votes of some users, without memories."""
        return Votes(self.items_BX[index], self.weights_BXS[index], self.generated_BX[index], self.history_B[index])

    @classmethod
    def joined(cls, parts: Sequence[Votes]) -> Votes:
        """The votes of all parts' users, as wide as the widest part, without memories."""
        widest = max(part.items_BX.shape[1] for part in parts)
        missing = [widest - part.items_BX.shape[1] for part in parts]
        pairs = list(zip(parts, missing, strict=True))
        return cls(
            torch.cat([functional.pad(part.items_BX, (0, n), value=PAD_ITEM) for part, n in pairs]),
            torch.cat([functional.pad(part.weights_BXS, (0, 0, 0, n)) for part, n in pairs]),
            torch.cat([functional.pad(part.generated_BX, (0, n), value=-torch.inf) for part, n in pairs]),
            torch.cat([part.history_B for part in parts]),
        )


def candidates(items_BSM: Tensor, weights_BSM: Tensor) -> tuple[Tensor, Tensor]:
    """Turn lists of sources into items, each once, and what each source gives them.

    Args:
        items_BSM: int64, items that each source names, PAD_ITEM for none.
        weights_BSM: float, their weights.

    Returns:
        int64 [B, X] items in ascending order, padded right with PAD_ITEM (X >= 1), and float [B, X, S] weights.
    """
    n_users, n_sources, m = items_BSM.shape
    source_SM = torch.arange(n_sources, device=items_BSM.device)[:, None].expand(-1, m)
    items, order = items_BSM.flatten(1).sort(dim=1)
    real = items != PAD_ITEM
    first = functional.pad(items[:, 1:] != items[:, :-1], (1, 0), value=True) & real
    width = max(1, int(first.sum(dim=1).max()))
    place = torch.where(real, first.cumsum(dim=1) - 1, width)  # the place behind the last takes what is padding
    items_BX = items.new_full((n_users, width + 1), PAD_ITEM).scatter_(1, place, items)
    weights = weights_BSM.new_zeros(n_users, (width + 1) * n_sources)
    cell = place * n_sources + source_SM.flatten()[order]
    weights.scatter_(1, cell, weights_BSM.flatten(1).gather(1, order))
    return items_BX[:, :width], weights.view(n_users, width + 1, n_sources)[:, :width]


class NeighbourGate(nn.Module):
    """Weights of the generator and of each source.

    Args:
        sources: names of the sources, in the order of the votes.
        generator: whether the generator is heard among the candidates; if not, c is fixed at 0.
    """

    generator_power: Tensor

    def __init__(self, sources: Sequence[str], *, generator: bool = True) -> None:
        super().__init__()
        self.sources = tuple(sources)
        n_sources = len(self.sources)
        self.gate = nn.Linear(FEATURES_OF_A_SOURCE * n_sources + 1, 1)
        nn.init.zeros_(self.gate.weight)
        nn.init.zeros_(self.gate.bias)
        self.weight = nn.Parameter(torch.ones(n_sources))
        self.log_power = nn.Parameter(torch.full((n_sources,), 0.5).log())
        if generator:
            self.generator_power = nn.Parameter(torch.tensor(0.5))
        else:
            self.register_buffer("generator_power", torch.tensor(0.0))

    def forward(self, votes: Votes) -> tuple[Tensor, Tensor]:
        """Log-scale [B] of the generator where no source speaks, and log-masses [B, X] of the candidates.

        Both together are a distribution over all items. A user of whom no source says anything is left to the
        generator, and one whose every item is a candidate to the pool.
        """
        there_BX = votes.items_BX != PAD_ITEM
        logits_BX = self.opinions(votes).sum(dim=-1)
        silent_B1 = ~there_BX.any(dim=1, keepdim=True)
        log_pool_BX = logits_BX.masked_fill(~there_BX & ~silent_B1, -torch.inf).log_softmax(dim=1)
        left_B = (1 - votes.generated_BX.exp().sum(dim=1)).clamp(min=0)  # the generator's mass of all others
        logit_B = self.gate(_features(votes))[:, 0]
        log_gate_B = functional.logsigmoid(logit_B)
        # What rounding leaves of a generator that names candidates alone is not scaled up to g: the pool has it.
        log_left_B, log_filled_B = (left_B + ROUNDING).log(), math.log(ROUNDING) - (left_B + ROUNDING).log()
        log_pooled_B = torch.logaddexp(functional.logsigmoid(-logit_B), log_gate_B + log_filled_B)
        log_masses_BX = (log_pooled_B[:, None] + log_pool_BX).masked_fill(~there_BX, -torch.inf)
        return (log_gate_B - log_left_B).masked_fill(silent_B1[:, 0], 0.0), log_masses_BX

    def opinions(self, votes: Votes) -> Tensor:
        """Float [B, X, S + 1]: what the generator and each source add to the logit of a candidate.

        The generator's is told from the least that it gives any candidate of the row: 0 or more, as the sources'.
        """
        weights_BXS, there_BX = votes.weights_BXS, votes.items_BX != PAD_ITEM
        relative = weights_BXS / weights_BXS.amax(dim=1, keepdim=True).clamp(min=TINY)
        named = relative > 0
        powered = (relative.clamp(min=TINY).log() * self.log_power.exp()).exp()  # r ** a, with a gradient at 0
        sources_BXS = self.weight * powered.masked_fill(~named, 0.0)
        generated_BX = votes.generated_BX.clamp(min=LEAST)
        least_B1 = generated_BX.masked_fill(~there_BX, torch.inf).amin(dim=1, keepdim=True)
        generator_BX = self.generator_power * (generated_BX - least_B1).masked_fill(~there_BX, 0.0)
        return torch.cat([generator_BX[..., None], sources_BXS], dim=-1)

    def log_likelihood(self, votes: Votes, generated_B: Tensor, targets_B: Tensor) -> Tensor:
        """Log-probability [B] of the targets.

        Args:
            votes: of the same users.
            generated_B: the generator's log-probability of each target.
            targets_B: int64, item indices.
        """
        log_scale_B, log_masses_BX = self(votes)
        named_BX = votes.items_BX == targets_B[:, None]
        place_B1 = named_BX.byte().argmax(dim=1, keepdim=True)
        return torch.where(named_BX.any(dim=1), log_masses_BX.gather(1, place_B1)[:, 0], log_scale_B + generated_B)

    def mixture(self, votes: Votes, sid_table: SidTable) -> ItemMixture:
        """The mixture for ``generate`` and ``score``."""
        log_scale_B, log_masses_BX = self(votes)
        return ItemMixture.of(sid_table, log_scale_B, votes.items_BX, log_masses_BX.exp(), votes.generated_BX)


def _features(votes: Votes) -> Tensor:
    """Float [B, F], each about 0 to 1: of each source the largest weight, entropy and share of candidates named."""
    weights_BXS = votes.weights_BXS
    n_candidates_B1 = (votes.items_BX != PAD_ITEM).sum(dim=1, keepdim=True).clamp(min=2)
    entropy_BS = -(weights_BXS * weights_BXS.clamp(min=TINY).log()).sum(dim=1) / n_candidates_B1.log()
    named_BS = (weights_BXS > 0).sum(dim=1) / n_candidates_B1
    length_B1 = torch.log1p(votes.history_B.float())[:, None] / 5
    return torch.cat([weights_BXS.amax(dim=1), entropy_BS, named_BS, length_B1], dim=1)


def fit_gate(
    gate: NeighbourGate,
    votes: Votes,
    generated_B: Tensor,
    targets_B: Tensor,
    *,
    weights_B: Tensor | None = None,
    steps: int = 200,
    seed: int = 0,
) -> dict[str, float]:
    """Learn the gate by maximum likelihood; a fifth of the users, drawn by ``seed``, says when to stop.

    By L-BFGS on all other users at once: a dozen parameters and a smooth loss, so a few dozen iterations do.

    Args:
        gate: learnt in place.
        votes: of the users.
        generated_B: the generator's log-probability of each target.
        targets_B: int64, item indices.
        weights_B: float, what each target weighs in the likelihood; None: all the same.
        steps: most iterations.
        seed: of the fifth.

    Returns:
        Nats a target on that fifth, weighed like the loss: of the generator alone, as the gate begins, and learnt.
    """
    order = torch.randperm(len(targets_B), generator=torch.Generator().manual_seed(seed)).to(targets_B.device)
    cut = max(1, len(order) // 5)
    weights_B = torch.ones_like(generated_B) if weights_B is None else weights_B / weights_B.mean()
    held, rest = (
        (votes.rows(part), generated_B[part], targets_B[part], weights_B[part]) for part in (order[:cut], order[cut:])
    )
    optimizer = torch.optim.LBFGS(
        gate.parameters(), max_iter=ITERATIONS_A_LOOK, history_size=20, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = _nats(gate, *rest)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    def look() -> float:
        with torch.no_grad():
            return _nats(gate, *held).item()

    begun = best = look()
    kept, since = {name: value.clone() for name, value in gate.state_dict().items()}, 0
    for _ in range(-(-steps // ITERATIONS_A_LOOK)):
        optimizer.step(closure)  # type: ignore[no-untyped-call]
        value = look()
        since = 0 if value < best - GAIN else since + 1
        if value < best:
            best, kept = value, {name: tensor.clone() for name, tensor in gate.state_dict().items()}
        if since == PATIENCE or not math.isfinite(value):
            break
    gate.load_state_dict(kept)
    return {"generator": -(held[3] * held[1]).mean().item(), "begun": begun, "learnt": best}


@torch.no_grad()
def lower_share(gate: NeighbourGate, votes: Votes, others: Ranked, targets_B: Tensor) -> dict[float, float]:
    """Lower g, the share of what no source names, as far as the lists of these users gain by it.

    Likelihood makes g as large as targets are often named by nobody. But that mass is spread as the generator has it,
    and a generator that is surer of its favourites than it should be puts them before what the pool knows better.

    Args:
        gate: learnt; its bias is lowered in place.
        votes: of the users.
        others: the items that the generator alone likes best of those that no source names, ``CUTOFF`` of each user.
        targets_B: int64, item indices.

    Returns:
        Mean NDCG of the lists by shift of the log-odds; the best is taken, the smallest of equals.
    """
    bias, found = gate.gate.bias.clone(), {}
    items_BY = torch.cat([votes.items_BX, others.items_BK], dim=1)
    wanted_BY = items_BY == targets_B[:, None]
    for shift in SHIFTS:
        gate.gate.bias.copy_(bias + shift)
        log_scale_B, log_masses_BX = gate(votes)
        scores_BY = torch.cat([log_masses_BX, log_scale_B[:, None] + others.scores_BK], dim=1)
        target_B1 = scores_BY.masked_fill(~wanted_BY, -torch.inf).amax(dim=1, keepdim=True)
        before_B = (scores_BY > target_B1).sum(dim=1)
        listed_B = wanted_BY.any(dim=1) & (before_B < CUTOFF)
        found[shift] = torch.where(listed_B, 1 / torch.log2(before_B + 2.0), 0.0).mean().item()
    gate.gate.bias.copy_(bias + max(found, key=lambda shift: found[shift]))
    return found


def _nats(gate: NeighbourGate, votes: Votes, generated_B: Tensor, targets_B: Tensor, weights_B: Tensor) -> Tensor:
    """Mean weighed nats a target."""
    return -(weights_B * gate.log_likelihood(votes, generated_B, targets_B)).mean()
