"""The runner: skips what is finished, makes what is missing, refuses what was altered."""

from __future__ import annotations

import itertools
import json
import multiprocessing
import os
import signal
from pathlib import Path

import pytest

from genrec.config import Settings
from genrec.errors import ArtifactError, DataError, SettingsError
from genrec.stages import Context, Outcome, Pipeline, Stage, open_stage


def toy_stages(calls: list[str], raw: Path) -> dict[str, Stage]:
    """Three real stages over one text file: number its lines, double them, join both."""

    def number(context: Context) -> Outcome:
        calls.append("prepare")
        lines = raw.read_text().splitlines()
        (context.out / "lines.json").write_text(json.dumps(lines))
        return Outcome(metrics={"lines": len(lines)})

    def double(context: Context) -> Outcome:
        calls.append("tokenize")
        (context.scratch / "progress").write_text("begun")
        lines = json.loads((context.inputs["prepare"] / "lines.json").read_text())
        times = context.settings.training.epochs
        (context.out / "lines.json").write_text(json.dumps(lines * times))
        return Outcome(sid_version="v1")

    def join(context: Context) -> Outcome:
        calls.append("evaluate")
        parts = [(context.inputs[name] / "lines.json").read_text() for name in ("prepare", "tokenize")]
        (context.out / "metrics.json").write_text("\n".join(parts))
        (context.out / "report.html").write_text("<p>" + str(context.manifests["prepare"].metrics["lines"]))
        return Outcome()

    return {
        stage.name: stage
        for stage in (
            Stage("prepare", "", number, depends=("data",), sources=lambda settings: {"raw": raw}),
            Stage("tokenize", "", double, depends=("training.epochs",), inputs=("prepare",), resumable=True),
            Stage("evaluate", "", join, depends=("evaluation",), inputs=("prepare", "tokenize")),
        )
    }


@pytest.fixture
def raw(tmp_path) -> Path:
    path = tmp_path / "raw.txt"
    path.write_text("one\ntwo\n")
    return path


def settings(tmp_path: Path, **training: object) -> Settings:
    run = {"name": "first", "directory": str(tmp_path / "runs")}
    return Settings.model_validate({"run": run, "training": {"epochs": 2, **training}})


class Recorder:
    def __init__(self) -> None:
        self.events: list[tuple[str, str]] = []

    def begin(self, stage, *, resumed):
        self.events.append((stage.name, "resume" if resumed else "begin"))

    def end(self, stage, key, state, seconds):
        self.events.append((stage.name, state))

    def stop(self):
        pass


def test_makes_what_is_missing_and_skips_what_is_finished(tmp_path, raw):
    calls: list[str] = []
    stages = toy_stages(calls, raw)
    first = Pipeline(settings(tmp_path), stages=stages).ensure("evaluate")
    assert calls == ["prepare", "tokenize", "evaluate"]
    reporter = Recorder()
    again = Pipeline(settings(tmp_path), stages=stages, reporter=reporter)
    assert [again.ensure(name) for name in stages][-1] == first
    assert calls == ["prepare", "tokenize", "evaluate"]
    assert reporter.events == [(name, "up to date") for name in stages]


def test_a_finished_artifact_needs_none_of_its_inputs(tmp_path, raw):
    import shutil

    calls: list[str] = []
    stages = toy_stages(calls, raw)
    Pipeline(settings(tmp_path), stages=stages).ensure("evaluate")
    shutil.rmtree(tmp_path / "runs" / "artifacts" / "prepare")
    Pipeline(settings(tmp_path), stages=stages).ensure("evaluate")
    assert len(calls) == 3


def test_changed_setting_makes_only_what_depends_on_it(tmp_path, raw):
    calls: list[str] = []
    stages = toy_stages(calls, raw)
    Pipeline(settings(tmp_path), stages=stages).ensure("evaluate")
    Pipeline(settings(tmp_path, epochs=3), stages=stages).ensure("evaluate")
    assert calls[3:] == ["tokenize", "evaluate"]
    Pipeline(settings(tmp_path), stages=stages).ensure("evaluate")
    assert len(calls) == 5  # the first run's artifacts are still there


def test_manifest_tells_inputs_settings_and_version(tmp_path, raw):
    pipeline = Pipeline(settings(tmp_path), stages=toy_stages([], raw))
    pipeline.ensure("tokenize")
    manifest = pipeline.manifest("tokenize")
    assert manifest.inputs == {"prepare": pipeline.plans["prepare"].key}
    assert manifest.settings == {"training.epochs": 2}
    assert manifest.sid_version == "v1"
    assert set(manifest.files) == {"lines.json"}, "scratch is no part of the artifact"
    assert set(pipeline.manifest("prepare").inputs) == {"file:raw"}


def test_altered_artifact_is_refused_and_the_error_says_what_to_delete(tmp_path, raw):
    calls: list[str] = []
    stages = toy_stages(calls, raw)
    path = Pipeline(settings(tmp_path), stages=stages).ensure("prepare")
    (path / "lines.json").write_text("[]")
    for target in ("prepare", "tokenize"):
        with pytest.raises(ArtifactError, match=r"lines\.json: its bytes differ .*Delete the directory"):
            Pipeline(settings(tmp_path), stages=stages).ensure(target)
    assert calls == ["prepare"]


