"""``python -m cluster submit`` and its kin on three nodes that `cluster up-local` started, the token on."""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from cluster.__main__ import main
from cluster.local import LocalCluster
from genrec.config import ClusterSettings
from tests.serving import MODEL, raw_data

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]
NODES, CPUS = 3, 2
TINY = (
    "data.reader=table",
    "encoder={text: tfidf-svd, dimension: 8}",
    "tokenizer={kind: residual-kmeans, level_sizes: [8, 8]}",
    f"model={json.dumps(MODEL)}",
    "training={strategy: ddp, workers: 2, cpus_per_worker: 1.5, epochs: 2, batch_size: 64, tensorboard: false}",
    "baselines.sasrec={d_model: 16, layers: 1, epochs: 1, negatives: null}",
    "evaluation={bootstrap_samples: 20, beams: 20}",
    "bundle.floor=none",
    "cluster.job.cpus=0.5",
    "cluster.job.env={RAY_DATA_DEFAULT_WAIT_FOR_MIN_ACTORS_S: '120'}",
)
"""A worker takes three quarters of a node, so that two of them never share one."""


@pytest.fixture(scope="module")
def local():
    """A head without work and two workers, as `cluster up-local` makes them."""
    with tempfile.TemporaryDirectory(prefix="g") as folder:  # a short path: Ray's sockets lie below it
        cluster = LocalCluster(ClusterSettings(), Path(folder))
        try:
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv("OMP_NUM_THREADS", "1")
                patch.setenv("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "20")  # Ray waits a minute for a lost node
                cluster.up(NODES, CPUS, 100)
            yield cluster
        finally:
            cluster.down()


@pytest.fixture(scope="module")
def head(local, tmp_path_factory):
    """The Jobs API's address, and a home without a token."""
    return local.up(NODES, CPUS, 100)[0], tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """The library and its settings, without the rest of the working tree."""
    folder = tmp_path_factory.mktemp("checkout")
    shutil.copytree(ROOT / "genrec", folder / "genrec", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "ray_config.yaml", folder)
    return folder


@dataclass(frozen=True)
class Done:
    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def call(local, head, checkout, tmp_path, monkeypatch, capsys):
    """``python -m cluster WORDS`` in the checkout; in this process, because an import of Ray takes its time."""
    url, home = head
    monkeypatch.chdir(checkout)
    for name in [name for name in os.environ if name.startswith("RAY_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(home))

    def run(*words: str, token: str | None = "") -> Done:
        with monkeypatch.context() as patch:
            if token is not None:
                patch.setenv("RAY_AUTH_TOKEN", token or local.token_file.read_text())
            capsys.readouterr()
            code = main([*words, "--set", f"cluster.address={url}", "--set", f"cluster.storage.uri=file://{tmp_path}"])
            told = capsys.readouterr()
            return Done(code, told.out, told.err)

    return run


def test_a_stage_runs_on_the_cluster_and_is_listed(call, tmp_path):
    done = call("submit", "prepare")
    assert done.returncode == 0, done.stderr
    assert "succeeded" in done.stderr
    (manifest,) = tmp_path.glob("runs/**/manifest.json")  # below the storage, made by the job
    assert str(manifest.parent) in done.stdout  # the log was followed
    identity = done.stderr.split()[1]
    assert call("status", identity).stdout.startswith("succeeded  python -m genrec prepare")
    assert str(manifest.parent) in call("logs", identity).stdout
    assert f"{identity}  succeeded" in call("list").stdout
    assert "had ended already" in call("stop", identity).stdout
    made = manifest.stat().st_mtime_ns
    assert call("submit", "prepare").returncode == 0  # the same submit again finds what is done
    assert manifest.stat().st_mtime_ns == made
    assert list(tmp_path.glob("runs/**/manifest.json")) == [manifest]


def test_a_failed_job_hands_on_its_exit_code(call):
    failed = call("submit", "prepare", "--set", "data.reader=table", "--set", "data.path=/no/such/file")
    assert failed.returncode == 2
    assert "/no/such/file" in failed.stdout


def test_a_stopped_job_is_told_and_no_failure_of_ours(call):
    started = call("submit", "run", "--detach")
    assert started.returncode == 0, started.stderr
    identity = started.stderr.split()[1]
    assert "is being stopped" in call("stop", identity).stdout
    followed = call("logs", "--follow", identity)
    assert followed.returncode == 130
    assert "stopped" in followed.stderr


@pytest.mark.parametrize(("token", "words"), [("wrong" * 10, ["list"]), (None, ["submit", "prepare"])])
def test_a_wrong_token_is_one_line(call, token, words):
    refused = call(*words, token=token)
    assert refused.returncode == 2
    assert "refuses the token" in refused.stderr
    assert refused.stderr.count("\n") == 1


def test_an_unknown_job_is_one_line(call):
    unknown = call("status", "raysubmit_none")
    assert unknown.returncode == 2
    assert "no job 'raysubmit_none'" in unknown.stderr
    assert unknown.stderr.count("\n") == 1


def test_too_large_an_upload_is_one_line_and_nothing_is_sent(call, checkout):
    large = checkout / "weights.bin"
    with large.open("wb") as stream:
        stream.truncate(101 * 2**20)
    try:
        refused = call("submit", "prepare")
    finally:
        large.unlink()
    assert refused.returncode == 2
    assert "weights.bin (101.0 MiB)" in refused.stderr
    assert refused.stderr.count("\n") == 1


def tiny(raw: Path, *more: str) -> list[str]:
    return [word for given in (*TINY, f"data.path={raw}", *more) for word in ("--set", given)]


def test_a_run_ends_green_with_workers_and_actors_on_different_nodes(call, tmp_path):
    raw = raw_data(tmp_path / "raw")
    memory = "plugin.memory={finetune: true, epochs: 1, patience: null}"
    done = call("submit", "run", *tiny(raw, memory, "retrieval={block_queries: 40, paths: [text]}"))
    assert done.returncode == 0, done.stdout[-3000:]
    groups = re.findall(r"2 workers on\s+nodes (\w{8}), (\w{8}) from step 0", " ".join(done.stdout.split()))
    assert len(groups) == 3, "SASRec, the host, and its decoder once more"
    assert all(first != second for first, second in groups)
    text = " ".join(done.stdout.split())
    actors = re.findall(r"\d+ units by \d+ actors: ((?:\d+ on node \w{8}(?:, )?)+)", text)
    assert any(told.count("on node") == 2 for told in actors), text[-3000:]
    assert "report: " in done.stdout


def test_more_than_the_cluster_has_is_one_line(call, tmp_path):
    raw = raw_data(tmp_path / "raw")
    failed = call("submit", "sasrec", *tiny(raw, "training.workers=3"))
    assert failed.returncode == 2
    (line,) = [line for line in failed.stdout.splitlines() if line.startswith("genrec sasrec: ")]
    assert "3 workers of 1.5 CPU each do not fit the cluster, which has room for 2 (3 nodes: " in line


def test_a_killed_node_is_survived_and_comes_back(call, local, tmp_path):
    """A worker node loses its power in pretraining: the rest goes on from the last checkpoint, and tells the loss."""
    raw = raw_data(tmp_path / "raw")
    assert call("submit", "tokenize", *tiny(raw)).returncode == 0
    long = ("training.workers_min=1", "training.epochs=6", "training.checkpoint_steps=5", "training.log_every=1")
    curves = tmp_path / "runs" / "artifacts" / "pretrain"
    victim: list[int] = []

    def kill_when_it_trains():
        deadline = time.monotonic() + 300
        while time.monotonic() < deadline and not victim:
            rows = [path for path in curves.glob(".*.scratch/metrics.jsonl") if path.read_text().count("\n") > 12]
            if rows:
                victim.append(node_without_the_job())
                local.down(victim[0])
            time.sleep(0.05)

    def node_without_the_job() -> int:
        """The worker node below which no process runs `genrec`."""
        state = local._read()
        assert state is not None
        for index, node in state["nodes"].items():
            starter = node.starter.find()
            words = [" ".join(one.cmdline()) for one in starter.children(recursive=True)] if starter else []
            if index != "0" and not any("-m genrec" in line for line in words):
                return int(index)
        raise AssertionError("the job is on every node")

    watcher = threading.Thread(target=kill_when_it_trains, daemon=True)
    watcher.start()
    done = call("submit", "pretrain", *tiny(raw, *long))
    watcher.join()
    assert victim
    assert done.returncode == 0, done.stdout[-3000:]
    text = " ".join(done.stdout.split())
    first, *_, last = re.findall(
        r"(\d) workers on\s+nodes ([\w, ]+?) from step (\d+)(?:, (\d+) steps done again)?", text
    )
    assert (first[0], first[2]) == ("2", "0")
    assert last[0] == "1"
    assert int(last[2]) >= 10
    assert local.up(NODES, CPUS, 100)[1] == victim, "the same command brings the lost node back"


def test_what_ends_is_what_was_started(tmp_path):
    """`down-local` ends its own processes and no other Ray of the machine; a folder of others is refused."""
    stranger = psutil.Popen(["sleep", "60"])
    try:
        with tempfile.TemporaryDirectory(prefix="g") as folder:
            cluster = LocalCluster(ClusterSettings(name="other"), Path(folder))
            assert cluster.down() == 0
            cluster.up(1, 1, 100)
            state = cluster._read()
            assert state is not None
            mine = [node.starter.find() for node in state["nodes"].values()]
            family = [process for one in mine if one for process in (one, *one.children(recursive=True))]
            assert len(family) > 3
            assert cluster.down() >= len(family) - 2  # agents come and go
            assert not [process for process in family if process.is_running()]
            assert not cluster._state_file.exists()
        assert stranger.is_running()
    finally:
        stranger.kill()
        stranger.wait()
