"""Tiny real bundles for the tests of serving: 240 users, 60 items with texts, a small host.

``raw_data`` writes interactions of users who stay within a genre, so that a trained model has something to
learn; ``pipeline_bundle`` runs every stage over them; ``assembled_bundle`` puts a bundle together around a
host with seeded weights in about a second (what is served must equal what is generated, trained or not).
"""

import signal
import subprocess
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from genrec.artifacts import Manifest, write_manifest
from genrec.bundle import write_bundle
from genrec.config import Settings
from genrec.data.load import load_catalog, load_interactions
from genrec.data.prepare import prepare
from genrec.genplugin.augmented import CONTENT_KNN, ITEM_KNN, LINEAR, SASREC, AugmentedGenerator, assemble
from genrec.genplugin.gate_learning import learn_gate
from genrec.models import build_backbone
from genrec.models.item_knn import ItemKNN
from genrec.models.linear import linear_fit
from genrec.models.sasrec import SasRec
from genrec.retrieval.content_knn import by_content, nearest_items
from genrec.stages import Pipeline
from genrec.tokenizer.sid_table import SidTable

USERS, ITEMS, GENRES = 240, 60, 4
MODEL = {"d_model": 32, "d_ff": 64, "heads": 2, "d_head": 16, "encoder_layers": 1, "decoder_layers": 1}


def end_service(process: subprocess.Popen[bytes]) -> None:
    """Ask ``python -m serve`` to end and wait until it has; killed where it does not."""
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(60)
    except subprocess.TimeoutExpired:
        process.kill()


def raw_data(folder: Path, seed: int = 0) -> Path:
    """Interactions and items as CSV; item ids hold a space, a quote and letters beyond ASCII."""
    rng = np.random.default_rng(seed)
    names = [f"item é'{i}" for i in range(ITEMS)]
    rows = ["user,item,time"]
    for user in range(USERS):
        genre = user % GENRES
        for step, item in enumerate(rng.permutation(np.arange(genre, ITEMS, GENRES))[: rng.integers(6, 12)]):
            rows.append(f"u{user},{names[item]},{1_000_000 + 100 * user + step}")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "interactions.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    kinds = ("sea voyage", "desert crime", "winter romance", "robot comedy")
    items = [f"{name},{kinds[i % GENRES].title()} Part {i},a {kinds[i % GENRES]}" for i, name in enumerate(names)]
    (folder / "items.csv").write_text("\n".join(["item,title,text", *items]) + "\n", encoding="utf-8")
    return folder


def pipeline_bundle(folder: Path) -> tuple[Path, Settings]:
    """The bundle that all stages make, trained for a few seconds in this process, and the run's settings."""
    settings = Settings.model_validate(
        {
            "run": {"directory": str(folder / "runs"), "name": "tiny"},
            "data": {"reader": "table", "path": str(raw_data(folder / "raw"))},
            "encoder": {"text": "tfidf-svd", "dimension": 8},
            "tokenizer": {"kind": "residual-kmeans", "level_sizes": [8, 8]},
            "model": MODEL,
            "training": {"strategy": "single", "epochs": 10, "batch_size": 64, "tensorboard": False},
            "baselines": {"sasrec": {"d_model": 16, "epochs": 2, "negatives": None}},
            "evaluation": {"bootstrap_samples": 20},
            "bundle": {"floor": "none"},
        }
    )
    return Pipeline(settings).ensure("bundle"), settings


def assembled_bundle(folder: Path, seed: int = 0, *, neighbours: bool = False) -> Path:
    """A bundle below ``folder``; another seed gives other weights, hence another version.

    With ``neighbours`` the bundle has a gate learnt over them, too.
    """
    data = {"reader": "table", "path": str(raw_data(folder / "raw"))}
    settings = Settings.model_validate({"data": data, "model": MODEL})
    prepared = folder / "prepared"
    prepared.mkdir()
    prepare(settings.data, prepared, use_ray=False)
    n_items = len(load_catalog(prepared).item_ids)
    codes_NL = np.stack([np.arange(n_items) % 8, np.arange(n_items) // 8], axis=1).astype(np.int32)
    table = SidTable(codes_NL, (8, 8))
    torch.manual_seed(seed)
    weights = folder / "weights.safetensors"
    host = build_backbone(settings.model, table).eval()
    save_file(host.state_dict(), weights, {"sid_version": table.version})
    if neighbours:
        learnt_neighbours(folder, prepared, settings, host)
    out = folder / "bundle"
    out.mkdir()
    rows = [{"model": "tiger", "dataset": "tiny", "segment": "all", "metric": "hit@10", "value": 0.5}]
    write_bundle(
        out,
        weights=weights,
        prepared=prepared,
        sid_table=table,
        settings={"model": MODEL},
        neighbours=folder / "neighbours" if neighbours else None,
        metrics=rows,
    )
    write_manifest(out, Manifest(stage="bundle", key="0" * 16, sid_version=table.version))
    return out


def learnt_neighbours(folder: Path, prepared: Path, settings: Settings, host: torch.nn.Module) -> AugmentedGenerator:
    """All that stands beside ``host``, in ``folder / "neighbours"``: a SASRec with fresh weights, drawn texts."""
    out = folder / "neighbours"
    out.mkdir()
    data, texts = load_interactions(prepared), load_catalog(prepared).texts
    save_file(SasRec(settings.baselines.sasrec, data.n_items, settings.data.max_history).state_dict(), out / SASREC)
    ItemKNN.fit(data, settings.baselines.item_knn).save(out / ITEM_KNN)
    drawn_NE = np.random.default_rng(0).normal(size=(data.n_items, 16)).astype(np.float32)
    nearest_NN = nearest_items(drawn_NE, 10, settings.retrieval)
    by_content(nearest_NN, settings.baselines.content_knn).save(out / CONTENT_KNN)
    linear_fit(data, settings.data.max_history)(settings.baselines.linear).save(out / LINEAR)
    augmented = assemble(host, data, texts, settings, out)
    learn_gate(augmented, host, data, settings)
    augmented.save(out, host.sid_table.version)
    return augmented
