"""``python -m cluster submit`` and its kin on three nodes that `cluster up-local` started, the token on.

Each node has a folder of its own, where a run at an S3 URI has its mirror: what one writes there no other sees.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from cluster.__main__ import main
from cluster.local import LocalCluster
from cluster.processes import Node, Process
from genrec.config import ClusterSettings
from tests.object_store import object_store
from tests.serving import MODEL, raw_data

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]
NODES, CPUS, BUCKET = 3, 2, "shop"
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
    "cluster.job.env={RAY_DATA_DEFAULT_WAIT_FOR_MIN_ACTORS_S: '600'}",
)
"""A worker takes three quarters of a node, so that two of them never share one."""


@pytest.fixture(scope="module")
def objects():
    """An object store on the loopback; the nodes find it by their environment, as they would find any other."""
    with object_store(BUCKET) as client:
        yield client


@pytest.fixture(scope="module")
def local(objects):
    """A head without work and two workers, as `cluster up-local` makes them."""
    with tempfile.TemporaryDirectory(prefix="g") as folder:  # a short path: Ray's sockets lie below it
        cluster = LocalCluster(ClusterSettings(), Path(folder))
        try:
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv("OMP_NUM_THREADS", "1")
                cluster.up(NODES, CPUS, 100, Path(folder) / "own")
            yield cluster
        finally:
            cluster.down()


@pytest.fixture(scope="module")
def head(local, tmp_path_factory):
    """The Jobs API's address, and a home without a token."""
    address, started = local.up(NODES, CPUS, 100)
    assert not started, "all are there"
    return address, tmp_path_factory.mktemp("home")


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

    def run(*words: str, token: str | None = "", storage: str = f"file://{tmp_path}") -> Done:
        with monkeypatch.context() as patch:
            if token is not None:
                patch.setenv("RAY_AUTH_TOKEN", token or local.token_file.read_text())
            capsys.readouterr()
            code = main([*words, "--set", f"cluster.address={url}", "--set", f"cluster.storage.uri={storage}"])
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


def told_by(log: str) -> list[str]:
    """What a run that failed did until then, and the end of its log."""
    lines = log.splitlines()
    steps = [line for line in lines if re.search(r"made in|workers on|retrieval cache|resources|retr(y|ies)", line)]
    return [*steps, "...", *lines[-25:]]


def test_a_run_on_nodes_that_share_nothing_but_s3(call, local, objects, tmp_path_factory):
    """Workers and actors on both nodes, every stage on S3; then more than the cluster has, which is one line."""
    raw, own = raw_data(tmp_path_factory.mktemp("raw")), local.folder.parent / "own"
    given = tiny(
        raw,
        f"run.mirror={own}",
        "plugin.memory={finetune: true, epochs: 1, patience: null}",
        "retrieval={block_queries: 40, paths: [text]}",  # three actors, more than one node holds
    )
    storage = f"s3://{BUCKET}/deep"
    done = call("submit", "run", *given, storage=storage)
    assert done.returncode == 0, "\n".join(told_by(done.stdout))
    text = " ".join(done.stdout.split())
    groups = re.findall(r"2 workers on\s+nodes (\w{8}), (\w{8}) from step 0", text)
    assert len(groups) == 3, "SASRec, the host, and its decoder once more"
    assert all(first != second for first, second in groups)
    actors = re.findall(r"\d+ units by \d+ actors: ((?:\d+ on node \w{8}(?:, )?)+)", text)
    assert any(told.count("on node") == 2 for told in actors), text[-3000:]
    assert f"report: {storage}/runs/" in text
    pages = objects.get_paginator("list_objects_v2").paginate(Bucket=BUCKET)
    keys = [entry["Key"] for page in pages for entry in page.get("Contents", ()) if not entry["Key"].endswith("/")]
    assert {f"deep/runs/default/{name}" for name in ("run.json", "report.html", "metrics.json")} <= set(keys)
    assert not [key for key in keys if "/uploads/" in key], "checkpoints go with the commit of their stage"
    assert not list(own.iterdir()), "nothing was written where this process, or another node, could see it"

    failed = call("submit", "sasrec", *given, "--set", "training.workers=3", storage=storage)
    assert failed.returncode == 2
    (line,) = [line for line in failed.stdout.splitlines() if line.startswith("genrec sasrec: ")]
    assert "3 workers of 1.5 CPU each do not fit the cluster, which has room for 2 (3 nodes: " in line
    assert "up to date" in failed.stdout, "the same submit again finds what is done"


def test_what_ends_is_what_was_started(local):
    """`down-local` ends one worker or all, its own processes and no other Ray of the machine."""
    stranger = psutil.Popen(["sleep", "60"])
    try:
        state = local._read()
        assert state is not None
        lost = processes_of(state["nodes"].pop("2"))
        assert local.down(2) >= 3
        assert not [process for process in lost if process.find()]
        family = [process for node in state["nodes"].values() for process in processes_of(node)]
        assert len(family) > 6
        assert len([process for process in family if process.find()]) >= len(family) - 4  # workers come and go
        assert local.down() >= len(family) - 4
        assert not [process for process in family if process.find()]
        assert not local._state_file.exists()
        assert stranger.is_running()
    finally:
        stranger.kill()
        stranger.wait()


def processes_of(node: Node) -> list[Process]:
    starter = node.starter.find()
    assert starter is not None
    return [Process.of(one) for one in (starter, *starter.children(recursive=True))]
