"""Constrained beam search: ``genrec.decoding.generate`` against transformers' ``generate``.

Both sides hold the same weights (the paper's shape), the same catalog and the same histories of Amazon
Beauty. Lists and scores are compared first; then each beam width and batch size is timed turn by turn;
the peak memory of each side, for the widest beam, is taken in a process of its own. With --int8 our int8 option is
a third side, which need not give equal lists: its overlap is reported.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.common import ROOT, interleaved, peak_mib, profiled, say
from benchmarks.shapes import beauty_sequences, beauty_table, last_histories
from benchmarks.transformers_side import allowed_tokens, constrained_lists, pair, same_lists
from genrec.config import ModelSettings
from genrec.decoding import generate
from genrec.models import Batch, Tiger
from genrec.models.quantized import quantized

N_ITEMS = 12_101
SECONDS_A_CELL, MOST_REPEATS = 5.0, 40
"""Short cells are repeated as often as fits, for a median that one interruption does not move."""
Side = Callable[[int, int], tuple[Tensor, Tensor]]
"""(beams, batch size) -> items and scores [B, K]."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of this benchmark."""
    parser.add_argument("--beams", type=int, nargs="+", default=[20, 50, 100])
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--repeats", type=int, default=3, help="of each cell at least; short cells are repeated more")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--int8", action="store_true", help="time our int8 option, too, and how far its lists agree")
    parser.add_argument("--profile", action="store_true", help="print where our time goes")
    parser.add_argument("--no-memory", action="store_true", help="leave the memory measurements out")
    parser.add_argument("--peak-of", choices=["ours", "theirs"], help=argparse.SUPPRESS)


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Compare, time and weigh both sides."""
    torch.set_num_threads(args.threads)
    if args.peak_of:
        return _peak(args)
    sides = build_sides(args.batches)
    if not args.int8:
        del sides["int8"]
    cells: list[dict[str, Any]] = []
    equal = True
    for batch in args.batches:
        for beams in args.beams:
            begin = time.perf_counter()
            lists = {name: side(beams, batch) for name, side in sides.items()}
            first = time.perf_counter() - begin
            same, overlap = same_lists(lists["ours"], lists["theirs"])
            equal &= same
            runs = {name: partial(side, beams, batch) for name, side in sides.items()}
            times = interleaved(runs, max(args.repeats, min(MOST_REPEATS, int(SECONDS_A_CELL / first))), warmup=0)
            ratio, of_fastest = (round(times["theirs"][which] / times["ours"][which], 2) for which in ("median", "min"))
            cell = {"beams": beams, "batch": batch, "ratio": ratio, "ratio_of_fastest": of_fastest, "overlap": overlap}
            cell |= times
            if args.int8:
                cell["overlap_int8"] = same_lists(lists["int8"], lists["ours"])[1]
            if not args.no_memory and beams == max(args.beams):
                weighed = ("ours", "theirs")
                cell["peak_mib"] = {name: _peak_in_own_process(name, beams, batch, args.threads) for name in weighed}
            if args.profile:
                say(profiled(runs["ours"]))
            say(f"{cell}")
            cells.append(cell)
    largest = cells[-1]
    return {
        "name": "decoding",
        "ours": largest["ours"]["median"],
        "theirs": largest["theirs"]["median"],
        "unit": f"seconds a batch of {largest['batch']} with {largest['beams']} beams",
        "ratio": min(cell["ratio"] for cell in cells),
        "equal": equal,
        "overlap": min(cell["overlap"] for cell in cells),
        "seconds_by_beams": {
            f"batch {batch}": {cell["beams"]: cell["ours"]["median"] for cell in cells if cell["batch"] == batch}
            for batch in args.batches
        },
        "cells": cells,
    }


def build_sides(batches: list[int], only: str | None = None) -> dict[str, Side]:
    """The decoders over the same weights, catalog and histories; ``only`` one of them, or all."""
    table = beauty_table(N_ITEMS)
    sequences, origin = beauty_sequences()
    say(f"decoding over {table.n_items} items, histories: {origin}")
    ours, theirs = (model.eval() for model in pair(ModelSettings(), table))
    histories = {rows: torch.from_numpy(last_histories(sequences, rows, 20)) for rows in batches}
    allowed = allowed_tokens(table)

    def by_us(model: Tiger, beams: int, rows: int) -> tuple[Tensor, Tensor]:
        ranked = generate(model, Batch(histories[rows]), beams, beams=beams)
        return ranked.items_BK, ranked.scores_BK

    def by_them(beams: int, rows: int) -> tuple[Tensor, Tensor]:
        return constrained_lists(theirs, table, ours.tokens(histories[rows]).flatten(1), beams, allowed)

    sides: dict[str, Side] = {"ours": partial(by_us, ours), "theirs": by_them}
    if only is None:
        sides["int8"] = partial(by_us, quantized(ours))
    return sides


def _peak(args: argparse.Namespace) -> dict[str, Any]:
    side = build_sides(args.batches, args.peak_of)[args.peak_of]
    side(2, args.batches[0])
    before = peak_mib()
    side(args.beams[0], args.batches[0])
    return {"name": "decoding-peak", "before": before, "peak": peak_mib(), "equal": True}


def _peak_in_own_process(name: str, beams: int, batch: int, threads: int) -> dict[str, float]:
    """Peak resident MiB of a process that decodes one batch, and what of it the decoding added."""
    command = [sys.executable, "-m", "benchmarks", "decoding", "--peak-of", name, "--threads", str(threads)]
    command += ["--beams", str(beams), "--batches", str(batch)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    return {"peak": round(found["peak"]), "added": round(found["peak"] - found["before"])}