def test_failed_stage_leaves_nothing_finished_and_is_made_anew(tmp_path, raw):
    stages = toy_stages([], raw)

    def fail(context: Context) -> Outcome:
        (context.out / "half").write_text("")
        raise DataError("raw.txt:2: broken")

    broken = {**stages, "prepare": Stage("prepare", "", fail, depends=("data",), sources=stages["prepare"].sources)}
    with pytest.raises(DataError, match="broken"):
        Pipeline(settings(tmp_path), stages=broken).ensure("tokenize")
    pipeline = Pipeline(settings(tmp_path), stages=stages)
    assert pipeline.status() == {"prepare": False, "tokenize": False, "evaluate": False}
    assert [p.name for p in pipeline.ensure("prepare").iterdir() if p.name == "half"] == []


def test_run_folder_links_to_what_is_finished(tmp_path, raw):
    stages = toy_stages([], raw)
    Pipeline(settings(tmp_path), stages=stages).ensure("evaluate")
    folder = tmp_path / "runs" / "first"
    assert (folder / "report.html").read_text() == "<p>2"
    record = json.loads((folder / "run.json").read_text())
    assert record["settings"]["training"]["epochs"] == 2
    assert all(entry["finished"] for entry in record["stages"].values())
    assert open_stage(tmp_path / "runs", "first", "evaluate") == (folder / "report.html").resolve().parent
    # Other settings under the same name: the old report is no longer this run's.
    Pipeline(settings(tmp_path, epochs=3), stages=stages).ensure("prepare")
    assert not (folder / "report.html").exists()
    with pytest.raises(ArtifactError, match="evaluate is not finished in that run"):
        open_stage(tmp_path / "runs", "first", "evaluate")
    with pytest.raises(ArtifactError, match="no such run"):
        open_stage(tmp_path / "runs", "second", "evaluate")


def test_run_folder_moves_with_its_directory(tmp_path, raw):
    Pipeline(settings(tmp_path), stages=toy_stages([], raw)).ensure("evaluate")
    (tmp_path / "runs").rename(tmp_path / "moved")
    assert (tmp_path / "moved" / "first" / "report.html").read_text() == "<p>2"


@pytest.mark.parametrize("name", ["artifacts", "bundles", "cache"])
def test_run_names_of_own_folders_are_refused(tmp_path, raw, name):
    taken = Settings.model_validate({"run": {"name": name, "directory": str(tmp_path)}})
    with pytest.raises(SettingsError, match=r"run\.name"):
        Pipeline(taken, stages=toy_stages([], raw))


def test_missing_raw_file_is_an_error_before_anything_runs(tmp_path):
    absent = Settings.model_validate({"data": {"reader": "research", "path": str(tmp_path / "absent")}})
    with pytest.raises(DataError, match="absent"):
        Pipeline(absent)


def _race(directory: str, raw: str, done: multiprocessing.Queue) -> None:  # type: ignore[type-arg]
    calls: list[str] = []
    Pipeline(settings(Path(directory)), stages=toy_stages(calls, Path(raw))).ensure("evaluate")
    done.put(calls)


def test_processes_that_want_the_same_artifact_make_it_once(tmp_path, raw):
    context = multiprocessing.get_context("fork")
    done = context.Queue()
    racers = [context.Process(target=_race, args=(str(tmp_path), str(raw), done)) for _ in range(4)]
    for racer in racers:
        racer.start()
    calls = [done.get(timeout=60) for _ in racers]
    for racer in racers:
        racer.join(timeout=60)
        assert racer.exitcode == 0
    assert sorted(itertools.chain(*calls)) == ["evaluate", "prepare", "tokenize"]


def test_killed_resumable_stage_finds_its_scratch_again(tmp_path, raw):
    stages = toy_stages([], raw)

    def double_once_killed(context: Context) -> Outcome:
        progress = context.scratch / "progress"
        if not progress.exists():
            progress.write_text("half")
            (context.out / "half").write_text("")
            os.kill(os.getpid(), signal.SIGKILL)
        (context.out / "result").write_text(progress.read_text())
        return Outcome()

    stages["tokenize"] = Stage(
        "tokenize", "", double_once_killed, depends=("training.epochs",), inputs=("prepare",), resumable=True
    )

    def attempt() -> None:
        Pipeline(settings(tmp_path), stages=stages).ensure("tokenize")

    process = multiprocessing.get_context("fork").Process(target=attempt)
    process.start()
    process.join(timeout=60)
    assert process.exitcode == -signal.SIGKILL
    reporter = Recorder()
    pipeline = Pipeline(settings(tmp_path), stages=stages, reporter=reporter)
    path = pipeline.ensure("tokenize")
    assert reporter.events[-2:] == [("tokenize", "resume"), ("tokenize", "resumed")]
    assert (path / "result").read_text() == "half"
    assert set(pipeline.manifest("tokenize").files) == {"result"}
    assert list(path.parent.glob(".*.scratch")) == list(path.parent.glob(".*.partial")) == []
