"""Where the time of one training step and of one beam search goes.

Two views: shares of CPU time by kind of operation (torch's profiler, which itself slows small operations), and, for the
search, milliseconds of each phase by the clock. Nothing is compared, so the ratio is 1.
"""

from __future__ import annotations

import argparse
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from benchmarks.common import say
from benchmarks.shapes import beauty_sequences, beauty_table, interactions_of, last_histories
from genrec.config import EvaluationSettings, ModelSettings, TrainingSettings
from genrec.decoding import generate
from genrec.models import Batch, Tiger
from genrec.training.batching import WorkerBatch
from genrec.training.next_item import HostTask
from genrec.training.strategies import SingleStrategy

N_ITEMS, MAX_HISTORY = 12_101, 20
KINDS = {
    "matrix products": ("mm", "addmm", "addmm_", "mv", "mkldnn_linear", "mkldnn::_linear_pointwise"),
    "attention": ("bmm", "baddbmm", "_scaled_dot_product", "_softmax", "softmax"),
    "dropout masks": ("random_", "ge"),
    "norms": ("linalg_vector_norm", "hypot", "rms_norm", "rsqrt_", "_fused_rms_norm"),
    "copies and look-ups": ("copy_", "cat", "index_select", "index", "gather", "clone", "fill_", "zero_", "index_put_"),
    "beams": ("topk", "sort", "argsort", "searchsorted", "_log_softmax", "masked_fill", "masked_fill_"),
    "optimizer": ("_fused_adamw_", "_foreach_norm", "_foreach_mul_"),
    "sums and products of elements": ("add", "add_", "mul", "mul_", "addcmul", "addcmul_", "sum", "div", "clamp_min_"),
}
"""Operators by kind; what a name begins with counts for the long ones."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of this benchmark."""
    parser.add_argument("--batch-size", type=int, default=512, help="targets of the training step")
    parser.add_argument("--batch", type=int, default=1, help="histories of the search")
    parser.add_argument("--beams", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=20, help="searches; the fastest of each phase counts")
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32", help="of the training step")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Profile both."""
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    sequences, origin = beauty_sequences()
    table = beauty_table(N_ITEMS)
    model = Tiger(ModelSettings(), table)
    training = _training_step(model, sequences, args)
    batch = Batch(torch.from_numpy(last_histories(sequences, args.batch, MAX_HISTORY)))
    model.eval()
    search = shares(lambda: generate(model, batch, args.beams, beams=args.beams), args.repeats)
    phases = _phases(model, batch, args.beams, args.repeats)
    for name, rows in (("training step", training), ("beam search", search)):
        say(f"{name}: " + ", ".join(f"{kind} {share:.0%}" for kind, share in rows.items()))
    say("phases of the search, ms: " + ", ".join(f"{name} {value:.2f}" for name, value in phases.items()))
    return {
        "name": "profile",
        "ours": phases["all"],
        "theirs": phases["all"],
        "unit": f"milliseconds a search of {args.beams} beams for {args.batch} histories",
        "ratio": 1.0,
        "equal": True,
        "data": origin,
        "training_step": training,
        "beam_search": search,
        "phases_ms": phases,
    }


def _training_step(model: Tiger, sequences: list[np.ndarray], args: argparse.Namespace) -> dict[str, float]:
    """Shares of a step over the batch of median length."""
    settings = TrainingSettings(strategy="single", batch_size=args.batch_size, precision=args.precision)
    data = interactions_of(sequences, N_ITEMS)
    task = HostTask(model, data, settings, EvaluationSettings(), 0, MAX_HISTORY)
    strategy = SingleStrategy(torch.device("cpu"))
    strategy.setup(task, settings)
    order, bounds = task.epochs.epoch(0)
    begin, end = bounds[np.argsort(bounds[:, 0])][len(bounds) // 2]
    part = WorkerBatch(task.epochs.gather(order[begin:end]))
    return shares(lambda: strategy.train_step(part, 0, 1e-4))


def shares(run: Callable[[], Any], repeats: int = 2) -> dict[str, float]:
    """Share of each kind of operation in the fastest of several runs, largest first: interruptions count as work."""
    from torch.profiler import ProfilerActivity, profile

    run()
    times: dict[str, float] = {}
    for _ in range(repeats):
        with profile(activities=[ProfilerActivity.CPU]) as record:
            run()
        found: dict[str, float] = defaultdict(float)
        for event in record.key_averages():
            found[_kind(event.key)] += event.self_cpu_time_total
        if not times or sum(found.values()) < sum(times.values()):
            times = found
    total = sum(times.values())
    return {kind: round(value / total, 3) for kind, value in sorted(times.items(), key=lambda item: -item[1])}


def _kind(operator: str) -> str:
    name = operator.removeprefix("aten::")
    for kind, names in KINDS.items():
        if name in names or any(name.startswith(known) for known in names if known.startswith("_s")):
            return kind
    return "everything else"


def _phases(model: Tiger, batch: Batch, beams: int, repeats: int) -> dict[str, float]:
    """Fastest milliseconds of each phase of a search."""
    seconds: dict[str, list[float]] = defaultdict(list)

    def timed(name: str, run: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            begin = time.perf_counter()
            result = run(*args)
            seconds[name if name != "step" else f"step {len(done)}"].append(time.perf_counter() - begin)
            if name == "step":
                done.append(args[0].shape[1])
            return result

        return call

    done: list[int] = []
    names = ("encode", "start", "step")
    original = {name: getattr(model, name) for name in names}
    try:
        for name, run in original.items():
            setattr(model, name, timed(name, run))
        for _ in range(repeats):
            done.clear()
            begin = time.perf_counter()
            generate(model, batch, beams, beams=beams)
            seconds["all"].append(time.perf_counter() - begin)
    finally:
        for name in names:
            delattr(model, name)
    # Wherever the search's own part is the difference, noise of the phases would add up: take it run by run.
    parts = [name for name in seconds if name != "all"]
    own = [whole - sum(seconds[name][i] for name in parts) for i, whole in enumerate(seconds["all"])]
    fastest = {name: round(min(values) * 1e3, 3) for name, values in seconds.items()}
    return {**{name: fastest[name] for name in parts}, "search itself": round(min(own) * 1e3, 3), "all": fastest["all"]}
