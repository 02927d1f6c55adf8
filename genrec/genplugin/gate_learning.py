"""Learning the gate of the whole system: votes and log-probabilities of validation targets, maximum likelihood, lists.

Shape letters: B users, S sources, M items of a source, X candidates, E excluded items, C parts of the mixture, K items
of a list.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch

from genrec.config import Settings
from genrec.data.interactions import Interactions
from genrec.data.windows import padded_histories
from genrec.decoding import generate, score
from genrec.decoding.search import Ranked
from genrec.genplugin.augmented import GENERATOR, AugmentedGenerator
from genrec.genplugin.gate import CUTOFF, Votes, fit_gate, lower_share
from genrec.models.contracts import Backbone, Batch


def learn_gate(
    augmented: AugmentedGenerator, backbone: Backbone, interactions: Interactions, settings: Settings
) -> dict[str, Any]:
    """Learn the gate on validation targets, in place.

    Args:
        augmented: of :func:`assemble`.
        backbone: the host, in evaluation mode.
        interactions: the data set.
        settings: plugin.gate, data.max_history, evaluation's batch size, beams and seen-item policy, run.seed.

    Returns:
        Nats a target before and after, NDCG of lists by how much g is lowered, mean mass of the pool, weights,
        exponents, and how often each source names the target.
    """
    wanted, seed = settings.plugin.gate, settings.run.seed
    users = interactions.users_with("valid")
    if wanted.users is not None and len(users) > wanted.users:
        users = np.sort(np.random.default_rng(seed).choice(users, wanted.users, replace=False))
    targets_B = torch.from_numpy(interactions.targets("valid")[users].astype(np.int64))
    parts, generated, listed, others = [], [], [], []
    size = settings.evaluation.batch_size
    every = max(1, len(users) // max(1, wanted.list_users))  # of so many batches one is listed, too
    device = backbone.token_embedding.weight.device
    for begin in range(0, len(users), size):
        rows = users[begin : begin + size]
        history_BT = padded_histories(interactions, rows, "valid", settings.data.max_history)
        batch = Batch(torch.from_numpy(history_BT), users_B=torch.from_numpy(rows)).to(device)
        exclude_BE = None
        if settings.evaluation.seen_items == "exclude":
            exclude_BE = torch.from_numpy(padded_histories(interactions, rows, "valid", None)).to(device)
        batch, said = augmented.look_up(backbone, batch, exclude_BE)
        assert said is not None
        parts.append(replace(said, memories=None))  # those of all users would fill the memory
        asked_B1 = targets_B[begin : begin + size, None].to(device)
        with torch.no_grad():
            generated.append(score(backbone, batch, asked_B1, memories=said.memories)[:, 0].float())
        if wanted.list_users and begin // size % every == 0:
            listed.append(torch.arange(begin, begin + len(rows), device=device))
            others.append(_unnamed(backbone, batch, said, exclude_BE, settings.evaluation.beams))
    votes = Votes.joined(parts)
    targets_B, gate = targets_B.to(device), augmented.gate
    assert gate is not None
    gate.requires_grad_(True)
    # So that the many targets of few popular items do not decide alone: inverse propensities, tempered.
    counts_B = torch.from_numpy(interactions.train_counts)[targets_B.cpu()].to(device)
    weights_B = (1 + counts_B.float()) ** -wanted.balance
    nats = fit_gate(gate, votes, torch.cat(generated), targets_B, weights_B=weights_B, steps=wanted.steps, seed=seed)
    gate.requires_grad_(False)
    lists: dict[float, float] = {}
    if listed:
        index_B = torch.cat(listed)
        best = Ranked(torch.cat([each.items_BK for each in others]), torch.cat([each.scores_BK for each in others]))
        lists = lower_share(gate, votes.rows(index_B), best, targets_B[index_B])
    named_BXS = (votes.weights_BXS > 0) & (votes.items_BX == targets_B[:, None])[..., None]
    told = {
        "weights": dict(zip(gate.sources, gate.weight.tolist(), strict=True)),
        "powers": dict(zip(gate.sources, gate.log_power.exp().tolist(), strict=True)),
        "names_target": dict(zip(gate.sources, named_BXS.any(dim=1).float().mean(dim=0).tolist(), strict=True)),
    }
    told["weights"][GENERATOR] = gate.generator_power.item()
    pool = gate(votes)[1].exp().sum(dim=1).mean().item()
    gates = {GENERATOR: 1 - pool, "pool": pool}
    told["lists"] = {f"{shift:g}": value for shift, value in lists.items()}
    return {"sources": list(gate.sources), "users": len(users), "nats": nats, "mean_gates": gates, **told}


def _unnamed(backbone: Backbone, batch: Batch, said: Votes, exclude_BE: torch.Tensor | None, beams: int) -> Ranked:
    """What the generator likes best of what no source names: [B, K] items."""
    apart = [said.items_BX] if exclude_BE is None else [said.items_BX, exclude_BE]
    width = max(beams, CUTOFF)
    return generate(backbone, batch, CUTOFF, beams=width, exclude_BS=torch.cat(apart, dim=1), memories=said.memories)
