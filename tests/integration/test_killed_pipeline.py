"""kill -9 at random points of the whole pipeline: nothing partial is ever read, and the end is the same.

The runs happen in one directory with one set of settings, so every byte of every artifact can be compared;
only wall-clock times are left out.
"""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from genrec.artifacts import read_manifest
from genrec.errors import ArtifactError
from genrec.stages import STAGES
from tests.serving import raw_data

pytestmark = pytest.mark.integration

KILLS = 24
ROOT = Path(__file__).parents[2]
TINY = {
    "run": {"name": "tiny"},
    "data": {"reader": "table", "min_user_interactions": 3, "min_item_interactions": 2},
    "encoder": {"text": "tfidf-svd", "dimension": 8},
    "tokenizer": {"kind": "rq-vae", "level_sizes": [8, 8], "hidden": [16], "latent": 8, "epochs": 20},
    "model": {"d_model": 16, "d_ff": 32, "heads": 2, "d_head": 8, "encoder_layers": 1, "decoder_layers": 1},
    "training": {
        "strategy": "single", "batch_size": 64, "epochs": 4, "checkpoint_steps": 7, "tensorboard": False,
        "validation_users": 50,
    },
    "plugin": {"retrieval": True, "gate": {"steps": 40}},
    "baselines": {"sasrec": {"d_model": 16, "layers": 1, "epochs": 6, "negatives": None}},
    "evaluation": {"bootstrap_samples": 50},
}  # fmt: skip


class Zygote:
    """The process that forks the runs."""

    def __init__(self, settings: Path) -> None:
        self.command = json.dumps(["run", "--config", str(settings)]) + "\n"
        self.process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("pipeline_zygote.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=settings.with_suffix(".log").open("w"),
            text=True,
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        )
        assert self._line() == "ready", settings.with_suffix(".log").read_text()

    def run(self, kill_at: Callable[[], None] | None = None) -> int:
        """Exit status of one run; with ``kill_at`` it is killed when that returns, unless it has ended by then."""
        self.process.stdin.write(self.command)
        self.process.stdin.flush()
        child = int(self._line())
        if kill_at is not None:
            kill_at()
            # The child is not reaped before it is killed or has ended, so the number is still its own.
            if Path(f"/proc/{child}").exists():
                os.kill(child, signal.SIGKILL)
        return int(self._line())

    def _line(self) -> str:
        return self.process.stdout.readline().strip()

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait(timeout=60)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("killed")


@pytest.fixture(scope="module")
def zygote(folder) -> Iterator[Zygote]:
    settings = {**TINY, "run": {"name": "tiny", "directory": str(folder / "runs")}}
    settings["data"] = {**TINY["data"], "path": str(raw_data(folder / "raw"))}
    path = folder / "settings.yaml"
    path.write_text(yaml.safe_dump(settings))
    started = Zygote(path)
    yield started
    started.close()


def timeless(name: str, content: bytes) -> bytes:
    """Content without wall-clock times."""
    if name.endswith("metrics.jsonl"):
        return re.sub(rb'"seconds": [0-9.e-]+', b"", content)
    return content


def artifacts(runs: Path) -> dict[str, bytes]:
    """Every file of every finished artifact; reading verifies each."""
    found: dict[str, bytes] = {}
    for directory in sorted((runs / "artifacts").glob("*/[!.]*")):
        manifest = read_manifest(directory)
        for name in manifest.files:
            label = f"{manifest.stage}/{manifest.key}/{name}"
            found[label] = timeless(name, (directory / name).read_bytes())
    return found


def moment(runs: Path, stage: str, delay: float) -> Callable[[], None]:
    """Waits until ``stage`` is being made, and ``delay`` seconds more (or less, if it is not so far in a while)."""
    began = time.time()

    def working() -> bool:
        """The stage's working directory is there, and of this attempt: what a killed one left is older."""
        return any(path.stat().st_mtime > began for path in (runs / "artifacts" / stage).glob(".*.partial"))

    def wait() -> None:
        patience = time.monotonic() + 120
        while not working() and time.monotonic() < patience:
            time.sleep(0.001)
        time.sleep(delay)

    return wait


def where(runs: Path) -> str:
    """What the killed run was at."""
    for path in (runs / "artifacts").glob("*/.*.partial"):
        return path.parent.name
    return "between stages"


def test_kill_at_random_points_of_the_pipeline(zygote, folder, capsys):
    runs = folder / "runs"
    assert zygote.run() == 0
    reference = artifacts(runs)
    assert {label.split("/")[0] for label in reference} == set(STAGES)
    manifests = [read_manifest(path) for path in (runs / "artifacts").glob("*/[!.]*")]
    seconds = {manifest.stage: manifest.metrics["seconds"] for manifest in manifests}
    order = list(STAGES)
    rng, landed, rounds = random.Random(0), Counter(), 0
    while landed.total() < KILLS:
        shutil.rmtree(runs)
        rounds += 1
        for stage in sorted(rng.choices(order, k=5), key=order.index):
            if any((runs / "artifacts" / stage).glob("[!.]*")):
                continue
            status = zygote.run(moment(runs, stage, rng.uniform(0, 1.05) * seconds[stage]))
            assert status in (0, -signal.SIGKILL)
            landed[where(runs)] += status != 0
            so_far = artifacts(runs)  # verifies whatever looks finished
            assert all(reference[label] == content for label, content in so_far.items())
        assert zygote.run() == 0
        final = artifacts(runs)
        assert set(final) == set(reference)
        assert [label for label in reference if final[label] != reference[label]] == []
        left = [p for p in (runs / "artifacts").glob("*/.*") if not p.name.endswith(".lock")]
        assert left == [], "a finished run leaves no working or scratch directory"
    with capsys.disabled():
        print(f"\n{landed.total()} kills in {rounds} rounds: {dict(landed)}")


def test_byte_flips_of_every_artifact_are_refused(zygote, folder):
    assert zygote.run() == 0
    rng, flips = random.Random(1), 0
    directories = sorted((folder / "runs" / "artifacts").glob("*/[!.]*"))
    files = [(d, path) for d in directories for path in sorted(d.rglob("*")) if path.is_file() and path.stat().st_size]
    while flips < max(300, 4 * len(files)):
        directory, path = files[flips % len(files)]
        sound = path.read_bytes()
        broken = bytearray(sound)
        broken[rng.randrange(len(broken))] ^= rng.randrange(1, 256)
        path.write_bytes(broken)
        with pytest.raises(ArtifactError):
            read_manifest(directory)
        path.write_bytes(sound)
        flips += 1
    for directory in directories:
        read_manifest(directory)


def test_a_run_over_an_altered_artifact_says_what_to_delete(zygote, folder):
    assert zygote.run() == 0
    (codes,) = (folder / "runs" / "artifacts" / "tokenize").glob("[!.]*/sid_text.safetensors")
    sound = codes.read_bytes()
    codes.write_bytes(sound[:-1] + bytes([sound[-1] ^ 1]))
    command = [sys.executable, "-m", "genrec", "run", "--config", str(folder / "settings.yaml")]
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert result.returncode == 2
    assert f"{codes}: its bytes differ from the manifest. Delete the directory" in result.stderr.replace("\n", " ")
    assert "Traceback" not in result.stderr
    shutil.rmtree(codes.parent)
    assert zygote.run() == 0
    assert codes.read_bytes() == sound
