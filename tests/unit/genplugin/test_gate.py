"""The learnt gate: a proper distribution, silent sources, and learning which source to trust."""

import pytest
import torch

from genrec.genplugin.gate import SourceGate, Votes, fit_gate

USERS, SOURCES, M, N_ITEMS = 400, 2, 6, 40


def _votes(seed: int = 0) -> Votes:
    generator = torch.Generator().manual_seed(seed)
    items = torch.stack(
        [torch.stack([torch.randperm(N_ITEMS, generator=generator)[:M] for _ in range(SOURCES)]) for _ in range(USERS)]
    )
    weights = torch.rand(USERS, SOURCES, M, generator=generator)
    items[:20, 1] = -1
    weights[:20, 1] = 0
    items[20:40, 0, 3:] = -1
    weights[20:40, 0, 3:] = 0
    weights = weights / weights.sum(-1, keepdim=True).clamp(min=1e-9)
    return Votes(items, weights, torch.full((USERS,), 7))


def test_the_mixture_is_a_distribution_and_a_silent_source_gets_nothing() -> None:
    gate, votes = SourceGate(["a", "b"]), _votes()
    torch.nn.init.normal_(gate.linear.weight)
    log_gates, _ = gate(votes)
    torch.testing.assert_close(log_gates.exp().sum(1), torch.ones(USERS))
    assert (log_gates[:20, 2] == -torch.inf).all()
    uniform = torch.full((USERS,), 1 / N_ITEMS).log()
    everything = torch.stack(
        [gate.log_likelihood(votes, uniform, torch.full((USERS,), item)) for item in range(N_ITEMS)], dim=1
    )
    torch.testing.assert_close(everything.exp().sum(1), torch.ones(USERS))


def test_it_learns_which_source_to_trust() -> None:
    votes = _votes()
    uniform = torch.full((USERS,), 1 / N_ITEMS).log()
    targets = votes.items_BSM[:, 0, 0].clone()
    unlucky = torch.rand(USERS, generator=torch.Generator().manual_seed(3)) < 0.3
    targets[unlucky] = torch.randint(0, N_ITEMS, (int(unlucky.sum()),))
    gate = SourceGate(["good", "noise"])
    found = fit_gate(gate, votes, uniform, targets)
    assert found["learnt"] < found["equal"] < found["generator"]
    gates = gate(votes)[0].exp().mean(0)
    assert gates[1] > 0.5 > gates[2] + 0.3


def test_gradients_are_numbers_where_no_source_names_the_target() -> None:
    gate, votes = SourceGate(["a", "b"]), _votes()
    missing = torch.full((USERS,), N_ITEMS + 5)
    gate.log_likelihood(votes, torch.full((USERS,), -3.0), missing).mean().backward()
    assert all(torch.isfinite(p.grad).all() for p in gate.parameters())


@pytest.mark.parametrize("seed", [0, 1])
def test_fitting_is_repeatable(seed: int) -> None:
    uniform, votes = torch.full((USERS,), -3.0), _votes()
    fits = [fit_gate(SourceGate(["a", "b"]), votes, uniform, votes.items_BSM[:, 0, 0], steps=20, seed=seed)]
    fits.append(fit_gate(SourceGate(["a", "b"]), votes, uniform, votes.items_BSM[:, 0, 0], steps=20, seed=seed))
    assert fits[0] == fits[1]
