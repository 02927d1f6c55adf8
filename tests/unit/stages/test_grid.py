"""Grids over four tiny stages: sharing, resuming, failing, choosing, and the report against the frames themselves."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from genrec.config import Cell, grid_cells, load_grids
from genrec.errors import DataError, SettingsError
from genrec.evaluation.frame import EvalFrame
from genrec.evaluation.grid_sheets import sheets, write_grid
from genrec.evaluation.metrics import gains
from genrec.evaluation.rank import save_frame
from genrec.stages import Context, Outcome, Stage
from genrec.stages.grid import GridRun
from genrec.stages.grid_results import grid_report

USERS = 60
ARMS = {
    "bare": {},
    "wide": {"overrides": {"model": {"d_model": 64}}},
    "votes": {"overrides": {"plugin": {"retrieval": True}}, "about": "shares bare's training"},
}


class Toy:
    """Stages that count their calls; the frames' quality follows from settings and seed."""

    def __init__(self, raw: Path) -> None:
        self.raw, self.calls, self.broken = raw, Counter[str](), set[str]()

    def prepare(self, context: Context) -> Outcome:
        self.calls["prepare"] += 1
        (context.out / "data").write_bytes(self.raw.read_bytes())
        return Outcome()

    def pretrain(self, context: Context) -> Outcome:
        self.calls["pretrain"] += 1
        settings = context.settings
        if f"{settings.run.name}" in self.broken:
            raise DataError("raw.txt:7: broken")
        if f"defect {settings.run.name}" in self.broken:
            raise RuntimeError("out of memory")
        wide = settings.model.d_model == 64
        rows = [
            {"step": 10 * epoch, "validation/ndcg@10": 0.1 * epoch + wide, "validation/tail/ndcg@10": 0.01 * epoch}
            for epoch in range(1, 5 if wide else 4)
        ]
        (context.out / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        return Outcome(metrics={"steps": rows[-1]["step"], "stopped": "patience", "training_seconds": 1.5})

    def evaluate(self, context: Context) -> Outcome:
        self.calls["evaluate"] += 1
        settings = context.settings
        (context.out / "frames").mkdir()
        made = {"popularity": (12, None), "sasrec": (9, settings.run.seed), "tiger": (8, settings.run.seed)}
        if settings.model.d_model == 64:
            made["tiger"] = (6, settings.run.seed)
        if settings.plugin.retrieval:
            made["tiger+neighbours"] = (3, settings.run.seed)
        for model, (spread, seed) in made.items():
            save_frame(toy_frame(model, spread, seed), context.out / "frames" / f"{model}.parquet")
        return Outcome()

    @property
    def stages(self) -> dict[str, Stage]:
        trained = ("model", "run.seed")
        return {
            stage.name: stage
            for stage in (
                Stage("prepare", "", self.prepare, depends=("data",), sources=lambda settings: {"raw": self.raw}),
                Stage("pretrain", "", self.pretrain, depends=trained, inputs=("prepare",), resumable=True),
                Stage("evaluate", "", self.evaluate, depends=("evaluation", "plugin"), inputs=("prepare", "pretrain")),
            )
        }


def toy_frame(model: str, spread: int, seed: int | None) -> EvalFrame:
    rng = np.random.default_rng([len(model), spread, seed or 0])
    ranks = rng.integers(0, spread + 1, USERS)
    lists = np.tile(np.arange(10), (USERS, 1)).astype(np.int64)
    hit = np.flatnonzero(ranks < 10)
    lists[hit, ranks[hit]] = 1000
    tail = np.arange(USERS) % 2 == 0
    scores = np.zeros(lists.shape, dtype=np.float32)
    return EvalFrame(model, np.arange(USERS), lists, np.full(USERS, 1000), {"head": ~tail, "tail": tail}, scores, seed)


@pytest.fixture
def toy(tmp_path) -> Toy:
    (tmp_path / "raw.txt").write_text("one\ntwo\n")
    return Toy(tmp_path / "raw.txt")


@pytest.fixture
def start(tmp_path, toy):
    """A function that reads the grid anew, as another command would."""

    def begin(name: str = "toy", overrides: tuple[str, ...] = (), **changes: Any) -> GridRun:
        path = tmp_path / "s.yaml"
        grid = {
            "control": "bare",
            "seeds": [0, 1],
            "arms": ARMS,
            "overrides": {"evaluation": {"bootstrap_samples": 200}},
        }
        grids = {name: {**grid, **changes}}
        path.write_text(yaml.safe_dump({"run": {"directory": str(tmp_path / "runs")}, "grids": grids}, sort_keys=False))
        grid_settings = load_grids(path)[name]
        return GridRun(
            name, grid_settings, grid_cells(name, grid_settings, path, overrides=overrides), stages=toy.stages
        )

    return begin


def finish(run: GridRun) -> Any:
    report = grid_report(run, "python -m genrec grid toy")
    write_grid(run.folder, report)
    return report


def states(run: GridRun) -> list[str]:
    return [run.record(cell).state for cell in run.cells]


def test_shared_stages_are_made_once_and_a_second_run_makes_nothing(start, toy):
    run = start()
    assert run.to_make(run.cells) == {"prepare": 1, "pretrain": 4, "evaluate": 6}
    run.run(run.cells)
    assert toy.calls == {"prepare": 1, "pretrain": 4, "evaluate": 6}, "votes needs no training of its own"
    first = finish(run)
    begun: list[Cell] = []
    again = start()
    assert again.to_make(again.cells) == {}
    again.run(again.cells, begun=begun.append)
    second = finish(again)
    assert (begun, toy.calls.total()) == ([], 11)
    assert (second.rows, second.differences, second.matched) == (first.rows, first.differences, first.matched)


def test_cells_run_seed_by_seed_in_order_of_importance(start):
    run, order = start(), []
    run.run(run.cells, begun=lambda cell: order.append(cell.name))
    assert order == ["toy.bare.0", "toy.wide.0", "toy.votes.0", "toy.bare.1", "toy.wide.1", "toy.votes.1"]


@pytest.mark.parametrize(("mark", "told"), [("", "raw.txt:7: broken"), ("defect ", "RuntimeError: out of memory")])
def test_a_failing_cell_is_recorded_and_stops_no_other(start, toy, mark, told):
    toy.broken.add(f"{mark}toy.wide.0")
    run = start()
    run.run(run.cells)
    assert states(run) == ["done", "failed", "done", "done", "done", "done"]
    report = finish(run)
    written = json.loads((run.folder / "grid.json").read_text())
    (failed,) = [cell for cell in written["cells"] if cell["state"] == "failed"]
    assert (failed["run"], failed["error"]) == ("toy.wide.0", told)
    assert {(d.model, tuple(d.seeds)) for d in report.differences} == {("wide", (1,)), ("votes", (0, 1))}
    assert told in (run.folder / "grid.md").read_text()
    # The next command still knows of it, and tries it again.
    later = start()
    assert states(later) == states(run)
    toy.broken.clear()
    later.run(later.cells)
    assert set(states(later)) == {"done"}
    assert [sheet.title for sheet in sheets(finish(later))][-1] != "Not there"


def test_an_earlier_error_is_forgotten_with_the_settings_it_was_made_under(start, toy):
    toy.broken.add("toy.wide.0")
    run = start()
    run.run(run.cells)
    finish(run)
    changed = {**ARMS, "wide": {"overrides": {"model": {"d_model": 32}}}}
    assert states(start(arms=changed))[1] == "missing"


def test_a_killed_grid_goes_on_where_it_was(start, toy):
    class Killed(BaseException):
        pass

    def kill(cell: Cell) -> None:
        if cell.name == "toy.votes.0":
            raise Killed

    run = start()
    with pytest.raises(Killed):
        run.run(run.cells, begun=kill)
    assert states(run) == ["done", "done", *["missing"] * 4]
    later = start()
    later.run(later.cells)
    assert set(states(later)) == {"done"}
    assert toy.calls == {"prepare": 1, "pretrain": 4, "evaluate": 6}


def test_out_of_time_begins_no_cell_and_says_what_is_missing(start, toy):
    run, ended = start(), []
    run.run(run.cells, out_of_time=lambda: len(ended) == 2, ended=ended.append)
    assert states(run) == ["done", "done", *["missing"] * 4]
    report = finish(run)
    assert sheets(report)[-1].note == "2 of 6 cells are done."
    assert sheets(report)[-1].lines[0][:3] == ["votes", "0", "missing"]
    assert {d.model for d in report.differences} == {"wide"}
    # What is done needs no time: the tables of a finished part can be had again at once.
    later = start()
    later.run(later.cells, out_of_time=lambda: True)
    assert finish(later).rows == report.rows


def test_selection_runs_its_cells_only_and_the_tables_hold_all_that_is_done(start, toy):
    run = start()
    run.run(run.select(arms=["bare"]))
    assert states(run) == ["done", "missing", "missing"] * 2
    later = start()
    later.run(later.select(arms=["votes"], seeds=[1]))
    assert toy.calls["evaluate"] == 3
    report = finish(later)
    assert [(d.model, d.seeds) for d in report.differences if d.segment == "all"] == [("votes", [1])] * 2
    with pytest.raises(SettingsError, match="--arms none: grid 'toy' has arms bare, wide, votes"):
        run.select(arms=["none"])
    with pytest.raises(SettingsError, match="--seeds 7: grid 'toy' has seeds 0, 1"):
        run.select(seeds=[7])


def test_the_report_holds_the_frames_numbers(start):
    run = start()
    run.run(run.cells)
    report = finish(run)
    assert report.baselines == ["popularity", "sasrec"]
    assert list(dict.fromkeys(row.model for row in report.rows)) == ["popularity", "sasrec", *ARMS]
    found = {(row.model, row.segment, row.metric): row for row in report.rows}
    spreads = {"bare": ("tiger", 8), "wide": ("tiger", 6), "votes": ("tiger+neighbours", 3), "sasrec": ("sasrec", 9)}
    tail = np.arange(USERS) % 2 == 0
    for model, (name, spread) in spreads.items():
        both = np.stack([gains(toy_frame(name, spread, seed), "ndcg@10") for seed in (0, 1)])
        assert found[model, "all", "ndcg@10"].value == pytest.approx(both.mean())
        assert found[model, "tail", "ndcg@10"].value == pytest.approx(both[:, tail].mean())
        assert found[model, "all", "ndcg@10"].seeds == [0, 1]
    assert found["popularity", "all", "hit@10"].seeds == []
    wide, bare = (found[model, "head", "hit@10"].value for model in ("wide", "bare"))
    (difference,) = [d for d in report.differences if (d.model, d.segment, d.metric) == ("wide", "head", "hit@10")]
    assert difference.difference == pytest.approx(wide - bare)
    assert len(report.against_baselines) == 3 * 2 * 3


def test_matched_steps_are_those_that_both_arms_reached(start):
    run = start()
    run.run(run.cells)
    matched = {(m.arm, m.segment): m for m in finish(run).matched}
    assert set(matched) == {("wide", "all"), ("wide", "tail"), ("votes", "all"), ("votes", "tail")}
    point = matched["wide", "all"].points[0]
    assert (point.steps, point.value, point.reference) == (30, pytest.approx(1.3), pytest.approx(0.3))
    assert matched["wide", "all"].seeds == [0, 1]
    assert matched["votes", "tail"].points[1].value == pytest.approx(0.03)


def test_arms_are_compared_with_whom_they_name(start):
    arms = {**ARMS, "votes": {**ARMS["votes"], "against": ["wide", "bare"]}}
    run = start(arms=arms)
    run.run(run.cells)
    assert {(d.model, d.against) for d in finish(run).differences} == {
        *(("wide", "bare"), ("votes", "wide"), ("votes", "bare"))
    }


def test_an_altered_artifact_is_a_failed_cell(start):
    run = start()
    run.run(run.cells)
    pipeline = run.pipelines["toy.wide.1"]
    path = pipeline.store.path("evaluate", pipeline.plans["evaluate"].key)
    (path / "frames" / "tiger.parquet").write_bytes(b"x")
    report = finish(start())
    assert [cell.run for cell in report.cells if cell.state == "failed"] == ["toy.wide.1"]
    assert "its bytes differ from the manifest" in next(cell.error for cell in report.cells if cell.error)


@pytest.mark.parametrize(
    ("name", "arms", "message"),
    [
        ("artifacts", ARMS, "grids.artifacts: 'artifacts' is a folder that genrec uses itself"),
        (
            "toy",
            {**ARMS, "other": {"overrides": {"data": {"min_user_interactions": 7}}}},
            "grids.toy.arms.other: its data are not those of arm 'bare'",
        ),
        (
            "toy",
            {**ARMS, "other": {"overrides": {"evaluation": {"seen_items": "keep"}}}},
            "grids.toy.arms.other.overrides.evaluation.seen_items: 'keep' differs from arm 'bare' ('exclude')",
        ),
        ("toy", {**ARMS, "sasrec": {"overrides": {"model": {"heads": 1}}}}, "'sasrec' is a baseline's row"),
    ],
)
def test_arms_that_cannot_stand_in_one_table_are_refused(start, name, arms, message):
    with pytest.raises(SettingsError) as told:
        start(name, arms=arms)
    assert message in str(told.value)


def test_tables_say_the_same_in_markdown_and_html(start):
    run = start()
    run.run(run.cells)
    report = finish(run)
    markdown, page = ((run.folder / name).read_text() for name in ("grid.md", "grid.html"))
    for sheet in sheets(report):
        for line in sheet.lines:
            assert "| " + " | ".join(line) + " |" in markdown
            for text in line:
                assert text.replace("+", "&#43;") in page.replace("+", "&#43;")
    assert [sheet.title for sheet in sheets(report)] == [
        "toy: ml-100k",
        "Between arms",
        "Against the baselines",
        "By early stopping and at matched steps",
        "Training",
    ]
    assert sheets(report)[-1].lines == [
        ["bare", "2", "30 30", "", "0.0", "patience 2"],
        ["wide", "2", "40 40", "", "0.0", "patience 2"],
        ["votes", "2", "30 30", "", "0.0", "patience 2"],
    ]
