"""What alignment does on real data: MovieLens-100K, titles and genres by TF-IDF, TIGER with the language view.

Three plug-ins are trained alike for a few hundred steps on some users: bare views, with the contrasts (items and
users), and with the divergence of the views' predictions. Users that none of them saw say what it came to. Weights
are those of the paper.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from genrec.config import (
    AlignmentSettings,
    EncoderSettings,
    EvaluationSettings,
    ModelSettings,
    PluginSettings,
    Settings,
    TokenizerSettings,
    TrainingSettings,
)
from genrec.data.interactions import Interactions
from genrec.data.load import load_catalog, load_interactions
from genrec.data.prepare import prepare
from genrec.encoders import encode_catalog
from genrec.errors import DataError
from genrec.genplugin.alignment import item_states, symmetric_kl
from genrec.genplugin.plugin import GenPlugin
from genrec.models import build_backbone
from genrec.models.contracts import Batch
from genrec.tokenizer.fit import fit_tokenizer
from genrec.training.batching import evaluation_batch
from genrec.training.loop import fit
from genrec.training.plugin_task import PluginTask
from genrec.training.strategies import SingleStrategy

USERS, HELD_OUT, STEPS, CANDIDATES = 400, 300, 220, 512
OFF = {"item": 0.0, "user": 0.0, "divergence": 0.0}
ARMS = {"off": OFF, "contrast": {**OFF, "item": 0.1, "user": 0.5}, "divergence": {**OFF, "divergence": 0.5}}
MODEL = ModelSettings(
    d_model=32, d_ff=64, heads=2, d_head=16, encoder_layers=1, decoder_layers=1, dropout=0.0, encoder_attention="causal"
)


def some(data: Interactions, begin: int, end: int) -> Interactions:
    """The users from ``begin`` to ``end`` of a data set."""
    places = slice(data.offsets[begin], data.offsets[end])
    return Interactions(
        items=data.items[places],
        offsets=data.offsets[begin : end + 1] - data.offsets[begin],
        train_end=data.train_end[begin:end],
        valid_at=data.valid_at[begin:end],
        test_at=data.test_at[begin:end],
        n_items=data.n_items,
        head_items=data.head_items,
    )


class Trained:
    """The three plug-ins, and the users they did not see."""

    def __init__(self, folder: Path) -> None:
        prepared = folder / "prepared"
        prepared.mkdir()
        try:
            prepare(Settings.model_validate({"data": {"reader": "ml-100k"}}).data, prepared, use_ray=False)
        except DataError as error:
            pytest.skip(f"MovieLens-100K is not installed ({error})")
        data, texts = load_interactions(prepared), load_catalog(prepared).texts
        encoder = EncoderSettings(text="tfidf-svd", dimension=64)
        embeddings_NE = encode_catalog(texts, encoder, folder / "cache")
        tokenizer = TokenizerSettings(kind="residual-kmeans", level_sizes=(32, 32))
        table, _ = fit_tokenizer(embeddings_NE, tokenizer, folder)
        self.held_out = some(data, USERS, USERS + HELD_OUT)
        self.plugins = {}
        training = TrainingSettings(
            strategy="single", batch_size=768, epochs=1000, max_steps=STEPS, validate_every=1000, validation_users=8,
            checkpoint_every=1000, learning_rate=3e-3, schedule="constant", tensorboard=False,
        )  # fmt: skip
        for name, weights in ARMS.items():
            torch.manual_seed(0)
            settings = PluginSettings(language=True, alignment=AlignmentSettings(**weights))
            host = build_backbone(MODEL, table)
            plugin = GenPlugin(host, MODEL, settings, torch.from_numpy(embeddings_NE))
            task = PluginTask(
                plugin, settings, some(data, 0, USERS), training, EvaluationSettings(beams=10), 0, 20, causal=True
            )
            fit(task, training, 0, folder / name, SingleStrategy(torch.device("cpu")))
            self.plugins[name] = plugin.eval()

    def batch(self) -> Batch:
        """Histories of the held-out users and their test targets."""
        users = self.held_out.users_with("test")
        batch = evaluation_batch(self.held_out, users, "test", 20)
        batch.targets_BP = torch.from_numpy(self.held_out.targets("test")[users].astype(np.int64))[:, None]
        return batch


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Trained:
    return Trained(tmp_path_factory.mktemp("views"))


@torch.no_grad()
def cross_view_hits(plugin: GenPlugin, batch: Batch) -> float:
    """Share of items whose nearest state of the other view is their own, among CANDIDATES distinct items, both ways."""
    history_BT = batch.history_BT
    first, second = (
        item_states(memory, history_BT.shape[1])[history_BT >= 0]
        for memory in (plugin.encode(batch), plugin.language.encode(batch))
    )
    _, place = np.unique(history_BT[history_BT >= 0].numpy(), return_index=True)
    assert len(place) >= CANDIDATES
    chosen = np.random.default_rng(0).permutation(place)[:CANDIDATES]
    first, second = (functional.normalize(states[chosen], dim=-1) for states in (first, second))
    similarity, own = first @ second.T, torch.arange(CANDIDATES)
    hits = [(similarity.argmax(dim=axis) == own).float().mean().item() for axis in (0, 1)]
    return sum(hits) / 2


@torch.no_grad()
def divergence(plugin: GenPlugin, batch: Batch) -> float:
    outputs = plugin(batch)
    return symmetric_kl(outputs.logits_BPSV, outputs.extra["language_logits"], outputs.labels_BPS, 0.85).item()


def test_contrasts_let_an_item_be_found_in_the_other_view(trained):
    """At least ten times chance with them; without, no more than chance may give."""
    batch, chance = trained.batch(), 1 / CANDIDATES
    assert cross_view_hits(trained.plugins["contrast"], batch) >= 10 * chance
    assert cross_view_hits(trained.plugins["off"], batch) <= 4 * chance


def test_the_divergence_of_the_views_falls_by_a_third(trained):
    batch = trained.batch()
    assert divergence(trained.plugins["divergence"], batch) <= 0.7 * divergence(trained.plugins["off"], batch)
