"""One sweep on a two-node cluster through all that can happen to it: kill -9 of a trial, of the driver and of a node.

Whatever happens, finished trials are not touched again, nothing stays reserved, and in the end TensorBoard's and
MLflow's own readers list what the result grid lists. One Ray start for all of it.
"""

from __future__ import annotations

import json
import math
import os
import signal
import time
from pathlib import Path

import pytest
import ray
from mlflow import MlflowClient
from ray.cluster_utils import Cluster
from ray.util import placement_group_table
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import metadata, plugin_data_pb2

from genrec.cli import main as genrec
from tests.sweeping import changed, start_tune, write_settings
from tune.logs import run_name
from tune.records import DONE, Records
from tune.result import Result
from tune.sweep import Sweep

pytestmark = [pytest.mark.integration, pytest.mark.timeout(1500)]
PATIENCE_S = 600


@pytest.fixture(scope="module")
def cluster():
    node = {"num_cpus": 1, "object_store_memory": 100_000_000}
    cluster = Cluster(initialize_head=True, head_node_args={**node, "include_dashboard": False})
    second = cluster.add_node(**node)
    ray.init(address=cluster.address, log_to_driver=False)
    yield cluster, second
    ray.shutdown()
    cluster.shutdown()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("sweep")


def trials(runs: Path, name: str = "small") -> dict[str, dict]:
    """All records on disk, by key."""
    found = [json.loads(path.read_bytes()) for path in (runs / "sweeps" / name / "trials").glob("[!.]*.json")]
    return {record["key"]: record for record in found}


def wait_for(condition, process, log):
    """What ``condition`` returns once it is true; the sweep must be running until then."""
    patience = time.monotonic() + PATIENCE_S
    while not (found := condition()):
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < patience, log.read_text()
        time.sleep(0.05)
    return found


def reserved() -> list[str]:
    """States of placement groups that are not gone."""
    return [group["state"] for group in placement_group_table().values() if group["state"] != "REMOVED"]


def nothing_is_reserved() -> bool:
    patience = time.monotonic() + 90
    while reserved() and time.monotonic() < patience:
        time.sleep(0.5)
    return not reserved()


@pytest.fixture(scope="module")
def survived(cluster, folder):
    """The sweep after a kill of each kind; what was finished at each kill is remembered."""
    cluster, second = cluster
    sweep = changed(trials=4, retries=2, mlflow=True)
    path = write_settings(folder, {"small": sweep}, training={"epochs": 5}, ray={"address": cluster.address})
    runs, log = folder / "runs", folder / "tune.log"

    def training():
        """A trial in the middle of its training."""
        for record in trials(runs).values():
            if record["state"] == "running" and 1 <= len(record["history"]) <= 3:
                pid = int(record["process"].rpartition(":")[2])
                return record["key"], pid
        return None

    process = start_tune("small", "--config", str(path), log=log)
    try:
        killed, pid = wait_for(training, process, log)
        os.kill(pid, signal.SIGKILL)
        wait_for(lambda: sum(t["state"] in DONE for t in trials(runs).values()) >= 3 and training(), process, log)
    finally:
        process.kill()
        process.wait()
    before = stand(runs)
    assert nothing_is_reserved(), reserved()
    process = start_tune("small", "--config", str(path), log=log)
    try:
        wait_for(training, process, log)
        cluster.remove_node(second, allow_graceful=False)
        assert process.wait(timeout=PATIENCE_S) == 0, log.read_text()
    finally:
        process.kill()
        process.wait()
    return path, killed, before, log.read_text()


def stand(runs: Path) -> dict[str, tuple[dict, dict]]:
    """Record and file times of every trial that is done."""
    return {
        key: (record, times(runs / "artifacts" / "pretrain" / key))
        for key, record in trials(runs).items()
        if record["state"] in DONE
    }


def times(artifact: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in sorted(artifact.rglob("*"))}


def result_of(path: Path) -> Result:
    sweep = Sweep("small", path)
    return Result(sweep, Records(sweep.directory))


def test_the_sweep_ends_with_control_defaults_search_and_confirmation(survived):
    path, killed, _, told = survived
    result = result_of(path)
    found = result.records
    assert all(record.state in ("finished", "stopped") for record in found.trials.values())
    for role in ("control", "defaults"):
        assert {record.seed for record in found.of(role)} == {0, 1}
        assert all(record.state == "finished" for record in found.of(role))
    assert len(found.of("search")) == 4
    assert {r.seed for r in found.trials.values() if r.params == result.best.params and r.state == "finished"} == {0, 1}
    assert found.trials[killed].attempts >= 2
    assert found.trials[killed].state in ("finished", "stopped")
    assert "python -m genrec run --from-sweep small" in told
    assert (result.records.directory / "report.html").is_file()
    assert not (result.records.directory / "ray").exists()


def test_finished_trials_are_not_done_again(survived):
    path, _, before, _ = survived
    assert len(before) >= 3
    after = stand(path.parent / "runs")
    assert {key: after[key] for key in before} == {
        key: ({**record, "roles": after[key][0]["roles"]}, files) for key, (record, files) in before.items()
    }


def test_nothing_stays_reserved_and_stopped_trials_leave_no_checkpoints(survived):
    path, *_ = survived
    assert nothing_is_reserved(), reserved()
    left = [
        p.name for p in (path.parent / "runs/artifacts/pretrain").iterdir() if p.name.endswith((".scratch", ".partial"))
    ]
    assert left == []


