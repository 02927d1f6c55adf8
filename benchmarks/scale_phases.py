"""The phases of ``python -m benchmarks scale``, each meant to run in a process of its own.

``python -m benchmarks.scale_phases PHASE FOLDER OPTIONS`` prints one JSON line: wall and CPU seconds of the work
(imports left out), resident memory before it and at its peak. Phases hand over files below FOLDER, as stages do.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.common import peak_mib
from benchmarks.scale import add_options
from benchmarks.scale_data import write_shop
from genrec.config import (
    DataSettings,
    EncoderSettings,
    EvaluationSettings,
    ModelSettings,
    RunSettings,
    Settings,
    TokenizerSettings,
    TrainingSettings,
)
from genrec.data.load import load_catalog
from genrec.data.prepare import prepare
from genrec.decoding.trie_tensors import TrieTensors
from genrec.encoders import encode_catalog, fit_encoder, save_encoder
from genrec.stages.training import HostFactory
from genrec.tokenizer.fit import Tokenizer, fit_tokenizer
from genrec.tokenizer.sid_table import SidTable
from genrec.tokenizer.spaces import load_text_vectors, save_vectors
from genrec.tokenizer.unique import place
from genrec.training.loop import fit
from genrec.training.strategies import SingleStrategy

SHAPE = ModelSettings(d_model=64, d_ff=256, heads=4, d_head=16, encoder_layers=2, decoder_layers=2, dropout=0.0)


class Paths:
    """Where the phases find and leave their files."""

    def __init__(self, root: Path) -> None:
        self.raw, self.prepared, self.embedded = root / "raw", root / "prepared", root / "embedded"
        self.cache, self.training = root / "cache", root / "training"
        self.kmeans, self.rqvae = root / "residual-kmeans", root / "rq-vae"


def write(paths: Paths, args: argparse.Namespace) -> dict[str, Any]:
    """The raw files."""
    return write_shop(paths.raw, args.items)


def prepare_data(paths: Paths, args: argparse.Namespace) -> dict[str, Any]:
    """Stage `prepare` without Ray."""
    paths.prepared.mkdir(parents=True, exist_ok=True)
    counts = prepare(DataSettings(reader="table", path=str(paths.raw)), paths.prepared, use_ray=False)
    return {name: counts[name] for name in ("items", "users", "interactions", "train_prefixes")}


def embed(paths: Paths, args: argparse.Namespace) -> dict[str, Any]:
    """TF-IDF and SVD: fit, encode into the cache, save; what stage `tokenize` does first."""
    settings = EncoderSettings(text="tfidf-svd", dimension=args.dimension)
    texts = load_catalog(paths.prepared).texts
    begin = time.perf_counter()
    encoder = fit_encoder(texts, settings)
    fitted = time.perf_counter()
    embeddings_NE = encode_catalog(texts, settings, paths.cache, encoder=encoder)
    encoded = time.perf_counter()
    paths.embedded.mkdir(parents=True, exist_ok=True)
    save_vectors(paths.embedded, embeddings_NE, None)
    save_encoder(encoder, paths.embedded)
    return {"width": embeddings_NE.shape[1], "fit_s": fitted - begin, "encode_s": encoded - fitted}


def again(paths: Paths, args: argparse.Namespace) -> dict[str, Any]:
    """Encode the catalog again, every text from the cache."""
    from genrec.encoders import load_encoder

    settings = EncoderSettings(text="tfidf-svd", dimension=args.dimension)
    texts = load_catalog(paths.prepared).texts
    embeddings_NE = encode_catalog(texts, settings, paths.cache, encoder=load_encoder(paths.embedded))
    stored_NE = load_text_vectors(paths.embedded).numpy()
    return {"correct": bool(np.array_equal(embeddings_NE, stored_NE))}


def minilm(paths: Paths, args: argparse.Namespace) -> dict[str, Any]:
    """Throughput of MiniLM on a random sample of the texts; the rest is extrapolated."""
    texts = load_catalog(paths.prepared).texts
    chosen = np.random.default_rng(0).choice(len(texts), min(args.minilm, len(texts)), replace=False)
    encoder = fit_encoder(texts, EncoderSettings())
    encoder.encode([texts[n] for n in chosen[:64]])  # loads the weights
    begin, used = time.perf_counter(), _cpu_seconds()
    encoder.encode([texts[n] for n in chosen])
    seconds, cpu_seconds = time.perf_counter() - begin, _cpu_seconds() - used
    return {
        "texts": len(chosen),
        "texts_per_s": len(chosen) / seconds,
        "texts_per_cpu_s": len(chosen) / cpu_seconds,
        "cpu_hours_a_million": 1e6 * cpu_seconds / len(chosen) / 3600,
    }


def kmeans(paths: Paths, args: argparse.Namespace) -> dict[str, Any]:
    """Residual k-means with a collision level: fit, encode, unique IDs, metrics, table."""
    return _tokenize(paths, paths.kmeans, TokenizerSettings(kind="residual-kmeans"))


def rqvae(paths: Paths, args: argparse.Namespace) -> dict[str, Any]:
    """RQ-VAE for few epochs (one to warm up, the others with codes), then as :func:`kmeans`."""
    settings = TokenizerSettings(kind="rq-vae", epochs=args.epochs, batch_size=args.rqvae_batch)
    found = _tokenize(paths, paths.rqvae, settings)
    return {**found, "steps": args.epochs * -(-args.items // args.rqvae_batch)}


def _tokenize(paths: Paths, out: Path, settings: TokenizerSettings) -> dict[str, Any]:
    embeddings_NE = load_text_vectors(paths.embedded).numpy()
    table, metrics = fit_tokenizer(embeddings_NE, settings, out)
    names = ("perplexity", "collisions", "crowd", "reconstruction_error", "level_sizes")
    return {"correct": table.n_items == len(embeddings_NE), **{name: metrics[name] for name in names}}


def unique(paths: Paths, args: argparse.Namespace) -> dict[str, Any]:
    """The other way to unique IDs: colliding items of the k-means codes move to free codes."""
    quantizer = Tokenizer.load(paths.kmeans).quantizer
    embeddings_NE = load_text_vectors(paths.embedded).numpy()
    wanted_NL = SidTable.load(paths.kmeans).codes_NL[:, : quantizer.n_levels]

    def distances(rows: Any, codes: Any, level: int) -> Any:
        return quantizer.distances(embeddings_NE[rows], codes, level)

    begin = time.perf_counter()
    codes_NL = place(wanted_NL, quantizer.level_sizes, 1, distances)
    seconds = time.perf_counter() - begin
    distinct = len(SidTable(codes_NL, quantizer.level_sizes).trie.leaf_item) == len(wanted_NL)
    return {"correct": distinct, "moved": int((codes_NL != wanted_NL).any(axis=1).sum()), "place_s": seconds}


def table(paths: Paths, args: argparse.Namespace) -> dict[str, Any]:
    """Read the table, check and hash it, build the trie and its tensors."""
    begin = time.perf_counter()
    read = SidTable.load(paths.kmeans)
    loaded = time.perf_counter()
    nodes = len(read.trie.code)
    built = time.perf_counter()
    TrieTensors.of(read, torch.device("cpu"))
    return {"load_s": loaded - begin, "trie_s": built - loaded, "nodes": nodes, "version": read.version}


def worker(paths: Paths, args: argparse.Namespace) -> dict[str, Any]:
    """What one of two training workers holds and does before its steps: the data, an epoch's order, its batches."""
    task = _factory(paths, args)()
    begin = time.perf_counter()
    steps = targets = 0
    for part in task.batches(0, rank=0, world=2):
        steps, targets = steps + 1, targets + part.batch.size
        if steps == args.steps:
            break
    return {"batches": steps, "rows": targets, "batches_s": time.perf_counter() - begin, "rss_mib": rss_mib()}


