"""How time and memory grow with the catalog: raw files to the first training steps, at several sizes.

A shop of N items, 2 N users and about 15 N interactions (``benchmarks/scale_data.py``) goes through every phase, each
in a process of its own, which reports wall and CPU seconds and its peak of resident memory: one JSON line a phase.
MiniLM would take hours: only its throughput is measured, on a sample and at the smallest size.

In the last line `ours` is how many times more CPU seconds the largest size takes than the smallest, over all
phases whose work grows with the catalog (writing the raw files, MiniLM's sample and the training steps do not count);
`theirs` is how many times more items it has, that is linear growth; `ratio` = theirs / ours, at least 1 where growth
is at most linear. CPU seconds, because they suffer less from neighbours than wall time. `equal`: every phase found its
results complete, and no process went over ``--limit-mib``.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.common import ROOT, say
from benchmarks.scale_data import USERS_AN_ITEM

ORDER = (
    *("prepare", "embed", "embed-cached", "residual-kmeans", "sid-table", "worker", "train"),
    *("unique", "rq-vae", "minilm"),
)
GROWING = tuple(phase for phase in ORDER if phase not in ("train", "minilm"))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument("--items", type=int, nargs="+", default=[100_000, 1_000_000], help="sizes of the catalog")
    parser.add_argument("--phases", nargs="+", choices=ORDER, help="only these (files of earlier ones)")
    parser.add_argument(
        "--folder", type=Path, help="keep the files here (else a temporary folder); raw files are reused"
    )
    parser.add_argument("--resume", action="store_true", help="take phases that are measured in --folder as they are")
    parser.add_argument("--limit-mib", type=int, default=6144, help="most resident memory of any phase")
    add_options(parser)


def add_options(parser: argparse.ArgumentParser) -> None:
    """What driver and phases share."""
    parser.add_argument("--dimension", type=int, default=128, help="width of the TF-IDF + SVD embeddings")
    parser.add_argument("--epochs", type=int, default=2, help="of the RQ-VAE; the first one warms up")
    parser.add_argument("--rqvae-batch", type=int, default=1024, help="items a step of the RQ-VAE")
    parser.add_argument(
        "--minilm", type=int, default=20_000, help="texts that MiniLM's throughput is measured on; 0: none"
    )
    parser.add_argument("--steps", type=int, default=1000, help="training steps")
    parser.add_argument("--batch", type=int, default=128, help="training targets a step")
    parser.add_argument("--threads", type=int, default=1)


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Every phase at every size."""
    sizes = sorted(args.items)
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.folder or Path(temporary)
        results = {size: _size(args, folder / str(size), size, smallest=size == sizes[0]) for size in sizes}
    small, large = results[sizes[0]], results[sizes[-1]]
    growing = [phase for phase in small if phase in GROWING]
    growth = {phase: large[phase]["cpu_seconds"] / max(small[phase]["cpu_seconds"], 1e-9) for phase in growing}
    spent = [sum(found[phase]["cpu_seconds"] for phase in growing) for found in (small, large)]
    everything = [line for found in results.values() for line in found.values()]
    ours, theirs = spent[1] / max(spent[0], 1e-9), sizes[-1] / sizes[0]
    return {
        "name": "scale",
        "ours": ours,
        "theirs": theirs,
        "unit": "times the CPU seconds, times the items",
        "ratio": theirs / ours if ours else 0.0,
        "equal": all(line.get("correct", True) and line["peak_mib"] <= args.limit_mib for line in everything),
        "growth": growth,
        "peak_mib": {size: max(line["peak_mib"] for line in found.values()) for size, found in results.items()},
    }


def _size(args: argparse.Namespace, folder: Path, items: int, *, smallest: bool) -> dict[str, dict[str, Any]]:
    phases = args.phases or ORDER
    if not (folder / "raw" / "log.parquet").is_file():
        _phase(args, folder, items, "write")
    found = {}
    figures = folder / "figures"
    figures.mkdir(exist_ok=True)
    for phase in ORDER:
        if phase not in phases or (phase == "minilm" and not (smallest and args.minilm)):
            continue
        kept = figures / f"{phase}.json"
        if args.resume and kept.is_file():
            line = json.loads(kept.read_text())
        else:
            if phase in ("embed", "train"):
                shutil.rmtree(folder / ("cache" if phase == "embed" else "training"), ignore_errors=True)
            line = _phase(args, folder, items, phase)
            line["correct"] = bool(line.get("correct", True)) and _complete(phase, line, items)
            kept.write_text(json.dumps(line))
        print(json.dumps({"phase": phase, "size": items, **line}), flush=True)
        found[phase] = line
    return found


def _complete(phase: str, line: dict[str, Any], items: int) -> bool:
    return phase != "prepare" or (line["items"] == items and line["users"] == USERS_AN_ITEM * items)


def _phase(args: argparse.Namespace, folder: Path, items: int, phase: str) -> dict[str, Any]:
    names = ("dimension", "epochs", "rqvae_batch", "minilm", "steps", "batch", "threads")
    options = [f"--{name.replace('_', '-')}={getattr(args, name)}" for name in names]
    command = [sys.executable, "-m", "benchmarks.scale_phases", phase, str(folder), f"--items={items}", *options]
    say(f"{items} items: {phase}")
    environment = {**os.environ, "OMP_NUM_THREADS": str(args.threads)}
    done = subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])
