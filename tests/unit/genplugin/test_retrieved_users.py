"""Who is in a memory: neighbours of exactly that moment, never the user; another user's in the control arm."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from genrec.config import EvaluationSettings, RetrievalSettings, Settings, TrainingSettings
from genrec.data.load import load_catalog, load_interactions
from genrec.data.prepare import prepare
from genrec.errors import ArtifactError
from genrec.genplugin.augmented import assemble
from genrec.genplugin.memory import MemoryReader
from genrec.genplugin.users import OthersNeighbours, UserMemory
from genrec.models import build_backbone
from genrec.models.contracts import Batch
from genrec.retrieval.cache_table import CachedRows, RetrievalCache
from genrec.retrieval.cache_units import CacheInputs
from genrec.retrieval.cache_work import build_cache_local
from genrec.retrieval.documents import known_histories, training_histories
from genrec.retrieval.neighbours import Neighbours
from genrec.retrieval.representations import MeanPooledEncoder
from genrec.tokenizer.sid_table import SidTable
from genrec.training.batching import evaluation_batch, prefix_rows
from genrec.training.memory_task import CachedUsers, MemoryTask, latest_rows
from tests.serving import ITEMS, MODEL, raw_data

RETRIEVAL = {
    "paths": ["text"],
    "vote_sources": ["item-knn"],
    "neighbours": 8,
    "candidates": 12,
    "rerank": "representation",
}


class World:
    """Tiny prepared data, a host with fresh weights, and the cache of all its moments."""

    def __init__(self, folder: Path) -> None:
        self.settings = Settings.model_validate(
            {
                "data": {"reader": "table", "path": str(raw_data(folder / "raw"))},
                "model": MODEL,
                "retrieval": RETRIEVAL,
                "plugin": {"memory": {"finetune": True}},
            }
        )
        prepared = folder / "prepared"
        prepared.mkdir()
        prepare(self.settings.data, prepared, use_ray=False)
        self.data, self.texts = load_interactions(prepared), load_catalog(prepared).texts
        codes_NL = np.stack([np.arange(ITEMS) % 8, np.arange(ITEMS) // 8], axis=1).astype(np.int32)
        torch.manual_seed(0)
        self.host = build_backbone(self.settings.model, SidTable(codes_NL, (8, 8))).eval()
        without_votes = self.settings.retrieval.model_copy(update={"vote_sources": ()})
        encoders = {"representation": lambda: MeanPooledEncoder(self.host, 20)}
        inputs = CacheInputs(self.data, without_votes, self.texts, encoders)
        key = inputs.key(checkpoint="a", sid_version="b", data="c")
        build_cache_local(folder / "cache", inputs, key)
        self.cache = RetrievalCache.open(folder / "cache", key)

    def rows(self, split: str) -> CachedRows:
        return self.cache.rows(split)

    def task(self, train_positions: int | None = None) -> MemoryTask:
        memory = UserMemory(np.array(self.cache.representations()))
        training = TrainingSettings(strategy="single", batch_size=64)
        return MemoryTask(
            MemoryReader(self.host), CachedUsers(self.rows("train"), self.rows("valid"), memory), self.data, training,
            EvaluationSettings(), 0, 20, train_positions=train_positions,
        )  # fmt: skip


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> World:
    return World(tmp_path_factory.mktemp("world"))


def test_a_training_row_holds_the_neighbours_of_its_own_moment(world):
    """Each row against a search with what was known then, the user left out; the vectors are of training parts."""
    settings, task = world.settings, world.task()
    augmented = assemble(world.host, world.data, world.texts, settings, Path("nowhere"))
    vectors_UD = MeanPooledEncoder(world.host, 20)(
        training_histories(world.data, np.arange(world.data.n_users), settings.retrieval.max_history)
    )
    np.testing.assert_array_equal(np.array(world.cache.representations()), vectors_UD)
    seen = 0
    for part in task.batches(0, 0, 1):
        batch, (memory,) = part.batch, part.batch.neighbours
        for row in range(batch.size):
            user, target = int(batch.users_B[row]), int(batch.targets_BP[row, 0])
            sequence = world.data.sequence(user)[: world.data.train_end[user]]
            known = [int(item) for item in batch.history_BT[row] if item >= 0]
            moments = [
                p for p in range(1, len(sequence)) if list(sequence[:p][-20:]) == known and sequence[p] == target
            ]
            assert moments, "a row of a history and what came next"
            found = augmented.retriever.retrieve(
                np.array([known]), np.array([user]), augmented.encoders
            ).neighbours  # fmt: skip
            assert user not in found.users_BZ
            expected = vectors_UD[found.users_BZ[0][found.found_BZ[0]]]
            np.testing.assert_array_equal(memory.states_BTD[row][memory.mask_BT[row]].numpy(), expected)
            seen += 1
        if seen > 150:
            break


def test_the_same_memory_at_validation_and_when_asked_online(world):
    """Validation reads the cache, a request the Retriever: one memory."""
    users = world.data.users_with("valid")[:40]
    batch = evaluation_batch(world.data, users, "valid", 20)
    task = world.task()
    cached = task.users.extend(batch, world.data.valid_at[users].astype(np.int64), task.users.valid)
    augmented = assemble(world.host, world.data, world.texts, world.settings, Path("nowhere"))
    asked, votes = augmented.look_up(world.host, batch)
    assert votes is None
    assert augmented.parts == ("generator",)
    (ours,), (theirs,) = cached.neighbours, asked.neighbours
    assert torch.equal(ours.mask_BT, theirs.mask_BT)
    torch.testing.assert_close(ours.states_BTD, theirs.states_BTD, atol=1e-6, rtol=1e-5)


def test_only_the_latest_moments_are_trained_on(world):
    rows = prefix_rows(world.data, 20)
    for count in (1, 3):
        kept = latest_rows(world.data, rows, count)
        pairs = np.maximum(world.data.train_end - 1, 0)
        assert len(kept) == np.minimum(pairs, count).sum()
    assert latest_rows(world.data, rows, None) is rows
    task = world.task(train_positions=2)
    assert sum(part.batch.size for part in task.batches(0, 0, 1)) == np.minimum(pairs, 2).sum()


def test_workers_share_the_rows_of_one_process(world):
    task = world.task()
    whole = next(iter(task.batches(0, 0, 1))).batch
    parts = [next(iter(task.batches(0, rank, 2))).batch for rank in range(2)]
    for rank, part in enumerate(parts):
        assert torch.equal(part.users_B, whole.users_B[rank::2])
        assert torch.equal(part.neighbours[0].mask_BT, whole.neighbours[0].mask_BT[rank::2])


histories = st.lists(st.lists(st.integers(0, 50), min_size=0, max_size=6), min_size=1, max_size=8)


def padded(rows: list[list[int]], width: int) -> np.ndarray:
    return np.array([row + [-1] * (width - len(row)) for row in rows], dtype=np.int64)


@given(rows=histories, seed=st.integers(0, 5), extra=st.integers(0, 3))
def test_a_stand_in_is_another_user_whatever_the_batch(rows, seed, extra):
    """Never the user's own neighbours, never the user among them; alone or in a batch, padded or not, the same."""
    rng = np.random.default_rng(seed)
    owners = np.sort(rng.choice(30, 6, replace=False))
    others = OthersNeighbours(owners, rng.integers(-1, 30, (6, 4)))
    users = rng.integers(-1, 30, len(rows))
    found = others.instead_of(padded(rows, 6 + extra), users)
    for row, user in enumerate(users):
        alone = others.instead_of(padded(rows[row : row + 1], max(len(rows[row]), 1)), users[row : row + 1])
        np.testing.assert_array_equal(alone[0], found[row])
        assert user < 0 or user not in found[row]
        sources = [
            q for q in range(6) if all(f in (u, -1) for f, u in zip(found[row], others.users_QR[q], strict=True))
        ]
        assert any(owners[q] != user for q in sources)


