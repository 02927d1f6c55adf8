"""A tiny settings file with a sweep, for the tests of tune: 240 users, 60 items, epochs of a fraction of a second."""

import copy
import os
import subprocess
import sys
from pathlib import Path

import yaml

from tests.serving import MODEL, raw_data

ROOT = Path(__file__).parents[1]
SPACE = {
    "plugin.substitution.p1": {"low": 0.0, "high": 1.0},
    "plugin.alignment.item": {"low": 0.01, "high": 1.0, "log": True},
    "plugin.substitution.top_k": {"low": 1, "high": 6},
}
SWEEP = {
    "space": SPACE,
    "trials": 5,
    "seeds": [0, 1],
    "objective": {"maximise": ["tail/ndcg@10"], "keep": "head/ndcg@10", "keep_share": 0.5},
    "stopping": {"grace_epochs": 1, "reduction": 2},
}


def write_settings(folder: Path, sweeps: dict | None = None, **sections) -> Path:
    """``settings.yaml`` in ``folder`` with these sweeps, raw data beside it; ``sections`` are merged over the base."""
    folder.mkdir(parents=True, exist_ok=True)
    raw = folder / "raw"
    tree = {
        "run": {"directory": str(folder / "runs"), "name": "tiny"},
        "data": {"reader": "table", "path": str(raw if raw.exists() else raw_data(raw))},
        "encoder": {"text": "tfidf-svd", "dimension": 8},
        "tokenizer": {"kind": "residual-kmeans", "level_sizes": [8, 8]},
        "model": {**MODEL, "encoder_attention": "causal"},
        "plugin": {"language": True, "substitution": {"p1": 0.5, "warmup_epochs": 1}},
        "training": {"strategy": "single", "epochs": 4, "batch_size": 256, "tensorboard": False},
        "baselines": {"sasrec": {"d_model": 16, "epochs": 2, "negatives": None}},
        "evaluation": {"bootstrap_samples": 50},
        "ray": {"num_cpus": 2, "object_store_mib": 200, "dashboard": False},
    }
    for name, section in sections.items():
        tree[name] = {**tree.get(name, {}), **section}
    tree["sweeps"] = {"small": SWEEP} if sweeps is None else sweeps
    path = folder / "settings.yaml"
    path.write_text(yaml.safe_dump(tree))
    return path


def changed(**changes) -> dict:
    """The small sweep with other entries."""
    return {**copy.deepcopy(SWEEP), **changes}


def start_tune(*arguments: str, log: Path) -> subprocess.Popen[bytes]:
    """``python -m tune`` in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "tune", *arguments],
        cwd=ROOT,
        stdout=log.open("wb"),
        stderr=subprocess.STDOUT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