def test_stages_below_the_trials_were_made_once(survived):
    path, *_ = survived
    for stage in ("prepare", "tokenize"):
        assert len(list((path.parent / "runs" / "artifacts" / stage).glob("[!.]*"))) == 1


def test_a_finished_sweep_runs_nothing_again(survived):
    path, *_ = survived
    before, log = stand(path.parent / "runs"), path.parent / "again.log"
    process = start_tune("small", "--config", str(path), log=log)
    assert process.wait(timeout=PATIENCE_S) == 0, log.read_text()
    assert stand(path.parent / "runs") == before


def test_training_validates_as_the_final_measure_does(survived):
    """The best epoch's metrics while training are those of the finished trial: same users, same search."""
    path, *_ = survived
    for record in result_of(path).records.trials.values():
        if record.state == "finished":
            best = max(record.history, key=lambda row: row["ndcg@10"])
            for name, value in record.metrics.items():
                assert best[name] == pytest.approx(value, abs=1e-6), name


def test_tensorboards_reader_lists_the_grid(survived):
    path, *_ = survived
    records = result_of(path).records
    assert {p.name for p in (records.directory / "tensorboard").iterdir()} == {
        run_name(record) for record in records.trials.values()
    }
    for record in records.trials.values():
        events = EventAccumulator(str(records.directory / "tensorboard" / run_name(record))).Reload()
        for row in record.history:
            for name in set(row) - {"epoch", "step"}:
                (value,) = [event.value for event in events.Scalars(name) if event.step == row["epoch"]]
                assert value == pytest.approx(row[name], abs=1e-6)
        for name, value in record.metrics.items():
            assert [event.value for event in events.Scalars(f"final/{name}")] == [pytest.approx(value, abs=1e-6)]
        content = events.SummaryMetadata(metadata.SESSION_START_INFO_TAG).plugin_data.content
        started = plugin_data_pb2.HParamsPluginData.FromString(content).session_start_info
        for name, value in record.params.items():
            assert started.hparams[name].number_value == pytest.approx(value)
        content = events.SummaryMetadata(metadata.EXPERIMENT_TAG).plugin_data.content
        listed = plugin_data_pb2.HParamsPluginData.FromString(content).experiment
        assert {f"final/{name}" for name in record.metrics} <= {info.name.tag for info in listed.metric_infos}


def test_mlflows_reader_lists_the_grid(survived):
    path, *_ = survived
    records = result_of(path).records
    client = MlflowClient(tracking_uri=f"sqlite:///{(path.parent / 'runs/sweeps/mlflow.db').resolve()}")
    experiment = client.get_experiment_by_name("sweep/small")
    runs = {run.data.tags["key"]: run for run in client.search_runs([experiment.experiment_id])}
    assert set(runs) == set(records.trials)
    for key, record in records.trials.items():
        run = runs[key]
        assert run.info.status == "FINISHED"
        assert run.data.tags["state"] == record.state
        assert {name: float(run.data.params[name]) for name in record.params} == pytest.approx(record.params)
        assert run.data.params["run.seed"] == str(record.seed)
        final = {n.removeprefix("final/"): v for n, v in run.data.metrics.items() if n.startswith("final/")}
        assert final == {name.replace("@", "_at_"): pytest.approx(value) for name, value in record.metrics.items()}
        for name in ("ndcg@10", "tail/ndcg@10"):
            points = client.get_metric_history(run.info.run_id, name.replace("@", "_at_"))
            assert sorted((p.step, p.value) for p in points) == [
                (row["epoch"], pytest.approx(row[name])) for row in record.history
            ]
        assert [file.path for file in client.list_artifacts(run.info.run_id)] == ["trial.json"]


def test_the_best_settings_are_trained_already(survived, capsys):
    path, *_ = survived
    best = result_of(path).best.records[0]
    manifest = path.parent / "runs" / "artifacts" / "pretrain" / best.key / "manifest.json"
    made = manifest.stat().st_mtime_ns
    assert genrec(["pretrain", "--config", str(path), "--from-sweep", "small"]) == 0
    assert best.key in capsys.readouterr().out
    assert manifest.stat().st_mtime_ns == made


def test_trials_may_be_ray_train_runs(cluster, folder):
    """Two DDP workers of half a CPU each a trial; ASHA stops a driver, and its workers go with it."""
    sweep = changed(
        trials=1,
        seeds=[0],
        mlflow=False,
        overrides={"training": {"strategy": "ddp", "workers": 2, "cpus_per_worker": 0.5}},
    )
    path = write_settings(folder, {"spread": sweep}, training={"epochs": 3}, ray={"address": cluster[0].address})
    log = folder / "spread.log"
    process = start_tune("spread", "--config", str(path), log=log)
    try:
        assert process.wait(timeout=PATIENCE_S) == 0, log.read_text()
    finally:
        process.kill()
    found = trials(folder / "runs", "spread").values()
    assert len(found) == 3
    assert all(record["state"] in ("finished", "stopped") for record in found), log.read_text()
    assert nothing_is_reserved(), reserved()
    patience = time.monotonic() + 60
    whole = ray.cluster_resources()["CPU"]
    while not math.isclose(ray.available_resources().get("CPU", 0), whole) and time.monotonic() < patience:
        time.sleep(0.5)
    assert ray.available_resources()["CPU"] == pytest.approx(whole)
