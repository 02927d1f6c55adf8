"""Attending to retrieved users, shown on data where only neighbours know the answer.

A user takes a marker, then a target; any marker comes with any target, so that the history says nothing of the
target. Three users take each pair, and so a user's two twins know what comes next. Some pairs are held out: nobody
who took them is trained on. Whatever is learnt is learnt in a few hundred steps, by the one train loop.

Shape letters: genrec/models/contracts.py; R retrieved users, the first TWINS of a mixed memory the twins.
"""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch

from genrec.config import EvaluationSettings, ModelSettings, TrainingSettings
from genrec.data.interactions import Interactions
from genrec.decoding import generate, score
from genrec.genplugin.memory import GatedUsers, MemoryReader, encoder_parameters
from genrec.genplugin.users import UserMemory
from genrec.models import build_backbone
from genrec.models.attention import CrossAttention
from genrec.models.contracts import Batch
from genrec.retrieval.cache_table import CachedRows
from genrec.retrieval.neighbours import Neighbours
from genrec.retrieval.representations import MeanPooledEncoder
from genrec.tokenizer.sid_table import SidTable
from genrec.training.loop import fit
from genrec.training.memory_task import CachedUsers, MemoryTask
from genrec.training.strategies import SingleStrategy

MARKERS, ITEMS = 8, 32
COPIES, TWINS, STRANGERS = 3, 2, 4
HELD_OUT = 40
RECIPE = {"tiger": (220, 3e-3), "decoder-only": (360, 1e-2)}
"""Steps and learning rate; the decoder-only host is drawn with far smaller weights."""

PAIRS = np.array(list(itertools.product(range(MARKERS), range(MARKERS, ITEMS))))
PAIRS = np.random.default_rng(0).permutation(PAIRS)
OF_USER = np.repeat(np.arange(len(PAIRS)), COPIES)
"""Pair of each user; those of the last HELD_OUT pairs are in no training data."""


def shape(backbone: str, layers: int, **changes: object) -> ModelSettings:
    attention = "causal" if backbone == "decoder-only" else "bidirectional"
    return ModelSettings(
        backbone=backbone, d_model=32, d_ff=64, heads=4, d_head=16, encoder_layers=1, decoder_layers=layers,
        dropout=0.0, encoder_attention=attention, **changes,
    )  # fmt: skip


