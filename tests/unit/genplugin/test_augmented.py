"""The host with neighbours on tiny real data: exact, honest about parts, and the same after save and load."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from genrec.config import Settings
from genrec.data.load import load_catalog, load_interactions
from genrec.data.prepare import prepare
from genrec.data.windows import padded_histories
from genrec.decoding import generate
from genrec.errors import ArtifactError
from genrec.genplugin.augmented import AugmentedGenerator, assemble, load_augmented
from genrec.genplugin.gate_learning import learn_gate
from genrec.models import build_backbone
from genrec.models.contracts import Batch
from genrec.tokenizer.sid_table import SidTable
from tests.serving import ITEMS, MODEL, learnt_neighbours, raw_data


class World:
    """Data, a host with fresh weights and what stands beside it."""

    def __init__(self, folder: Path, **retrieval: object) -> None:
        data = {"reader": "table", "path": str(raw_data(folder / "raw"))}
        self.settings = Settings.model_validate(
            {
                "data": data,
                "model": MODEL,
                "retrieval": {"vote_items": 12, **retrieval},
                "plugin": {"gate": {"steps": 60}},
            }
        )
        self.prepared = folder / "prepared"
        self.prepared.mkdir()
        prepare(self.settings.data, self.prepared, use_ray=False)
        self.data, self.texts = load_interactions(self.prepared), load_catalog(self.prepared).texts
        codes_NL = np.stack([np.arange(ITEMS) % 8, np.arange(ITEMS) // 8], axis=1).astype(np.int32)
        torch.manual_seed(0)
        self.host = build_backbone(self.settings.model, SidTable(codes_NL, (8, 8))).eval()
        self.folder = folder
        self.augmented: AugmentedGenerator = learnt_neighbours(folder, self.prepared, self.settings, self.host)

    def batch(self, users: np.ndarray) -> tuple[Batch, torch.Tensor]:
        history = torch.from_numpy(padded_histories(self.data, users, "test", 20))
        return Batch(history, users_B=torch.from_numpy(users)), history


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> World:
    return World(tmp_path_factory.mktemp("world"), vote_sources=["text", "collaborative", "item-knn"])


def test_score_is_a_distribution_and_a_full_beam_ranks_by_it(world):
    batch, seen = world.batch(np.arange(24))
    everything = torch.arange(ITEMS).expand(24, -1)
    with torch.no_grad():
        scored = world.augmented.score(world.host, batch, everything, exclude_BS=seen)
    torch.testing.assert_close(scored.exp().sum(1), torch.ones(24), atol=1e-4, rtol=0)
    ranked = world.augmented.generate(world.host, batch, ITEMS, beams=ITEMS, exclude_BS=seen)
    for row in range(24):
        listed = ranked.items_BK[row][ranked.items_BK[row] >= 0]
        allowed = sorted(set(range(ITEMS)) - set(seen[row].tolist()))
        assert sorted(listed.tolist()) == allowed
        torch.testing.assert_close(ranked.scores_BK[row, : len(listed)], scored[row, listed], atol=1e-4, rtol=1e-4)


def test_shares_of_an_item_add_up_to_its_probability(world):
    batch, seen = world.batch(np.arange(24))
    votes = world.augmented.votes(world.host, batch, seen)
    ranked = world.augmented.generate(world.host, batch, 10, beams=20, exclude_BS=seen, votes=votes)
    shares = world.augmented.shares(votes, ranked)
    assert shares.shape == (24, len(world.augmented.parts), 10)
    torch.testing.assert_close(shares.sum(1), ranked.scores_BK.exp(), atol=1e-5, rtol=1e-3)
    outside = votes.items_BX.masked_fill(votes.items_BX < 0, ITEMS)
    named = torch.zeros(24, ITEMS + 1, dtype=torch.bool).scatter_(1, outside, True)[:, :ITEMS]
    assert named.any()
    assert not named.all()
    assert (shares[:, 1:].sum(1)[~named.gather(1, ranked.items_BK)] == 0).all()
    for source in range(len(world.augmented.gate.sources)):
        named = torch.zeros(24, ITEMS + 1, dtype=torch.bool)
        named.scatter_(1, votes.items_BX.masked_fill(votes.items_BX < 0, ITEMS), votes.weights_BXS[..., source] > 0)
        assert (shares[:, source + 1][~named.gather(1, ranked.items_BK)] == 0).all()


def test_votes_name_nothing_excluded_and_users_are_not_their_own_neighbours(world):
    users = np.arange(40)
    batch, seen = world.batch(users)
    votes = world.augmented.votes(world.host, batch, seen)
    for row in range(40):
        assert not set(votes.items_BX[row].tolist()) & (set(seen[row].tolist()) - {-1})
    # Asked as a stranger with the same history, the user's own training part is the nearest of all.
    found = world.augmented.retriever.retrieve(batch.history_BT.numpy(), users, world.augmented.encoders)
    assert not (found.paths["text"].users_BZ == users[:, None]).any()
    assert not (found.paths["collaborative"].users_BZ == users[:, None]).any()


def test_a_history_is_encoded_once_for_votes_and_list(world, monkeypatch):
    batch, seen = world.batch(np.arange(24))
    votes = world.augmented.votes(world.host, batch, seen)
    apart = world.augmented.generate(
        world.host, batch, 10, beams=20, exclude_BS=seen, votes=replace(votes, memories=None)
    )
    encoded, encode = [], world.host.encode
    monkeypatch.setattr(world.host, "encode", lambda asked: encoded.append(asked) or encode(asked))
    whole = world.augmented.generate(world.host, batch, 10, beams=20, exclude_BS=seen)
    assert len(encoded) == 1
    assert torch.equal(whole.items_BK, apart.items_BK)
    assert torch.equal(whole.scores_BK, apart.scores_BK)


def test_neighbours_lift_an_untrained_host(world):
    """Users keep to one genre: whoever looks at like users finds it, fresh weights do not."""
    users = world.data.users_with("test")
    batch, seen = world.batch(users)
    targets = torch.from_numpy(world.data.targets("test")[users].astype(np.int64))[:, None]
    alone = generate(world.host, batch, 10, beams=20, exclude_BS=seen)
    whole = world.augmented.generate(world.host, batch, 10, beams=20, exclude_BS=seen)
    hits = [(ranked.items_BK == targets).any(1).float().mean().item() for ranked in (alone, whole)]
    assert hits[1] > 2 * hits[0]


def test_learning_is_told_and_lowers_the_nats(world):
    augmented = assemble(world.host, world.data, world.texts, world.settings, world.folder / "neighbours")
    told = learn_gate(augmented, world.host, world.data, world.settings)
    assert told["nats"]["learnt"] <= told["nats"]["begun"] < told["nats"]["generator"]
    assert sum(told["mean_gates"].values()) == pytest.approx(1, abs=1e-5)
    for name, value in augmented.gate.state_dict().items():
        assert torch.equal(value, world.augmented.gate.state_dict()[name]), "learnt twice, the same"


def test_loads_as_it_was_saved(world):
    loaded = load_augmented(world.host, world.data, world.texts, world.settings, world.folder / "neighbours")
    batch, seen = world.batch(np.arange(60))
    ours, theirs = (a.generate(world.host, batch, 10, beams=20, exclude_BS=seen) for a in (world.augmented, loaded))
    assert torch.equal(ours.items_BK, theirs.items_BK)
    assert torch.equal(ours.scores_BK, theirs.scores_BK)


def test_merged_neighbours_vote_by_the_hosts_representations(tmp_path):
    world = World(tmp_path, vote_sources=["neighbours"])
    assert set(world.augmented.user_vectors) == {"collaborative", "representation"}
    batch, seen = world.batch(np.arange(8))
    with torch.no_grad():
        scored = world.augmented.score(world.host, batch, torch.arange(ITEMS).expand(8, -1), exclude_BS=seen)
    torch.testing.assert_close(scored.exp().sum(1), torch.ones(8), atol=1e-4, rtol=0)


def test_sasrec_votes_with_its_probabilities(tmp_path):
    world = World(tmp_path, vote_sources=["sasrec", "item-knn"], vote_items=ITEMS)
    batch, seen = world.batch(np.arange(8))
    votes = world.augmented.votes(world.host, batch, seen)
    logits = world.augmented.retriever.scorers["sasrec"].scorer.score_histories(batch.history_BT.numpy())
    wanted = torch.from_numpy(logits).softmax(1)
    for row in range(8):
        allowed = sorted(set(range(ITEMS)) - set(seen[row].tolist()))
        assert votes.items_BX[row, : len(allowed)].tolist() == allowed
        given = votes.weights_BXS[row, : len(allowed), 0]
        torch.testing.assert_close(given, wanted[row, allowed] / wanted[row, allowed].sum(), rtol=1e-3, atol=1e-6)


def test_absent_or_damaged_parts_are_named(world, tmp_path):
    assert load_augmented(world.host, world.data, world.texts, world.settings, tmp_path) is None
    with pytest.raises(ArtifactError, match=r"sasrec\.safetensors: does not fit these settings"):
        assemble(world.host, world.data, world.texts, world.settings, tmp_path)
    (tmp_path / "user_vectors.safetensors").write_bytes(b"x" * 20)
    for name in ("sasrec.safetensors", "item_knn.safetensors"):
        (tmp_path / name).write_bytes((world.folder / "neighbours" / name).read_bytes())
    with pytest.raises(ArtifactError, match=r"user_vectors\.safetensors: not user vectors"):
        assemble(world.host, world.data, world.texts, world.settings, tmp_path)