def test_stand_ins_vary_with_the_moment_and_cover_the_users():
    others = OthersNeighbours(np.arange(50), np.arange(50)[:, None])
    histories_BT = np.random.default_rng(0).integers(0, 1000, (2000, 5))
    found = others.instead_of(histories_BT, np.full(2000, 7))[:, 0]
    counts = np.bincount(found[found >= 0], minlength=50)
    assert counts[7] == 0
    assert (np.delete(counts, 7) > 10).all(), "two thousand moments of a user meet everyone else"


def test_stand_ins_load_as_they_were_saved(tmp_path):
    others = OthersNeighbours(np.arange(4), np.arange(8).reshape(4, 2))
    others.save(tmp_path)
    loaded = OthersNeighbours.load(tmp_path)
    np.testing.assert_array_equal(loaded.users_QR, others.users_QR)
    with pytest.raises(ArtifactError, match="Run `finetune` again"):
        OthersNeighbours.load(tmp_path / "nowhere")


def test_the_control_differs_from_the_real_memory(world):
    users = np.arange(30)
    batch = evaluation_batch(world.data, users, "valid", 20)
    valid, vectors = world.rows("valid"), np.array(world.cache.representations())
    found = valid.take(valid.rows_of(users, world.data.valid_at[users].astype(np.int64))).neighbours
    others = OthersNeighbours(valid.users_B, valid.neighbours.users_BZ)
    real, shuffled = (
        UserMemory(vectors, stand_ins).of(found, batch.history_BT.numpy(), users) for stand_ins in (None, others)
    )
    assert real.kind == shuffled.kind == "users"
    assert (real.states_BTD != shuffled.states_BTD).flatten(1).any(dim=1).float().mean() > 0.9


def test_nobody_found_is_an_empty_memory(world):
    memory = UserMemory(np.array(world.cache.representations())).of(
        Neighbours.none(2, 5), np.zeros((2, 1), np.int64), np.array([-1, -1])
    )
    assert not memory.mask_BT.any()
    host = world.host
    batch = Batch(torch.zeros(2, 1, dtype=torch.int64))
    inputs = torch.zeros(2, 1, 1, dtype=torch.int64)
    with torch.no_grad():
        alone, beside = (host.decode(inputs, [host.encode(batch), *more]) for more in ([], [memory]))
    torch.testing.assert_close(alone, beside, atol=1e-5, rtol=1e-5)


def test_known_moments_end_before_the_target(world):
    users, positions = world.rows("train").users_B, world.rows("train").positions_B
    assert (positions < world.data.train_end[users]).all()
    histories_BT = known_histories(world.data, users[:50], positions[:50], 20)
    assert ((histories_BT >= 0).sum(axis=1) == np.minimum(positions[:50], 20)).all()
    assert RetrievalSettings().train_positions is None