def host(settings: ModelSettings) -> torch.nn.Module:
    torch.manual_seed(0)
    codes = np.stack([np.arange(ITEMS) // 8, np.arange(ITEMS) % 8], axis=1).astype(np.int32)
    return build_backbone(settings, SidTable(codes, (4, 8)))


def interactions() -> Interactions:
    """The users of all pairs but the held-out ones; two arbitrary items follow each pair."""
    n_users = COPIES * (len(PAIRS) - HELD_OUT)
    after = np.random.default_rng(1).integers(0, ITEMS, (n_users, 2))
    ends = np.full(n_users, 2, dtype=np.int32)
    return Interactions(
        items=np.concatenate([PAIRS[OF_USER[:n_users]], after], axis=1).ravel().astype(np.int32),
        offsets=4 * np.arange(n_users + 1),
        train_end=ends,
        valid_at=ends,
        test_at=ends + 1,
        n_items=ITEMS,
        head_items=np.zeros(ITEMS, dtype=bool),
    )


def twins(users: np.ndarray) -> np.ndarray:
    """int64 [B, TWINS]: who took the same pair."""
    others = np.arange(COPIES)[None, :] + COPIES * OF_USER[users][:, None]
    return others[others != users[:, None]].reshape(len(users), TWINS)


def strangers(users: np.ndarray, seed: int = 0) -> np.ndarray:
    """int64 [B, STRANGERS]: who took neither the marker nor the target."""
    rng, pairs = np.random.default_rng(seed), PAIRS[OF_USER]
    apart = (pairs[users][:, None] != pairs[None]).all(-1)
    return np.stack([rng.choice(np.flatnonzero(row), STRANGERS, replace=False) for row in apart])


def neighbours(users_BR: np.ndarray) -> Neighbours:
    return Neighbours(users_BR.astype(np.int64), np.ones(users_BR.shape, dtype=np.float32))


class Taught:
    """A host whose decoder was fine-tuned, its encoder's weights as they were drawn."""

    def __init__(self, directory: Path, backbone: str, layers: int, gated: bool) -> None:
        model = shape(backbone, layers)
        bare = host(model)
        self.before = {name: value.clone() for name, value in bare.state_dict().items()}
        vectors_UD = MeanPooledEncoder(bare, 20)(PAIRS[OF_USER])
        self.memory = UserMemory(vectors_UD)
        torch.manual_seed(0)
        self.reader = MemoryReader(bare, GatedUsers(model) if gated else None)
        data = interactions()
        users = np.arange(data.n_users)
        met = neighbours(np.concatenate([twins(users), strangers(users)], axis=1))
        rows = [CachedRows(users, np.full(len(users), position), met, {}) for position in (1, 2)]
        steps, rate = RECIPE[backbone]
        training = TrainingSettings(
            strategy="single", batch_size=96, epochs=1000, max_steps=steps, validate_every=1000, validation_users=8,
            patience=None, learning_rate=rate, checkpoint_every=1000, tensorboard=False, schedule="constant",
        )  # fmt: skip
        cached = CachedUsers(rows[0], rows[1], self.memory)
        task = MemoryTask(self.reader, cached, data, training, EvaluationSettings(beams=10), 1, 20)
        fit(task, training, 1, directory, SingleStrategy(torch.device("cpu")))
        self.reader.eval()
        self.users = np.arange(COPIES * (len(PAIRS) - HELD_OUT), len(OF_USER), COPIES)
        self.targets_B1 = torch.from_numpy(PAIRS[OF_USER[self.users], 1:])

    def batch(self, users_BR: np.ndarray | None) -> Batch:
        """The markers of the held-out pairs, with these users in memory."""
        history_B1 = PAIRS[OF_USER[self.users], :1]
        memories = (
            [] if users_BR is None else [self.memory.of(neighbours(users_BR), history_B1, self.users)]
        )  # fmt: skip
        return Batch(torch.from_numpy(history_B1), users_B=torch.from_numpy(self.users), neighbours=memories)

    def probability(self, users_BR: np.ndarray | None) -> float:
        with torch.no_grad():
            return score(self.reader, self.batch(users_BR), self.targets_B1).exp().mean().item()


@pytest.fixture(scope="module", params=[("tiger", 2, False), ("tiger", 1, True), ("decoder-only", 2, False)], ids=str)
def taught(request, tmp_path_factory) -> Taught:
    return Taught(tmp_path_factory.mktemp("taught"), *request.param)


def test_oracle_neighbours_raise_the_targets_probability(taught):
    """Of 32 items: likely with twins, chance with strangers or nobody."""
    oracle, random = taught.probability(twins(taught.users)), taught.probability(strangers(taught.users))
    alone = taught.probability(None)
    assert oracle > 0.3
    assert oracle > 5 * max(random, alone)


def test_oracle_neighbours_are_attended_to_more_than_random_ones(taught):
    batch = taught.batch(np.concatenate([twins(taught.users), strangers(taught.users)], axis=1))
    weights_BR = attention_to_users(taught.reader, batch, taught.targets_B1)
    to_twins_B, to_strangers_B = weights_BR[:, :TWINS].mean(dim=1), weights_BR[:, TWINS:].mean(dim=1)
    assert to_twins_B.mean() > 1.2 * to_strangers_B.mean()  # heads that read the history only are counted, too
    assert (to_twins_B > to_strangers_B).float().mean() > 0.75


def attention_to_users(reader: MemoryReader, batch: Batch, targets_B1: torch.Tensor) -> torch.Tensor:
    """Float [B, R]: attention to each user, the mean of layers and heads."""
    if reader.gated is not None:
        return reader.gated.attention(reader.encode(batch), batch.neighbours[0]).mean(dim=(1, 2)).detach()
    if not hasattr(reader.host, "decoder"):
        pytest.skip("the decoder-only host mixes memories and codes in one softmax; the outputs above are its proof")
    found = []

    def watch(module: CrossAttention, given: tuple, _: object) -> None:
        states_BQD, seen, layer = given
        query = module.query(states_BQD).unflatten(-1, (module.heads, -1)).transpose(1, 2)
        if seen.keys_values is None:
            key = torch.einsum("btD,hdD->bhtd", seen.states_BTD, seen.weight[layer, 0])
        else:
            key = seen.keys_values[:, :, layer, 0].transpose(1, 2)
        scores = query @ key.transpose(-1, -2)
        found.append((scores if seen.mask is None else scores + seen.mask).softmax(-1))

    layers = [layer.cross.register_forward_hook(watch) for layer in reader.host.decoder.layers]
    batch.targets_BP = targets_B1
    with torch.no_grad():
        reader(batch)
    for hook in layers:
        hook.remove()
    n_users = batch.neighbours[0].mask_BT.shape[1]
    return torch.stack(found).mean(dim=(0, 2, 3))[:, -n_users:]


def test_other_users_in_memory_change_the_output(taught):
    users = twins(taught.users)
    ours, theirs = (generate(taught.reader, taught.batch(u), 5, beams=10) for u in (users, np.roll(users, 1, axis=0)))
    assert (ours.items_BK[:, 0] != theirs.items_BK[:, 0]).float().mean() > 0.5
    reordered = generate(taught.reader, taught.batch(users[:, ::-1]), 5, beams=10)
    torch.testing.assert_close(reordered.scores_BK, ours.scores_BK, atol=1e-4, rtol=1e-4)


def test_what_encodes_is_as_it_was_and_the_rest_has_learnt(taught):
    after, frozen = taught.reader.host.state_dict(), encoder_parameters(taught.reader.backbone)
    assert frozen
    same = {name for name, value in taught.before.items() if torch.equal(value, after[name])}
    assert frozen <= same
    assert not {name for name in same - frozen if after[name].is_floating_point()}
    if taught.reader.gated is not None:
        assert taught.reader.gated.gate.abs().item() > 0.01
    vectors_UD = MeanPooledEncoder(taught.reader, 20)(PAIRS[OF_USER])
    np.testing.assert_array_equal(vectors_UD, taught.memory.vectors_UD)


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("backbone", ["tiger", "letter", "decoder-only"])
def test_gradients_reach_the_decoder_the_head_and_what_the_memory_adds(backbone, tied, gated, tmp_path):
    model = shape(backbone, 1, tie_embeddings=tied)
    reader = MemoryReader(host(model), GatedUsers(model) if gated else None)
    if gated:
        torch.nn.init.ones_(reader.gated.gate)  # closed, it lets no gradient through to what is behind it
    data = interactions()
    users = np.arange(data.n_users)
    memory = UserMemory(MeanPooledEncoder(reader.backbone, 20)(PAIRS[OF_USER]))
    met = neighbours(np.concatenate([twins(users), strangers(users)], axis=1))
    rows = CachedRows(users, np.ones(len(users), dtype=np.int64), met, {})
    training = TrainingSettings(strategy="single", batch_size=16)
    task = MemoryTask(reader, CachedUsers(rows, rows, memory), data, training, EvaluationSettings(), 1, 20)
    reader.train()
    task.loss(next(iter(task.batches(0, 0, 1))).batch, 0)["loss"].backward()
    reached = {name for name, p in reader.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    encoder = {f"host.{name}" for name in encoder_parameters(host(model))}
    assert reached == {name for name, _ in reader.named_parameters()} - encoder
    assert ("host.head.weight" in reached) == (not tied)
    assert any(name.startswith("gated.") for name in reached) == gated
