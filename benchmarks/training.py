"""Training throughput at the paper's shape on Amazon Beauty's prefixes, in training targets a second.

Four sides, all with dropout 0.1, AdamW (fused) and the same number of targets a step:

- theirs: transformers' T5ForConditionalGeneration, prefixes shuffled, padded to the longest of the batch;
- ours at equal batches: our blocks on the very same batches;
- ours: our blocks on the batches of the train loop, whose histories are of like length;
- ours, causal: the causal encoder, all prefixes of a user in one pass (another model than the paper's).

First the loss curves of ours and theirs are compared on equal batches without dropout.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks.common import say, spread
from benchmarks.shapes import beauty_sequences, beauty_table, interactions_of
from benchmarks.transformers_side import pair
from genrec.config import LossTerm, ModelSettings, TrainingSettings
from genrec.data.interactions import Interactions
from genrec.losses import total_loss
from genrec.models import Batch
from genrec.tokenizer.sid_table import SidTable
from genrec.training.batching import EpochBatches, TrainingRows, prefix_rows, window_rows
from genrec.training.optim import build_optimizer

N_ITEMS, MAX_HISTORY = 12_101, 20
TERMS = (LossTerm(name="next-item"),)
Step = Callable[[Batch], torch.Tensor]
"""The loss of a batch, to be differentiated."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of this benchmark."""
    parser.add_argument("--batch-size", type=int, default=256, help="targets a step")
    parser.add_argument("--steps", type=int, default=8, help="steps of each side in one round, spread over an epoch")
    parser.add_argument("--rounds", type=int, default=3, help="the sides take turns so often")
    parser.add_argument("--curve-steps", type=int, default=20, help="steps on which the loss curves are compared")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--profile", action="store_true", help="print where the time of one step of ours goes")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Compare the loss curves, then time all sides turn by turn."""
    torch.set_num_threads(args.threads)
    sequences, origin = beauty_sequences()
    data, table = interactions_of(sequences, N_ITEMS), beauty_table(N_ITEMS)
    say(f"training prefixes: {origin}, {len(prefix_rows(data, MAX_HISTORY))} of them")
    difference = curve_difference(data, table, args)
    say(f"largest relative difference of the loss curves: {difference:.1e}")
    sides = {
        "theirs": Side(*_theirs(table), shuffled(data, args), args.steps),
        "equal-batches": Side(*_ours(table), shuffled(data, args), args.steps),
        "ours": Side(*_ours(table), by_length(data, prefix_rows(data, MAX_HISTORY), args), args.steps),
        "causal": Side(*_ours(table, causal=True), by_length(data, window_rows(data, MAX_HISTORY), args), args.steps),
    }
    if args.profile:
        say(_profile(sides["ours"]))
    speeds: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(args.rounds + 1):
        for name, side in sides.items():
            speed = side.round()
            if turn:  # the first round warms up
                speeds[name].append(speed)
                say(f"{name}: {speed:.1f} targets/s, {side.tokens:.1f} encoder tokens a target")
    rates = {name: spread(values) for name, values in speeds.items()}
    theirs = rates["theirs"]["median"]
    return {
        "name": "training",
        "ours": rates["ours"]["median"],
        "theirs": theirs,
        "unit": "training targets a second",
        "ratio": round(rates["ours"]["median"] / theirs, 2),
        "ratio_at_equal_batches": round(rates["equal-batches"]["median"] / theirs, 2),
        "ratio_causal": round(rates["causal"]["median"] / theirs, 2),
        "equal": difference < 1e-3,
        "curve_difference": difference,
        "sides": rates,
        "data": origin,
        "batch_size": args.batch_size,
    }


