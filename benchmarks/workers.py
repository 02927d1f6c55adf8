"""Throughput of the train loop under Ray Train with one and with several workers of one core each.

Every side trains the paper's shape on Amazon Beauty's prefixes with the same global batches; only the spread differs:

- ddp: DDP, gradients exchanged after every step;
- zero-1: DeepSpeed ZeRO-1, which computes a worker's part of a step whole (DDP cuts it for the caches of a CPU);
- apart: as many single processes, each with its part of every batch and nothing exchanged: what these cores
  give at all, for two "cores" of a virtual machine may share one.

The ideal is the number of workers; ``ratio`` is that of the first side, ``ratios`` has all, ``of_what_cores_give`` is
that ratio by the one of apart. Runs take turns; a run's first steps only warm up. Without dropout, whose masks depend
on the worker, the loss curves of all sides that exchange gradients agree.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from benchmarks.common import ROOT, say, spread
from benchmarks.shapes import beauty_sequences, beauty_table, interactions_of
from genrec.config import DeepSpeedSettings, EvaluationSettings, ModelSettings, TrainingSettings
from genrec.models import Tiger
from genrec.training.next_item import HostTask
from genrec.training.ray_train import fit_on_ray
from genrec.training.task import Task

N_ITEMS, MAX_HISTORY = 12_101, 20
SIDES: dict[str, dict[str, Any]] = {
    "ddp": {"strategy": "ddp"},
    "zero-1": {"strategy": "deepspeed", "deepspeed": DeepSpeedSettings(zero_stage=1)},
    "apart": {"strategy": "single"},
}
"""Settings of each side; ``single`` within a group of workers takes its part of a batch and exchanges nothing."""


@dataclass(frozen=True)
class BeautyFactory:
    """Builds the task inside a worker.

    Attributes:
        batch_size: targets of a global batch.
        shape: what differs from the paper's shape.
        users: so many of the users only; None: all.
    """

    batch_size: int
    shape: tuple[tuple[str, Any], ...] = ()
    users: int | None = None

    def __call__(self) -> Task:
        """A fresh TIGER, the same on every worker."""
        sequences, _ = beauty_sequences()
        data, table = interactions_of(sequences[: self.users], N_ITEMS), beauty_table(N_ITEMS)
        torch.manual_seed(0)
        model = Tiger(ModelSettings(dropout=0.0, **dict(self.shape)), table)
        training = TrainingSettings(batch_size=self.batch_size, validation_users=2)
        return HostTask(model, data, training, EvaluationSettings(), 0, MAX_HISTORY)


@dataclass(frozen=True)
class Run:
    """One training.

    Attributes:
        rates: targets a second of each round of steps but the first.
        losses: mean loss of every round.
    """

    rates: list[float]
    losses: list[float]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of this benchmark."""
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2], help="compare these numbers of workers")
    parser.add_argument("--sides", nargs="+", choices=[*SIDES], default=[*SIDES])
    parser.add_argument("--batch-size", type=int, default=512, help="targets of a global batch")
    parser.add_argument("--steps", type=int, default=4, help="steps of a round")
    parser.add_argument("--rounds", type=int, default=3, help="timed rounds of a run")
    parser.add_argument("--turns", type=int, default=2, help="runs of each side and number of workers, taking turns")
    parser.add_argument("--tiny", action="store_true", help="a small model on a few users, to try the command")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Train every side with every number of workers, turn by turn."""
    factory = BeautyFactory(args.batch_size)
    if args.tiny:
        small = {"encoder_layers": 1, "decoder_layers": 1, "d_model": 32, "d_ff": 64, "heads": 2, "d_head": 16}
        factory = replace(factory, shape=tuple(small.items()), users=500)
    first, most = min(args.workers), max(args.workers)
    with local_ray(most):
        runs = take_turns(args, lambda side, workers: train(factory, side, workers, args.steps, args.rounds))
    ratios = {side: ratio_of(runs[side, most], runs[side, first]) for side in args.sides}
    curves = {cell: found[0].losses for cell, found in runs.items() if cell[0] != "apart" or cell[1] == 1}
    difference = largest_difference(list(curves.values()))
    asked = args.sides[0]
    rates = {cell: spread([rate for one in found for rate in one.rates]) for cell, found in runs.items()}
    return {
        "name": "workers",
        "ours": rates[asked, most]["median"],
        "theirs": rates[asked, first]["median"],
        "unit": f"training targets a second with {most} workers of one core and with {first}, by {asked}",
        "ratio": ratios[asked],
        "ideal": round(most / first, 2),
        "equal": difference < 1e-3,
        "curve_difference": difference,
        "ratios": ratios,
        "of_what_cores_give": round(ratios[asked] / ratios["apart"], 2) if "apart" in ratios else None,
        "targets_per_second": {f"{side} x {workers}": values for (side, workers), values in rates.items()},
        "gradient_mib": round(sum(p.numel() for p in factory().model.parameters()) * 4 / 2**20, 1),
        "batch_size": args.batch_size,
        "data": beauty_sequences()[1],
    }


def take_turns(args: argparse.Namespace, one: Callable[[str, int], Run]) -> dict[tuple[str, int], list[Run]]:
    """The runs by side and number of workers."""
    cells = [(side, workers) for side in args.sides for workers in sorted(set(args.workers))]
    runs: dict[tuple[str, int], list[Run]] = {cell: [] for cell in cells}
    for _ in range(args.turns):
        for side, workers in cells:
            runs[side, workers].append(one(side, workers))
            rates = ", ".join(f"{rate:.1f}" for rate in runs[side, workers][-1].rates)
            say(f"{side}, {workers} workers: {rates} targets/s")
    return runs


def train(factory: BeautyFactory, side: str, workers: int, steps: int, rounds: int, cpus: float = 1.0) -> Run:
    """Train ``rounds`` times ``steps`` steps after as many to warm up, on the connected Ray; ``cpus`` of a worker."""
    batch_size = factory.batch_size
    settings = TrainingSettings(
        **SIDES[side],
        workers=workers,
        cpus_per_worker=cpus,
        batch_size=batch_size,
        max_steps=steps * (rounds + 1),
        log_every=steps,
        max_failures=0,
        tensorboard=False,
    )
    version = factory().sid_version
    with tempfile.TemporaryDirectory() as folder:
        result = fit_on_ray(factory, settings, 0, Path(folder) / "run", sid_version=version)
    rows = [row for row in result.history if "loss" in row]
    times = [row["seconds"] for row in rows]
    rates = [batch_size * steps / (end - begin) for begin, end in pairwise(times)]
    return Run(rates, [row["loss"] for row in rows])


def ratio_of(many: list[Run], few: list[Run]) -> float:
    """Median over all rounds of how much faster many workers are in the very same steps."""
    pairs = zip(many, few, strict=True)
    return round(statistics.median(a / b for x, y in pairs for a, b in zip(x.rates, y.rates, strict=True)), 2)


def largest_difference(curves: list[list[float]]) -> float:
    """Largest relative difference between a curve and the first."""
    return max(abs(a - b) / b for curve in curves for a, b in zip(curve, curves[0], strict=True))


@contextmanager
def local_ray(workers: int) -> Iterator[None]:
    """A Ray with room for so many one-core workers on this machine; they import this package from the checkout."""
    import ray

    ray.init(
        address="local",
        num_cpus=workers,
        include_dashboard=False,
        log_to_driver=False,
        object_store_memory=200_000_000,
        runtime_env={"env_vars": {"PYTHONPATH": os.fspath(ROOT), "OMP_NUM_THREADS": "1"}},
    )
    try:
        yield
    finally:
        ray.shutdown()
