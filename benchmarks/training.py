"""Training throughput at the paper's shape on Amazon Beauty's prefixes, in training targets a second.

All sides: dropout 0.1, AdamW (fused), clipped gradients, the same number of targets a step, and the same pieces of
the batch one after the other (gradients add up), small enough for the caches of a CPU.

- theirs: transformers' T5ForConditionalGeneration, prefixes shuffled, padded to the longest of the batch;
- equal-batches: our blocks on the very same batches;
- ours: our blocks on the batches of the train loop, whose histories are of like length;
- causal: our causal encoder, all prefixes of a user in one pass (another model than the paper's);
- theirs-bf16, ours-bf16, causal-bf16 with --bf16: the same under bfloat16 autocast.

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

from benchmarks.common import profiled, say, spread
from benchmarks.shapes import beauty_sequences, beauty_table, interactions_of
from benchmarks.transformers_side import pair
from genrec.config import LossTerm, ModelSettings, TrainingSettings
from genrec.data.interactions import Interactions
from genrec.losses import total_loss
from genrec.models import PAD_ITEM, Batch
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
    parser.add_argument("--piece", type=int, default=128, help="targets computed at a time")
    parser.add_argument("--bf16", action="store_true", help="time bfloat16 autocast, too")
    parser.add_argument("--steps", type=int, default=6, help="steps of each side in a round, spread over an epoch")
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
    batches = {
        "theirs": shuffled(data, args),
        "equal-batches": shuffled(data, args),
        "ours": by_length(data, prefix_rows(data, MAX_HISTORY), args),
        "causal": by_length(data, window_rows(data, MAX_HISTORY), args),
    }
    sides = {name: Side(*_model(table, name), of[: args.steps], args.piece) for name, of in batches.items()}
    if args.bf16:
        for name in ("theirs", "ours", "causal"):
            sides[f"{name}-bf16"] = Side(*_model(table, name), batches[name][: args.steps], args.piece, bf16=True)
    if args.profile:
        middle = sides["ours"].pieces[args.steps // 2]
        say(profiled(lambda: sides["ours"].train_step(middle)))
    speeds: dict[str, list[float]] = {name: [] for name in sides}
    for side in sides.values():
        side.train_step(side.pieces[0])  # warms up
    for _ in range(args.rounds):
        for name, side in sides.items():
            speeds[name].append(side.round())
            say(f"{name}: {speeds[name][-1]:.1f} targets/s, {side.tokens:.1f} encoder tokens a target")
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
        "ratio_bf16": round(rates["ours-bf16"]["median"] / rates["theirs-bf16"]["median"], 2) if args.bf16 else None,
        "equal": difference < 1e-3,
        "curve_difference": difference,
        "sides": rates,
        "data": origin,
        "encoder_tokens_a_target": {name: round(side.tokens, 1) for name, side in sides.items()},
        "batch_size": args.batch_size,
        "piece": args.piece,
    }


class Side:
    """A model, its step, and the batches it goes through again and again."""

    def __init__(self, model: nn.Module, step: Step, batches: list[Batch], piece: int, *, bf16: bool = False) -> None:
        self.model, self.step, self.bf16 = model.train(), step, bf16
        self.pieces = [_pieces(batch, piece) for batch in batches]
        self.optimizer = build_optimizer(model, TrainingSettings())
        self.targets = sum(_targets(batch) for batch in batches)
        self.tokens = sum(batch.history_BT.numel() for batch in batches) * 4 / self.targets

    def round(self) -> float:
        """Targets a second over all batches."""
        begin = time.perf_counter()
        for pieces in self.pieces:
            self.train_step(pieces)
        return self.targets / (time.perf_counter() - begin)

    def train_step(self, pieces: list[Batch]) -> float:
        """One optimizer step; the mean loss."""
        self.optimizer.zero_grad(set_to_none=True)
        total, targets = 0.0, sum(map(_targets, pieces))
        for piece in pieces:
            with torch.autocast("cpu", torch.bfloat16, enabled=self.bf16):
                loss = self.step(piece) * (_targets(piece) / targets)
            loss.backward()
            total += float(loss.detach())
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        return total


def _targets(batch: Batch) -> int:
    assert batch.targets_BP is not None
    return int((batch.targets_BP != PAD_ITEM).sum())


def _pieces(batch: Batch, targets: int) -> list[Batch]:
    """The rows of a batch in pieces of about so many targets."""
    assert batch.targets_BP is not None
    rows = max(1, round(targets * batch.size / _targets(batch)))
    return [
        Batch(history, target, visible)
        for history, target, visible in zip(
            batch.history_BT.split(rows), batch.targets_BP.split(rows), batch.visible_BP.split(rows), strict=True
        )
    ]


def _model(table: SidTable, name: str, dropout: float = 0.1) -> tuple[nn.Module, Step]:
    """The model of a side and how it makes a loss of a batch."""
    attention = "causal" if name == "causal" else "bidirectional"
    ours, theirs = pair(ModelSettings(dropout=dropout, encoder_attention=attention), table)
    if name != "theirs":
        return ours, lambda batch: total_loss(ours(batch), batch, TERMS)["loss"]

    def step(batch: Batch) -> torch.Tensor:
        assert batch.targets_BP is not None
        tokens = ours.tokens(batch.history_BT).flatten(1)
        labels = ours.tokens(batch.targets_BP)[:, 0]
        return theirs(input_ids=tokens, attention_mask=(tokens != 0).long(), labels=labels).loss

    return theirs, step


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
    batches = [_pieces(batch, 32)[:1] for batch in shuffled(data, args)[: args.curve_steps]]
    curves = []
    for name in ("ours", "theirs"):
        side = Side(*_model(table, name, dropout=0.0), [piece for pieces in batches for piece in pieces], 32)
        curves.append(np.asarray([side.train_step(pieces) for pieces in batches]))
        say(f"loss curve of {name}: {np.round(curves[-1], 4).tolist()}")
    return float(np.max(np.abs(curves[0] - curves[1]) / curves[1]))