class Side:
    """A model, its step, and the batches it goes through again and again."""

    def __init__(self, model: nn.Module, step: Step, batches: list[Batch], steps: int) -> None:
        self.model, self.step = model.train(), step
        self.batches = batches[:steps]
        self.optimizer = build_optimizer(model, TrainingSettings())
        targets = sum(int((batch.targets_BP >= 0).sum()) for batch in self.batches if batch.targets_BP is not None)
        self.targets = targets
        self.tokens = sum(batch.history_BT.numel() for batch in self.batches) * 4 / targets

    def round(self) -> float:
        """Targets a second over all batches."""
        begin = time.perf_counter()
        for batch in self.batches:
            self.train_step(batch)
        return self.targets / (time.perf_counter() - begin)

    def train_step(self, batch: Batch) -> float:
        """One optimizer step; the loss."""
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.step(batch)
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        return float(loss.detach())


def _ours(table: SidTable, *, causal: bool = False, dropout: float = 0.1) -> tuple[nn.Module, Step]:
    attention = "causal" if causal else "bidirectional"
    model, _ = pair(ModelSettings(dropout=dropout, encoder_attention=attention), table)
    return model, lambda batch: total_loss(model(batch), batch, TERMS)["loss"]


def _theirs(table: SidTable, *, dropout: float = 0.1) -> tuple[nn.Module, Step]:
    tokenizer, model = pair(ModelSettings(dropout=dropout), table)

    def step(batch: Batch) -> torch.Tensor:
        assert batch.targets_BP is not None
        tokens = tokenizer.tokens(batch.history_BT).flatten(1)
        labels = tokenizer.tokens(batch.targets_BP)[:, 0]
        return model(input_ids=tokens, attention_mask=(tokens != 0).long(), labels=labels).loss

    return model, step


def shuffled(data: Interactions, args: argparse.Namespace) -> list[Batch]:
    """Batches of prefixes in random order."""
    epoch = EpochBatches(data, prefix_rows(data, MAX_HISTORY), args.batch_size, seed=0)
    order = np.random.default_rng(0).permutation(len(epoch.rows))
    steps = max(args.steps, args.curve_steps)
    return [epoch.gather(order[i * args.batch_size : (i + 1) * args.batch_size]) for i in range(steps)]


def by_length(data: Interactions, rows: TrainingRows, args: argparse.Namespace) -> list[Batch]:
    """Steps of the train loop's epoch, evenly spread over all lengths, so that they stand for the whole epoch."""
    epoch = EpochBatches(data, rows, args.batch_size, seed=0)
    order, bounds = epoch.epoch(0)
    bounds = bounds[np.argsort(bounds[:, 0])]
    chosen = ((np.arange(args.steps) + 0.5) * len(bounds) / args.steps).astype(int)
    return [epoch.gather(order[begin:end]) for begin, end in bounds[chosen]]


def curve_difference(data: Interactions, table: SidTable, args: argparse.Namespace) -> float:
    """Largest relative difference of the two loss curves on equal batches without dropout."""
    batches = shuffled(data, args)[: args.curve_steps]
    curves = []
    for build in (_ours, _theirs):
        side = Side(*build(table, dropout=0.0), batches, len(batches))
        curves.append(np.asarray([side.train_step(_first_rows(batch, 32)) for batch in batches]))
    say(f"loss curve of ours: {np.round(curves[0], 4).tolist()}")
    say(f"loss curve of theirs: {np.round(curves[1], 4).tolist()}")
    return float(np.max(np.abs(curves[0] - curves[1]) / curves[1]))


def _first_rows(batch: Batch, rows: int) -> Batch:
    assert batch.targets_BP is not None
    return Batch(batch.history_BT[:rows], batch.targets_BP[:rows])


def _profile(side: Side) -> str:
    from torch.profiler import ProfilerActivity, profile

    batch = side.batches[len(side.batches) // 2]
    side.train_step(batch)
    with profile(activities=[ProfilerActivity.CPU]) as record:
        side.train_step(batch)
    return record.key_averages().table(sort_by="self_cpu_time_total", row_limit=30, max_name_column_width=50)
