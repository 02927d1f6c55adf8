"""A tiny data set and model for the tests of the train loop; picklable, so that Ray workers can build them."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from genrec.data.interactions import Interactions
from genrec.models.contracts import PAD_ITEM, Batch
from genrec.training.batching import EpochBatches, WorkerBatch, prefix_rows, window_rows


def make_interactions(lengths: list[int], n_items: int = 30, seed: int = 0) -> Interactions:
    """Random sequences; the last two items of users with three or more are the validation and test targets."""
    rng = np.random.default_rng(seed)
    sizes = np.asarray(lengths, dtype=np.int64)
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    held_out = sizes >= 3
    return Interactions(
        items=rng.integers(0, n_items, offsets[-1]).astype(np.int32),
        offsets=offsets,
        train_end=np.where(held_out, sizes - 2, sizes).astype(np.int32),
        valid_at=np.where(held_out, sizes - 2, -1).astype(np.int32),
        test_at=np.where(held_out, sizes - 1, -1).astype(np.int32),
        n_items=n_items,
        head_items=np.zeros(n_items, dtype=bool),
    )


class BagModel(nn.Module):
    """Mean of the seen items' embeddings, a hidden layer, a tied output: enough to learn something."""

    def __init__(self, n_items: int, width: int = 16, dropout: float = 0.0) -> None:
        super().__init__()
        self.items = nn.Embedding(n_items, width)
        self.hidden = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, batch: Batch) -> Tensor:
        real_BT = batch.history_BT != PAD_ITEM
        vectors_BTD = self.items(batch.history_BT.clamp(min=0))
        shown_BPT = real_BT[:, None] & (
            torch.arange(real_BT.shape[1], device=real_BT.device) < batch.visible_BP[:, :, None]
        )
        mean_BPD = shown_BPT.float() @ vectors_BTD / shown_BPT.sum(-1, keepdim=True).clamp(min=1)
        states_BPD = self.norm(mean_BPD + self.hidden(self.dropout(mean_BPD)))
        return functional.linear(states_BPD, self.items.weight)


class BagTask:
    """Next-item training of a :class:`BagModel`."""

    name = "bag"
    sid_version = "0123456789abcdef"
    partial_gradients = False
    separable = True

    def __init__(
        self, data, batch_size=16, seed=0, max_history=5, windows=False, dropout=0.0, slow=0.0, log=None, gate=None
    ):
        rows = window_rows(data, max_history) if windows else prefix_rows(data, max_history)
        self.data, self.max_history, self.slow, self.log, self.gate = data, max_history, slow, log, gate
        self.epochs = EpochBatches(data, rows, batch_size, seed)
        torch.manual_seed(seed)
        self.model: nn.Module = BagModel(data.n_items, dropout=dropout)
        self.rank = 0

    def steps_per_epoch(self) -> int:
        return self.epochs.steps_per_epoch

    def batches(self, epoch: int, rank: int, world: int, start_step: int = 0) -> Iterator[WorkerBatch]:
        self.rank = rank
        return self.epochs.batches(epoch, rank, world, start_step)

    def loss(self, batch: Batch, step: int) -> dict[str, Tensor]:
        if self.log is not None:
            with Path(f"{self.log}-{self.rank}").open("a") as stream:
                row = [step, os.getpid(), batch.users_B.tolist(), batch.targets_BP.tolist()]
                stream.write(json.dumps(row) + "\n")
            time.sleep(self.slow)
        if self.gate is not None and step >= self.gate[0]:
            deadline = time.monotonic() + 240
            while not Path(self.gate[1]).exists() and time.monotonic() < deadline:
                time.sleep(0.05)
        logits_BPN = self.model(batch)
        loss = functional.cross_entropy(logits_BPN.flatten(0, 1), batch.targets_BP.flatten(), ignore_index=PAD_ITEM)
        return {"loss": loss, "next-item": loss}

    def validate(self, device: torch.device, rank: int = 0, world: int = 1) -> dict[str, float]:
        users = self.data.users_with("valid")[rank::world]
        total = 0.0
        for user in users:
            history = torch.from_numpy(self.data.history(user, "valid")[-self.max_history :].astype(np.int64))
            batch = Batch(history[None].to(device), visible_BP=torch.tensor([[len(history)]], device=device))
            scores = self.model(batch)[0, 0]
            rank_of = int((scores > scores[self.data.targets("valid")[user]]).sum())
            total += 1 / np.log2(rank_of + 2) if rank_of < 10 else 0.0
        return {"ndcg@10": total, "users": float(len(users))}


@dataclass(frozen=True)
class BagFactory:
    """What a Ray worker builds its task from; from step ``gate[0]`` on it waits until the file ``gate[1]`` is there."""

    batch_size: int = 16
    windows: bool = False
    slow: float = 0.0
    log: str | None = None
    users: int = 40
    gate: tuple[int, str] | None = None

    def __call__(self) -> BagTask:
        lengths = list(np.random.default_rng(3).integers(3, 14, self.users))
        data = make_interactions(lengths)
        return BagTask(data, self.batch_size, windows=self.windows, slow=self.slow, log=self.log, gate=self.gate)


@dataclass(frozen=True)
class TigerFactory:
    """A small TIGER without dropout on the same data."""

    windows: bool = False
    batch_size: int = 16

    def __call__(self):
        from genrec.config import EvaluationSettings, ModelSettings, TrainingSettings
        from genrec.models.tiger import Tiger
        from genrec.tokenizer.sid_table import SidTable
        from genrec.training.next_item import HostTask

        data = make_interactions(list(np.random.default_rng(3).integers(3, 14, 40)))
        codes_NL = np.stack([np.arange(30) // 6, np.arange(30) % 6], axis=1).astype(np.int32)
        attention = "causal" if self.windows else "bidirectional"
        layers = {"encoder_layers": 1, "decoder_layers": 1, "dropout": 0.0, "encoder_attention": attention}
        torch.manual_seed(0)
        model = Tiger(ModelSettings(d_model=16, d_ff=32, heads=2, d_head=8, **layers), SidTable(codes_NL, (5, 6)))
        training = TrainingSettings(batch_size=self.batch_size)
        return HostTask(model, data, training, EvaluationSettings(batch_size=16), 0, 5, causal=self.windows)
