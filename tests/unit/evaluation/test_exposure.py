"""The exposure gauge on hosts whose behaviour is known: what it must say can be worked out by hand."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from genrec.config import EvaluationSettings, ModelSettings
from genrec.data.interactions import Interactions
from genrec.evaluation.exposure import SHARES, USER_METRICS, read_users, write_exposure, write_users
from genrec.evaluation.exposure_gauge import level_ranges, measure_exposure, near_codes
from genrec.evaluation.plots import exposure_curves
from genrec.models import build_backbone
from genrec.models.contracts import Memory
from genrec.tokenizer.sid_table import SidTable

ITEMS, USERS = 64, 200
SETTINGS = EvaluationSettings(batch_size=32, bootstrap_samples=200)


def table() -> SidTable:
    codes = np.stack(np.unravel_index(np.arange(ITEMS), (4, 4, 4)), axis=1).astype(np.int32)
    return SidTable(codes, (4, 4, 4))


def interactions() -> Interactions:
    items = np.random.default_rng(0).integers(0, ITEMS, (USERS, 4))
    ends = np.full(USERS, 2, dtype=np.int32)
    return Interactions(
        items=items.ravel().astype(np.int32), offsets=4 * np.arange(USERS + 1), train_end=ends, valid_at=ends,
        test_at=ends + 1, n_items=ITEMS, head_items=np.zeros(ITEMS, dtype=bool),
    )  # fmt: skip


class Copycat:
    """Knows the true code of each level if it has read the true codes before; misled by any other, and blind at first.

    The history's last item is the target here, so that a decoder can be right at all.
    """

    def __init__(self, blind: bool) -> None:
        self.sid_table, self.blind = table(), blind
        self.token_embedding = torch.nn.Embedding.from_pretrained(torch.eye(self.sid_table.vocab_size))
        self.d_model = self.sid_table.vocab_size

    def encode(self, batch) -> Memory:
        last_B = batch.history_BT.gather(1, (batch.history_BT >= 0).sum(1, keepdim=True) - 1)
        tokens_BL = torch.from_numpy(self.sid_table.tokens_NL)[last_B[:, 0]]
        return Memory(tokens_BL[..., None].float(), torch.ones_like(tokens_BL, dtype=torch.bool))

    def decode(self, inputs, memories, visible_BP=None):
        true_BL, S = memories[0].states_BTD[..., 0].long(), inputs.shape[2]
        logits = torch.zeros(len(true_BL), 1, S, self.sid_table.vocab_size)
        for s in range(S):
            believes = (inputs[:, 0, 1 : s + 1] == true_BL[:, :s]).all(dim=1)
            if s == 0 and self.blind:
                believes = torch.zeros_like(believes)
            # Whoever does not know says the level's last code.
            said = torch.where(believes, true_BL[:, s], torch.tensor(min(4 * (s + 1), self.sid_table.vocab_size - 1)))
            logits[:, 0, s].scatter_(1, said[:, None], 9.0)
        return logits


def copied() -> Interactions:
    """As above, but the test target is the last known item."""
    data = interactions()
    items = data.items.reshape(USERS, 4)
    items[:, 3] = items[:, 2]
    return data


def test_a_decoder_that_never_errs_has_no_gap():
    found = measure_exposure(Copycat(blind=False), copied(), "test", SETTINGS, max_history=3, model="copycat")
    assert [(p.position, p.teacher_forced, p.own_prefix, p.gap) for p in found.positions] == [
        (1, 1, 1, 0), (2, 1, 1, 0), (3, 1, 1, 0)
    ]  # fmt: skip
    assert (found.gap, found.low, found.high, found.users) == (0, 0, 0, USERS)


def test_a_wrong_first_code_costs_what_follows():
    """Blind at the first code, it says the last one: right for a quarter, lost for the others."""
    data = copied()
    found = measure_exposure(Copycat(blind=True), data, "test", SETTINGS, max_history=3, model="copycat")
    codes_UL = table().codes_NL[data.targets("test")]
    lucky = codes_UL[:, 0] == 3
    for s, position in enumerate(found.positions):
        assert position.teacher_forced == pytest.approx(lucky.mean() if s == 0 else 1)
        own = lucky | (codes_UL[:, s] == 3) if s else lucky
        assert position.own_prefix == pytest.approx(own.mean())
        assert position.low <= position.gap <= position.high
    later = [position.gap for position in found.positions[1:]]
    assert found.gap == pytest.approx(np.mean(later))
    assert found.gap > 0.3


def test_injected_errors_cost_as_much_as_they_hit():
    """A misled decoder says code 3: at share r, position 2 keeps 1 - r and position 3 its square, besides luck."""
    data = copied()
    found = measure_exposure(Copycat(blind=False), data, "test", SETTINGS, max_history=3, model="copycat")
    assert [point.share for point in found.curve] == [*SHARES, *SHARES]
    codes_UL = table().codes_NL[data.targets("test")]
    luck = (codes_UL[:, 1:] == 3).mean(axis=0)
    for point in found.curve:
        kept = np.array([1 - point.share, (1 - point.share) ** 2])
        assert point.accuracy == pytest.approx((kept + (1 - kept) * luck).mean(), abs=0.06)
    assert found.curve[0].accuracy == 1
    everything = next(p for p in found.curve if p.share == 1)
    assert everything.accuracy == pytest.approx(luck.mean())


def test_a_collision_level_counts_neither_in_the_gap_nor_in_the_curve():
    """Its codes are told apart by the prefix alone; the other positions are measured as without it."""
    codes_NL = np.concatenate([table().codes_NL, np.zeros((ITEMS, 1), np.int32)], axis=1)
    plain, host = Copycat(blind=True), Copycat(blind=True)
    host.sid_table = SidTable(codes_NL, (4, 4, 4, 2), collision_level=True)
    host.token_embedding = torch.nn.Embedding.from_pretrained(torch.eye(host.sid_table.vocab_size))
    with_it, without = (
        measure_exposure(h, copied(), "test", SETTINGS, max_history=3, model="copycat") for h in (host, plain)
    )
    told = [[(p.teacher_forced, p.own_prefix, p.gap) for p in found.positions] for found in (with_it, without)]
    assert told[0][:3] == told[1]
    assert len(with_it.positions) == 4
    assert (with_it.gap, with_it.low) == (pytest.approx(without.gap), pytest.approx(without.low))
    assert with_it.curve[0].accuracy == without.curve[0].accuracy


def test_near_codes_are_of_the_level_and_the_most_similar():
    embedding_VD = torch.randn(table().vocab_size, 6, generator=torch.Generator().manual_seed(0))
    ranges = level_ranges(table())
    near_V = near_codes(embedding_VD, ranges)
    for first, end in ranges:
        for token in range(first, end):
            others = [t for t in range(first, end) if t != token]
            cosines = torch.cosine_similarity(embedding_VD[token][None], embedding_VD[others])
            assert near_V[token].item() == others[int(cosines.argmax())]


def test_a_real_host_is_measured_alike_at_any_batch_size(tmp_path):
    torch.manual_seed(0)
    shape = ModelSettings(d_model=16, d_ff=32, heads=2, d_head=8, encoder_layers=1, decoder_layers=1)
    host, data = build_backbone(shape, table()).eval(), interactions()
    users = np.arange(50)
    first, second = (
        measure_exposure(
            host,
            data,
            "test",
            SETTINGS.model_copy(update={"batch_size": size}),
            max_history=3,
            model="tiger",
            users=users,
        )
        for size in (7, 50)
    )
    assert first.positions == second.positions
    # One row worked out with the trie by hand: the likeliest child of each true node.
    batch = SimpleNamespace(history_BT=torch.tensor([data.items[:3].tolist()]), neighbours=())
    target = int(data.targets("test")[0])
    labels = torch.from_numpy(table().tokens_NL)[target]
    with torch.no_grad():
        logits = host.decode(torch.tensor([[[0, *labels[:-1].tolist()]]]), [host.encode(batch)])[0, 0]
    right = [logits[s, 4 * s + 1 : 4 * s + 5].argmax().item() + 4 * s + 1 == labels[s].item() for s in range(3)]
    alone = measure_exposure(host, data, "test", SETTINGS, max_history=3, model="tiger", users=np.array([0]))
    assert [position.teacher_forced for position in alone.positions] == right
    write_exposure(tmp_path / "exposure.json", [first])
    told = json.loads((tmp_path / "exposure.json").read_text())
    assert told[0]["positions"][1]["gap"] == first.positions[1].gap
    assert "by_user" not in told[0]
    write_users(tmp_path / "exposure.parquet", [second])
    kept = read_users(tmp_path / "exposure.parquet")["tiger"]
    some = np.array([7, 3, 7])
    forced, own, gap = (kept.gains(some, metric) for metric in USER_METRICS)
    np.testing.assert_array_equal(gap, forced - own)
    for user, value in zip(some, gap, strict=True):
        single = measure_exposure(host, data, "test", SETTINGS, max_history=3, model="tiger", users=np.array([user]))
        assert value == pytest.approx(single.gap)
    assert kept.gains(np.sort(users), "exposure-gap").mean() == pytest.approx(second.gap)
    assert "tiger, own prefix" in exposure_curves([first])


def test_what_prepare_adds_is_attended_to():
    torch.manual_seed(0)
    shape = ModelSettings(d_model=16, d_ff=32, heads=2, d_head=8, encoder_layers=1, decoder_layers=1)
    host, data = build_backbone(shape, table()).eval(), interactions()

    def with_users(batch):
        states = 50 * torch.randn(batch.size, 4, 16, generator=torch.Generator().manual_seed(1))
        batch.neighbours = [Memory(states, torch.ones(batch.size, 4, dtype=torch.bool), "users")]
        return batch

    alone, helped = (
        measure_exposure(host, data, "test", SETTINGS, max_history=3, model="tiger", prepare=prepare)
        for prepare in (None, with_users)
    )
    assert alone.positions != helped.positions
