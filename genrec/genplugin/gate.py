"""The gate between the generator and what neighbours vote for.

    p(item) = g_0 * generator(item) + sum over sources s of g_s * votes_s(item) ** a_s / Z_s

The gates g of a user follow from how sure and how unlike each other the sources are; the exponents a_s sharpen
or flatten a source. Few parameters, learnt on validation targets by maximum likelihood: the sources are counted on
training interactions, so on training targets they would be judged by what they were made from.

Shape letters: B users, S sources, M items of a source, C = S + 1 parts of the mixture (the generator first).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from genrec.decoding import ItemMixture
from genrec.models.contracts import PAD_ITEM
from genrec.tokenizer.sid_table import SidTable

FEATURES_OF_A_SOURCE = 3


@dataclass(frozen=True)
class Votes:
    """What the sources say of each user.

    Attributes:
        items_BSM: int64, items voted for, PAD_ITEM for none.
        weights_BSM: float, their weights; they sum to 1 in a source that has any item.
        history_B: int64, length of each user's history.
    """

    items_BSM: Tensor
    weights_BSM: Tensor
    history_B: Tensor

    def rows(self, index: Tensor) -> Votes:
        """The votes of some users."""
        return Votes(self.items_BSM[index], self.weights_BSM[index], self.history_B[index])


class SourceGate(nn.Module):
    """Weights of the generator and of each source, for each user.

    Args:
        sources: names of the sources, in the order of the votes.
    """

    def __init__(self, sources: Sequence[str]) -> None:
        super().__init__()
        self.sources = tuple(sources)
        n_sources = len(self.sources)
        self.linear = nn.Linear(FEATURES_OF_A_SOURCE * n_sources + 1, n_sources + 1)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)
        self.log_power = nn.Parameter(torch.zeros(n_sources))

    def forward(self, votes: Votes) -> tuple[Tensor, Tensor]:
        """Log-gates [B, C] and log-masses [B, S, M] of the sources' items, each source summing to 1.

        A source without any item gets no weight.
        """
        there_BSM = (votes.items_BSM != PAD_ITEM) & (votes.weights_BSM > 0)
        log_weights = votes.weights_BSM.clamp(min=1e-12).log() * self.log_power.exp()[:, None]
        log_masses = log_weights.masked_fill(~there_BSM, -torch.inf)
        some_BS = there_BSM.any(dim=-1)
        log_masses = torch.where(some_BS[..., None], log_masses, 0.0).log_softmax(dim=-1)
        log_masses = log_masses.masked_fill(~there_BSM, -torch.inf)
        logits = self.linear(_features(votes, there_BSM))
        silent = functional.pad(~some_BS, (1, 0), value=False)
        return logits.masked_fill(silent, -torch.inf).log_softmax(dim=-1), log_masses

    def log_likelihood(self, votes: Votes, generated_B: Tensor, targets_B: Tensor) -> Tensor:
        """Log-probability [B] of the targets.

        Args:
            votes: of the same users.
            generated_B: the generator's log-probability of each target.
            targets_B: int64, item indices.
        """
        log_gates, log_masses = self(votes)
        named = votes.items_BSM == targets_B[:, None, None]
        log_named = log_masses.masked_fill(~named, -torch.inf).logsumexp(dim=-1)
        parts = torch.cat([generated_B[:, None], log_named], dim=1) + log_gates
        return parts.logsumexp(dim=1)

    def mixture(self, votes: Votes, sid_table: SidTable) -> ItemMixture:
        """The mixture for ``generate`` and ``score``."""
        log_gates, log_masses = self(votes)
        masses = (log_gates[:, 1:, None] + log_masses).exp()
        return ItemMixture.of(sid_table, log_gates[:, 0].exp(), votes.items_BSM.flatten(1), masses.flatten(1))


def _features(votes: Votes, there_BSM: Tensor) -> Tensor:
    """Float [B, 3 S + 1], each about 0 to 1: a source's largest weight, its entropy, its share of filled places."""
    weights = votes.weights_BSM * there_BSM
    places = torch.tensor(float(weights.shape[-1]), device=weights.device)
    entropy_BS = -(weights * weights.clamp(min=1e-12).log()).sum(dim=-1) / places.clamp(min=2).log()
    features = torch.stack([weights.amax(dim=-1), entropy_BS, there_BSM.float().mean(dim=-1)], dim=-1)
    length_B1 = torch.log1p(votes.history_B.float())[:, None] / 5
    return torch.cat([features.flatten(1), length_B1], dim=1)


def fit_gate(
    gate: SourceGate, votes: Votes, generated_B: Tensor, targets_B: Tensor, *, steps: int = 400, seed: int = 0
) -> dict[str, float]:
    """Learn the gate by maximum likelihood; a fifth of the users, drawn by ``seed``, says when to stop.

    Returns:
        Nats a target on that fifth: of the generator alone, at equal weights, and learnt.
    """
    order = torch.randperm(len(targets_B), generator=torch.Generator().manual_seed(seed)).to(targets_B.device)
    held, rest = order[: max(1, len(order) // 5)], order[max(1, len(order) // 5) :]
    optimizer = torch.optim.Adam(gate.parameters(), lr=0.05)
    best, kept = float("inf"), {name: value.clone() for name, value in gate.state_dict().items()}
    equal = 0.0
    for step in range(steps + 1):
        with torch.no_grad():
            value = -gate.log_likelihood(votes.rows(held), generated_B[held], targets_B[held]).mean().item()
        equal = value if step == 0 else equal
        if value < best:
            best, kept = value, {name: tensor.clone() for name, tensor in gate.state_dict().items()}
        optimizer.zero_grad()
        loss = -gate.log_likelihood(votes.rows(rest), generated_B[rest], targets_B[rest]).mean()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    gate.load_state_dict(kept)
    return {"generator": -generated_B[held].mean().item(), "equal": equal, "learnt": best}
