"""Learning the gate of the whole system: votes and log-probabilities of validation targets, then maximum likelihood.

Shape letters: B users, S sources, M items of a source, E excluded items, C parts of the mixture.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch

from genrec.config import Settings
from genrec.data.interactions import Interactions
from genrec.data.windows import padded_histories
from genrec.decoding import score
from genrec.genplugin.augmented import GENERATOR, AugmentedGenerator
from genrec.genplugin.gate import Votes, fit_gate
from genrec.models.contracts import Backbone, Batch


def learn_gate(
    augmented: AugmentedGenerator, backbone: Backbone, interactions: Interactions, settings: Settings
) -> dict[str, Any]:
    """Learn the gate on validation targets, in place.

    Args:
        augmented: of :func:`assemble`.
        backbone: the host, in evaluation mode.
        interactions: the data set.
        settings: plugin.gate, data.max_history, evaluation's batch size and seen-item policy, run.seed.

    Returns:
        Nats a target before and after, mean mass of the pool, weights, exponents, and how often each source names the
        target.
    """
    wanted, seed = settings.plugin.gate, settings.run.seed
    users = interactions.users_with("valid")
    if wanted.users is not None and len(users) > wanted.users:
        users = np.sort(np.random.default_rng(seed).choice(users, wanted.users, replace=False))
    targets_B = torch.from_numpy(interactions.targets("valid")[users].astype(np.int64))
    parts, generated = [], []
    size = settings.evaluation.batch_size
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
    votes = Votes.joined(parts)
    targets_B, gate = targets_B.to(device), augmented.gate
    assert gate is not None
    gate.requires_grad_(True)
    # So that the many targets of few popular items do not decide alone: inverse propensities, tempered.
    counts_B = torch.from_numpy(interactions.train_counts)[targets_B.cpu()].to(device)
    weights_B = (1 + counts_B.float()) ** -wanted.balance
    nats = fit_gate(gate, votes, torch.cat(generated), targets_B, weights_B=weights_B, steps=wanted.steps, seed=seed)
    gate.requires_grad_(False)
    named_BXS = (votes.weights_BXS > 0) & (votes.items_BX == targets_B[:, None])[..., None]
    told = {
        "weights": dict(zip(gate.sources, gate.weight.tolist(), strict=True)),
        "powers": dict(zip(gate.sources, gate.log_power.exp().tolist(), strict=True)),
        "names_target": dict(zip(gate.sources, named_BXS.any(dim=1).float().mean(dim=0).tolist(), strict=True)),
    }
    told["weights"][GENERATOR] = gate.generator_power.item()
    pool = gate(votes)[1].exp().sum(dim=1).mean().item()
    gates = {GENERATOR: 1 - pool, "pool": pool}
    return {"sources": list(gate.sources), "users": len(users), "nats": nats, "mean_gates": gates, **told}
