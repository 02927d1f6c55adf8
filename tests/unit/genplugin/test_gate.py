"""The learnt gate: a proper distribution, silent users, agreement, and learning which source to trust."""

import numpy as np
import pytest
import torch

from genrec.decoding.search import Ranked
from genrec.genplugin.gate import CUTOFF, SHIFTS, NeighbourGate, Votes, candidates, fit_gate, lower_share

USERS, SOURCES, M, N_ITEMS = 400, 2, 6, 40


def _lists(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Lists of two sources; nobody speaks of the first 20 users, one source of the next 20, and one says less."""
    generator = torch.Generator().manual_seed(seed)
    items = torch.stack(
        [torch.stack([torch.randperm(N_ITEMS, generator=generator)[:M] for _ in range(SOURCES)]) for _ in range(USERS)]
    )
    weights = torch.rand(USERS, SOURCES, M, generator=generator)
    items[:20], weights[:20] = -1, 0
    items[20:40, 1], weights[20:40, 1] = -1, 0
    items[40:60, 0, 3:], weights[40:60, 0, 3:] = -1, 0
    return items, weights / weights.sum(-1, keepdim=True).clamp(min=1e-9)


def _votes(generated_BN: torch.Tensor | None = None) -> Votes:
    items_BX, weights_BXS = candidates(*_lists())
    generated = torch.full((USERS, N_ITEMS), 1 / N_ITEMS).log() if generated_BN is None else generated_BN
    generated = generated.gather(1, items_BX.clamp(min=0)).masked_fill(items_BX < 0, -torch.inf)
    return Votes(items_BX, weights_BXS, generated, torch.full((USERS,), 7))


def test_candidates_are_the_union_with_the_weights_of_each_source() -> None:
    items_BSM, weights_BSM = _lists()
    items_BX, weights_BXS = candidates(items_BSM, weights_BSM)
    for user in range(USERS):
        wanted = {}
        for source in range(SOURCES):
            for item, weight in zip(items_BSM[user, source].tolist(), weights_BSM[user, source].tolist(), strict=True):
                if item >= 0:
                    wanted.setdefault(item, [0.0] * SOURCES)[source] = weight
        real = items_BX[user] >= 0
        assert items_BX[user][real].tolist() == sorted(wanted)
        np.testing.assert_allclose(
            weights_BXS[user][real].numpy(), [wanted[item] for item in sorted(wanted)] or np.zeros((0, SOURCES))
        )
        assert not weights_BXS[user][~real].any()


def test_the_mixture_is_a_distribution_and_silence_leaves_the_generator_alone() -> None:
    generated = torch.randn(USERS, N_ITEMS, generator=torch.Generator().manual_seed(1)).log_softmax(1)
    gate, votes = NeighbourGate(["a", "b"]), _votes(generated)
    torch.nn.init.normal_(gate.gate.weight)
    everything = torch.stack(
        [gate.log_likelihood(votes, generated[:, item], torch.full((USERS,), item)) for item in range(N_ITEMS)], dim=1
    )
    torch.testing.assert_close(everything.exp().sum(1), torch.ones(USERS))
    torch.testing.assert_close(everything[:20], generated[:20])


def test_the_pool_is_the_product_it_says() -> None:
    generated = torch.randn(USERS, N_ITEMS, generator=torch.Generator().manual_seed(1)).log_softmax(1)
    gate, votes = NeighbourGate(["a", "b"]), _votes(generated)
    with torch.no_grad():
        gate.weight.copy_(torch.tensor([1.5, 0.7]))
        gate.log_power.copy_(torch.tensor([0.3, 2.0]).log())
        log_scale, log_masses = gate(votes)
    user = 77
    items = votes.items_BX[user][votes.items_BX[user] >= 0]
    relative = (votes.weights_BXS[user] / votes.weights_BXS[user].max(0).values)[: len(items)].double().numpy()
    told = generated[user, items].double().numpy()
    product = np.exp(0.5 * told + 1.5 * relative[:, 0] ** 0.3 + 0.7 * relative[:, 1] ** 2)
    masses = log_masses[user, : len(items)].exp().numpy()
    np.testing.assert_allclose(masses, masses.sum() * product / product.sum(), rtol=1e-4)
    # The gate begins at one half; all others share their half as the generator would.
    np.testing.assert_allclose(masses.sum(), 0.5, rtol=1e-3)
    np.testing.assert_allclose(log_scale[user].exp().item() * (1 - np.exp(told).sum()), 0.5, rtol=1e-3)


def test_a_generator_of_candidates_alone_leaves_all_to_the_pool() -> None:
    votes = _votes()
    there = votes.items_BX >= 0
    only = torch.where(there, (1 / there.sum(1, keepdim=True).clamp(min=1)).log(), -torch.inf)
    gate = NeighbourGate(["a", "b"])
    _, log_masses = gate(Votes(votes.items_BX, votes.weights_BXS, only, votes.history_B))
    torch.testing.assert_close(log_masses[20:].exp().sum(1), torch.ones(USERS - 20), atol=5e-3, rtol=0)


def test_weights_of_targets_turn_the_gate() -> None:
    """Source a names one item and b another; three targets in four are a's, and b's weigh five times as much."""
    users, rest = 400, torch.Generator().manual_seed(0)
    pairs = torch.stack([torch.randperm(N_ITEMS, generator=rest)[:2].sort().values for _ in range(users)])
    items_BX, weights_BXS = candidates(pairs[:, :, None], torch.ones(users, 2, 1))
    uniform = torch.full((users,), 1 / N_ITEMS).log()
    votes = Votes(items_BX, weights_BXS, uniform[:, None].expand(-1, 2), torch.full((users,), 7))
    rare = torch.rand(users, generator=rest) < 0.25
    targets = torch.where(rare, pairs[:, 1], pairs[:, 0])
    told = []
    for weights in (None, torch.where(rare, 5.0, 1.0)):
        gate = NeighbourGate(["a", "b"])
        fit_gate(gate, votes, uniform, targets, weights_B=weights)
        told.append(gate(votes)[1].exp()[:, 1].mean().item())
    assert told[0] == pytest.approx(0.25, abs=0.06)
    assert told[1] == pytest.approx(0.62, abs=0.08)


def test_it_learns_which_source_to_trust() -> None:
    votes = _votes()
    votes = votes.rows(torch.arange(40, USERS))
    uniform = torch.full((USERS - 40,), 1 / N_ITEMS).log()
    targets = votes.items_BX.gather(1, votes.weights_BXS[..., 0].argmax(1, keepdim=True))[:, 0]
    unlucky = torch.rand(len(targets), generator=torch.Generator().manual_seed(3)) < 0.3
    targets[unlucky] = torch.randint(0, N_ITEMS, (int(unlucky.sum()),), generator=torch.Generator().manual_seed(4))
    gate = NeighbourGate(["good", "noise"])
    found = fit_gate(gate, votes, uniform, targets)
    assert found["learnt"] < found["begun"] < found["generator"]
    assert gate.weight[0] > 3 * gate.weight[1].abs()


def test_agreement_wins_over_one_sure_source() -> None:
    """Two sources give the target a middling weight each and another item, one that differs, a strong one."""
    users, rest = 200, torch.Generator().manual_seed(0)
    order = torch.stack([torch.randperm(N_ITEMS, generator=rest) for _ in range(users)])
    target, one, other = order[:, 0], order[:, 1], order[:, 2]
    items = torch.stack([torch.stack([target, one], 1), torch.stack([target, other], 1)], 1)
    weights = torch.tensor([0.4, 0.6]).expand(users, 2, 2)
    items_BX, weights_BXS = candidates(items, weights)
    uniform = torch.full((users,), 1 / N_ITEMS).log()
    votes = Votes(items_BX, weights_BXS, uniform[:, None].expand(-1, items_BX.shape[1]), torch.full((users,), 7))
    gate = NeighbourGate(["a", "b"])
    fit_gate(gate, votes, uniform, target)
    assert torch.equal(votes.items_BX.gather(1, gate(votes)[1].argmax(1, keepdim=True))[:, 0], target)


def test_without_the_generator_sources_alone_order_the_candidates() -> None:
    generator = torch.Generator().manual_seed(6)
    generated = torch.randn(USERS, N_ITEMS, generator=generator).mul(3).log_softmax(1)
    targets = generated.argmax(1)  # what the generator would be trusted for
    told = generated.amax(1)
    heard, unheard = NeighbourGate(["a", "b"]), NeighbourGate(["a", "b"], generator=False)
    for gate in (heard, unheard):
        fit_gate(gate, _votes(generated), told, targets)
    assert heard.generator_power > 0.5
    assert unheard.generator_power == 0
    uniform = _votes(torch.full((USERS, N_ITEMS), 1 / N_ITEMS).log())
    masses, alike = (unheard(votes)[1].log_softmax(1).nan_to_num() for votes in (_votes(generated), uniform))
    torch.testing.assert_close(masses, alike)
    again = NeighbourGate(["a", "b"], generator=False)
    again.load_state_dict(unheard.state_dict())
    assert torch.equal(again.weight, unheard.weight)


def test_gradients_are_numbers_where_no_source_names_the_target() -> None:
    gate, votes = NeighbourGate(["a", "b"]), _votes()
    missing = torch.full((USERS,), N_ITEMS + 5)
    gate.log_likelihood(votes, torch.full((USERS,), -3.0), missing).mean().backward()
    assert all(torch.isfinite(p.grad).all() for p in gate.parameters())


def test_joined_parts_say_what_the_whole_says() -> None:
    gate, votes = NeighbourGate(["a", "b"]), _votes()
    narrow = Votes(
        votes.items_BX[:20, :1], votes.weights_BXS[:20, :1], votes.generated_BX[:20, :1], votes.history_B[:20]
    )
    joined = Votes.joined([narrow, votes.rows(torch.arange(20, USERS))])
    targets = torch.randint(0, N_ITEMS, (USERS,), generator=torch.Generator().manual_seed(4))
    uniform = torch.full((USERS,), -3.0)
    torch.testing.assert_close(
        gate.log_likelihood(joined, uniform, targets), gate.log_likelihood(votes, uniform, targets)
    )


def _held_nats_of_adam(gate: NeighbourGate, votes: Votes, generated: torch.Tensor, targets: torch.Tensor) -> float:
    """What 200 full-batch steps of Adam come to on the fifth of the users that ``fit_gate`` holds out."""
    order = torch.randperm(len(targets), generator=torch.Generator().manual_seed(0))
    parts = (order[: len(order) // 5], order[len(order) // 5 :])
    held, rest = ((votes.rows(part), generated[part], targets[part]) for part in parts)
    optimizer, best = torch.optim.Adam(gate.parameters(), lr=0.05), np.inf
    for _ in range(201):
        with torch.no_grad():
            best = min(best, -gate.log_likelihood(*held).mean().item())
        optimizer.zero_grad()
        (-gate.log_likelihood(*rest).mean()).backward()
        optimizer.step()
    return best


def test_it_learns_no_less_than_adam_does() -> None:
    """Targets come from a gate of other parameters, so that there is an optimum to find."""
    generator = torch.Generator().manual_seed(5)
    generated = torch.randn(USERS, N_ITEMS, generator=generator).mul(1.5).log_softmax(1)
    votes, truth = _votes(generated), NeighbourGate(["a", "b"])
    with torch.no_grad():
        truth.weight.copy_(torch.tensor([4.0, 0.5]))
        truth.generator_power.fill_(0.8)
        truth.gate.bias.fill_(-1.0)
        every = [truth.log_likelihood(votes, generated[:, i], torch.full((USERS,), i)) for i in range(N_ITEMS)]
    targets = torch.multinomial(torch.stack(every, dim=1).exp(), 1, generator=generator)[:, 0]
    told = generated.gather(1, targets[:, None])[:, 0]
    learnt = fit_gate(NeighbourGate(["a", "b"]), votes, told, targets)["learnt"]
    assert learnt <= _held_nats_of_adam(NeighbourGate(["a", "b"]), votes, told, targets) + 1e-3


@pytest.mark.parametrize("seed", [0, 1])
def test_fitting_is_repeatable(seed: int) -> None:
    uniform, votes = torch.full((USERS,), -3.0), _votes()
    targets = votes.items_BX[:, 0].clamp(min=0)
    fits = [fit_gate(NeighbourGate(["a", "b"]), votes, uniform, targets, steps=20, seed=seed) for _ in range(2)]
    assert fits[0] == fits[1]


def _others(votes: Votes, generated_BN: torch.Tensor) -> Ranked:
    """What the generator likes best of what is no candidate."""
    named_BN = torch.zeros(USERS, N_ITEMS + 1, dtype=torch.bool).scatter_(
        1, votes.items_BX.masked_fill(votes.items_BX < 0, N_ITEMS), True
    )[:, :N_ITEMS]
    best = generated_BN.masked_fill(named_BN, -torch.inf).topk(CUTOFF, dim=1)
    return Ranked(best.indices.masked_fill(best.values.isinf(), -1), best.values)


def _listed(gate: NeighbourGate, votes: Votes, generated_BN: torch.Tensor, targets_B: torch.Tensor) -> float:
    """NDCG of the lists, from the probability of every item."""
    scores_BN = torch.stack(
        [gate.log_likelihood(votes, generated_BN[:, item], torch.full((USERS,), item)) for item in range(N_ITEMS)], 1
    )
    before_B = (scores_BN > scores_BN.gather(1, targets_B[:, None])).sum(1)
    return torch.where(before_B < CUTOFF, 1 / torch.log2(before_B + 2.0), 0.0).mean().item()


def test_a_share_is_lowered_as_far_as_lists_gain() -> None:
    """The generator is sure of three items: rightly, or wrongly, and four targets in ten are the pool's first."""
    torch.manual_seed(0)
    sure_BN = torch.randn(USERS, N_ITEMS) / 10
    sure_BN[:, :3] += 5.0
    generated_BN = sure_BN.log_softmax(1)
    votes = _votes(generated_BN)
    first_B = votes.items_BX.gather(1, votes.weights_BXS.sum(-1).argmax(1, keepdim=True))[:, 0]
    anywhere = (torch.rand(USERS) < 0.6) | (first_B < 0)
    right = torch.randint(3, (USERS,))
    wrong = torch.where(anywhere, torch.randint(3, N_ITEMS, (USERS,)), first_B)
    shifts = {}
    for name, targets_B in (("right", right), ("wrong", wrong)):
        gate = NeighbourGate(["a", "b"])
        torch.nn.init.constant_(gate.gate.bias, 0.4)
        before = _listed(gate, votes, generated_BN, targets_B)
        found = lower_share(gate, votes, _others(votes, generated_BN), targets_B)
        assert list(found) == list(SHIFTS)
        assert found[0.0] == pytest.approx(before, abs=1e-6)
        assert max(found.values()) == pytest.approx(_listed(gate, votes, generated_BN, targets_B), abs=1e-6)
        shifts[name] = gate.gate.bias.item() - 0.4
    assert shifts["right"] == pytest.approx(0, abs=1e-6)
    assert shifts["wrong"] < -1