def train(paths: Paths, args: argparse.Namespace) -> dict[str, Any]:
    """The first steps of an epoch in the real loop: data from the artifact, validation, checkpoint."""
    factory = _factory(paths, args)
    task = factory()
    begin = time.perf_counter()
    result = fit(task, factory.settings.training, 0, paths.training, SingleStrategy())
    first, last = result.history[0], [row for row in result.history if "loss" in row][-1]
    return {
        "steps": result.steps,
        "fit_s": time.perf_counter() - begin,
        "loss": [first["loss"], last["loss"]],
        "correct": result.steps == args.steps and last["loss"] < first["loss"],
    }


def _factory(paths: Paths, args: argparse.Namespace) -> HostFactory:
    training = TrainingSettings(
        strategy="single",
        batch_size=args.batch,
        max_steps=args.steps,
        validation_users=256,
        log_every=max(1, args.steps // 10),
    )
    settings = Settings(
        run=RunSettings(name="scale"), model=SHAPE, training=training, evaluation=EvaluationSettings(batch_size=32)
    )
    return HostFactory(settings, paths.prepared, paths.kmeans)


def rss_mib() -> float:
    """Resident memory of this process now."""
    status = Path("/proc/self/status")
    if not status.is_file():
        return peak_mib()
    return _kib(status, "VmRSS") / 1024


def high_water_mib() -> float:
    """Largest resident memory of this program (getrusage's figure may be that of the process it was started from)."""
    status = Path("/proc/self/status")
    return _kib(status, "VmHWM") / 1024 if status.is_file() else peak_mib()


def _kib(status: Path, name: str) -> int:
    return next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith(f"{name}:"))


PHASES: dict[str, Callable[[Paths, argparse.Namespace], dict[str, Any]]] = {
    "write": write,
    "prepare": prepare_data,
    "embed": embed,
    "embed-cached": again,
    "minilm": minilm,
    "residual-kmeans": kmeans,
    "rq-vae": rqvae,
    "unique": unique,
    "sid-table": table,
    "worker": worker,
    "train": train,
}


def main() -> None:
    """Run one phase."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("phase", choices=PHASES)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--items", type=int, required=True)
    add_options(parser)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    start, began, used = rss_mib(), time.perf_counter(), _cpu_seconds()
    found = PHASES[args.phase](Paths(args.folder), args)
    figures = {
        "seconds": time.perf_counter() - began,
        "cpu_seconds": _cpu_seconds() - used,
        "start_mib": start,
        "peak_mib": high_water_mib(),
    }
    print(json.dumps({**figures, **found}))


def _cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


if __name__ == "__main__":
    sys.exit(main())
