"""Results read from synthetic records: constraint, Pareto front, importances, verdict, report and the best settings."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser

import numpy as np
import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.distributions import FloatDistribution
from optuna.trial import create_trial

from genrec.cli import main as genrec
from genrec.errors import ArtifactError, SettingsError
from genrec.evaluation.frame import EvalFrame
from genrec.evaluation.metrics import gains
from genrec.evaluation.rank import save_frame
from tests.sweeping import changed, write_settings
from tune.records import Records
from tune.report import grid, verdict_text, write_report
from tune.result import Result, importances, pareto
from tune.search import Proposed
from tune.sweep import Sweep
from tune.trial import measures

P1 = "plugin.substitution.p1"
USERS = 400


def frame_of(quality: float, seed: int, head_quality: float | None = None) -> EvalFrame:
    """Targets at rank 0 for a share of the tail (and head) users, nowhere for the others."""
    rng = np.random.default_rng([seed, int(1000 * quality)])
    tail = np.arange(USERS) % 2 == 0
    found = rng.random(USERS) < np.where(tail, quality, quality if head_quality is None else head_quality)
    targets = rng.integers(1, 50, USERS)
    lists = np.zeros((USERS, 10), dtype=np.int64)
    lists[found, 0] = targets[found]
    segments = {"head": ~tail, "tail": tail, "cold": np.zeros(USERS, dtype=bool)}
    users = np.arange(USERS)
    return EvalFrame("tiger", users, lists, np.arange(USERS) % 49 + 1 if seed < 0 else targets, segments, seed=seed)


def fill(sweep, points):
    """Records of finished trials: (role, params, seed, frame), or a state with a history in place of the frame."""
    records = Records(sweep.directory, sweep.identity())
    for role, params, seed, outcome in points:
        point = sweep.point(role, params, seed)
        record = records.begin(point.key, point.params, seed, role)
        if isinstance(outcome, EvalFrame):
            path = records.frame(record.key)
            path.parent.mkdir(exist_ok=True)
            save_frame(outcome, path)
            record.metrics, record.state = measures(outcome), "finished"
            record.history = [{"epoch": e, "step": 10 * e, **record.metrics} for e in (1, 2, 3, 4)]
        else:
            record.state, record.history = outcome
        records.save(record)
    return Records(sweep.directory, sweep.identity())


def same_targets(frames):
    """One set of users and targets for all, as trials of one sweep have."""
    targets = np.random.default_rng(0).integers(1, 50, USERS)
    for frame in frames:
        hits = frame.lists[:, 0] != 0
        frame.lists[hits, 0] = targets[hits]
        frame.targets[:] = targets
    return frames


@pytest.fixture
def searched(tmp_path):
    """A search whose best lies at p1 = 0.8 unless the head must be kept, then at 0.6."""
    sweep = Sweep("small", write_settings(tmp_path, {"small": changed(space={P1: {"low": 0.0, "high": 1.0}})}))
    control, best, greedy, poor = same_targets(
        [frame_of(0.30, 0, 0.5), frame_of(0.45, 0, 0.45), frame_of(0.6, 0, 0.05), frame_of(0.1, 0, 0.4)]
    )
    default, again = same_targets([frame_of(0.35, 0, 0.5), frame_of(0.44, 1, 0.5)])
    default_1, control_1 = same_targets([frame_of(0.2, 1, 0.5), frame_of(0.3, 1, 0.5)])
    stopped = ("stopped", [{"epoch": 1, "step": 10, "tail/ndcg@10": 0.01, "head/ndcg@10": 0.02, "ndcg@10": 0.01}])
    records = fill(
        sweep,
        [
            ("control", {P1: 0.0}, 0, control),
            ("defaults", {P1: 0.5}, 0, default),
            ("search", {P1: 0.6}, 0, best),
            ("search", {P1: 0.8}, 0, greedy),
            ("search", {P1: 0.1}, 0, poor),
            ("search", {P1: 0.9}, 0, stopped),
            ("search", {P1: 0.95}, 0, ("failed", [])),
            ("confirm", {P1: 0.6}, 1, again),
            ("defaults", {P1: 0.5}, 1, default_1),
            ("control", {P1: 0.0}, 1, control_1),
        ],
    )
    return Result(sweep, records)


def test_the_best_keeps_the_head(searched):
    assert searched.required == pytest.approx(0.5 * searched.control.value("head/ndcg@10", [0]))
    assert searched.best.params == {P1: 0.6}
    tails = {group.params[P1]: group.value("tail/ndcg@10", [0]) for group in searched.groups}
    assert tails[0.8] == max(value for value in tails.values() if value is not None)
    assert searched.counts() == {"finished": 8, "stopped": 1, "failed": 1, "running": 0, "waiting": 0}
    assert searched.spared_epochs() == (3, 36)


def test_the_verdict_rests_on_seeds_that_did_not_choose(searched):
    verdict = searched.verdict()
    assert verdict.seeds == [1]
    assert not verdict.chosen_by_same_seed
    ours, theirs = (searched.frames(group, [1])[0] for group in (searched.best, searched.defaults))
    tail = ours.segments["tail"]
    expected = gains(ours, "ndcg@10")[tail].mean() - gains(theirs, "ndcg@10")[tail].mean()
    assert verdict.difference.difference == pytest.approx(expected)
    assert verdict.again == pytest.approx(gains(ours, "ndcg@10")[tail].mean())
    pairs = [
        [g.records[s].metrics["tail/ndcg@10"] for s in (0, 1)]
        for g in (searched.best, searched.defaults, searched.control)
    ]
    assert verdict.noise == pytest.approx(np.sqrt(np.mean([np.var(pair, ddof=1) for pair in pairs])))
    assert "the best is better than the defaults" in "\n".join(verdict_text(searched))


def test_the_report_is_one_page_without_loads(searched):
    page = write_report(searched).read_text()
    assert "--set plugin.substitution.p1=0.6" in page
    assert "python -m genrec run --from-sweep small" in page
    for word in ("Pareto front", "Importance", "Parallel coordinates", "1 failed"):
        assert word in page

    loads = []

    class Loads(HTMLParser):
        def handle_starttag(self, tag, attributes):
            loads.extend(
                [v for k, v in attributes if k in ("src", "href", "xlink:href") and not v.startswith(("#", "data:"))]
            )

    parser = Loads()
    parser.feed(page)
    assert loads == []
    assert "<script" not in page
    assert not re.search(r"@import|url\((?!#)", page)
    ids = re.findall(r'\sid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    told = json.loads((searched.records.directory / "grid.json").read_text())
    assert [row["metrics"] for row in told] == [record.metrics for record in searched.records.trials.values()]
    assert told == json.loads(json.dumps(grid(searched)))


def test_genrec_trains_with_the_best_of_a_sweep(searched, tmp_path, capsys):
    searched.save_best()
    config = str(tmp_path / "settings.yaml")
    assert genrec(["config", "--config", config, "--from-sweep", "small"]) == 0
    tree = capsys.readouterr().out
    assert "p1: 0.6" in tree
    assert "name: small" in tree
    assert genrec(["config", "--config", config, "--from-sweep", "small", "--set", f"{P1}=0.7"]) == 0
    assert "p1: 0.7" in capsys.readouterr().out
    assert genrec(["config", "--config", config, "--from-sweep", "smal"]) == 2
    assert "smal: no such sweep has a best point; `python -m tune smal` finds one" in capsys.readouterr().err
    assert genrec(["config", "--config", config, "--from-sweep", "small", "--preset", "x"]) == 2
    assert "--preset" in capsys.readouterr().err


def test_a_curve_has_every_value_with_its_seeds(tmp_path):
    space = {P1: {"values": [0.0, 0.2, 0.8], "label": "effective rate"}}
    sweep = Sweep("small", write_settings(tmp_path, {"small": changed(space=space, search="grid")}))
    frames = {(p, s): frame_of(q, s) for p, q in ((0.0, 0.2), (0.2, 0.5), (0.8, 0.1)) for s in (0, 1)}
    same_targets(frames.values())
    records = fill(sweep, [("grid", {P1: p}, s, frame) for (p, s), frame in frames.items()])
    for point in sweep.references([0, 1]):
        if point.key in records.trials:
            records.begin(point.key, point.params, point.seed, point.role)
    result = Result(sweep, records)
    assert result.best.params == {P1: 0.2}
    assert result.best.value("tail/ndcg@10") == pytest.approx(
        np.mean([measures(frames[0.2, s])["tail/ndcg@10"] for s in (0, 1)])
    )
    page = write_report(result).read_text()
    assert "effective rate" in page
    row = next(r for r in result.rows(result.best) if (r.segment, r.metric) == ("tail", "ndcg@10"))
    assert f"[{row.low:.4f}, {row.high:.4f}]" in page
    assert row.seeds == [0, 1]
    assert row.low < row.value < row.high


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(*[st.integers(0, 6)] * 3), min_size=1, max_size=25))
def test_the_pareto_front_is_optunas(rows):
    """Optuna's own front of the same points."""
    study = optuna.create_study(directions=["maximize"] * 3)
    for row in rows:
        study.add_trial(create_trial(values=[float(v) for v in row]))
    expected = {trial.number for trial in study.best_trials}
    assert {place for place, member in enumerate(pareto(np.array(rows, dtype=np.float64))) if member} == expected


def test_importances_are_shares_of_variance():
    """An additive function of uniform values: the variance of each term by itself is known in closed form."""
    weights = {"a": 4.0, "b": 2.0, "c": 0.0}
    space = {name: FloatDistribution(0.0, 1.0) for name in weights}
    rng, study = np.random.default_rng(0), optuna.create_study(direction="maximize")
    for _ in range(400):
        point = {name: float(rng.random()) for name in weights}
        value = sum(weights[name] * point[name] for name in weights)
        study.add_trial(create_trial(params=point, distributions=space, value=value))
    found = importances(study)
    total = sum(w**2 for w in weights.values())
    for name, weight in weights.items():
        assert found[name] == pytest.approx(weight**2 / total, abs=0.06)


def test_few_or_equal_trials_have_no_importance():
    study = optuna.create_study(direction="maximize")
    for x in (0.1, 0.2, 0.3, 0.4):
        assert importances(study) == {}
        study.add_trial(create_trial(params={"a": x}, distributions={"a": FloatDistribution(0, 1)}, value=1.0))


def test_a_search_goes_on_with_what_was_begun_and_repeats_nothing(tmp_path):
    """Of five trials one is finished, one stopped, one failed and one at work: that one and one more are left."""
    sweep = Sweep("small", write_settings(tmp_path))
    space = list(sweep.definition.space)
    points = [
        dict(zip(space, row, strict=True)) for row in ((0.3, 0.05, 2), (0.4, 0.1, 3), (0.7, 0.2, 4), (0.9, 0.5, 5))
    ]
    row = {"epoch": 1, "step": 5, "tail/ndcg@10": 0.1, "head/ndcg@10": 0.2, "ndcg@10": 0.15}
    records = fill(
        sweep,
        [
            ("search", points[0], 0, frame_of(0.4, 0)),
            ("search", points[1], 0, ("stopped", [row])),
            ("search", points[2], 0, ("failed", [])),
            ("search", points[3], 0, ("running", [row])),
        ],
    )
    source = Proposed(sweep, records, required=0.1)
    states = [trial.state.name for trial in source.study.trials]
    assert states == ["COMPLETE", "PRUNED", "FAIL"]
    first, second = source.next(), source.next()
    assert first.params == points[3]
    assert second.key not in records.trials
    assert source.next() is None
    done = records.begin(second.key, second.params, 0, "search")
    done.state, done.metrics = "finished", measures(frame_of(0.2, 0))
    source.told(done)
    last = source.study.trials[-1]
    assert last.values == [done.metrics["tail/ndcg@10"]]
    assert last.constraints == {"head/ndcg@10": pytest.approx(0.1 - done.metrics["head/ndcg@10"])}


def test_several_objectives_spread_over_their_front(tmp_path):
    """Optuna knows no stopped trials of several objectives: what was reached stands for them."""
    objective = {"maximise": ["tail/ndcg@10", "head/ndcg@10"], "keep": None}
    space = {P1: {"low": 0.0, "high": 1.0}}
    sweep = Sweep("small", write_settings(tmp_path, {"small": changed(space=space, objective=objective)}))
    row = {"epoch": 1, "step": 5, "tail/ndcg@10": 0.1, "head/ndcg@10": 0.2, "ndcg@10": 0.15}
    qualities = {0.2: (0.5, 0.2), 0.4: (0.3, 0.4), 0.6: (0.2, 0.3)}
    points = [("search", {P1: p}, 0, frame_of(tail, 0, head)) for p, (tail, head) in qualities.items()]
    same_targets([frame for *_, frame in points])
    records = fill(sweep, [*points, ("search", {P1: 0.8}, 0, ("stopped", [row]))])
    study = Proposed(sweep, records, required=None).study
    assert [direction.name for direction in study.directions] == ["MAXIMIZE"] * 2
    assert [trial.state.name for trial in study.trials] == ["COMPLETE"] * 4
    assert study.trials[-1].values == [0.1, 0.2]
    result = Result(sweep, records)
    assert {group.params[P1] for group in result.front(result.objective.maximise)} == {0.2, 0.4}
    assert result.axes == ("tail/ndcg@10", "head/ndcg@10")
    assert result.required is None
    assert "Pareto front" in write_report(result).read_text()


def test_a_small_space_ends_when_all_of_it_is_tried(tmp_path):
    space = {"plugin.substitution.top_k": {"values": [2, 3, 4]}}
    sweep = Sweep("small", write_settings(tmp_path, {"small": changed(space=space, trials=9)}))
    records = Records(sweep.directory, sweep.identity())
    source, tried = Proposed(sweep, records, required=None), []
    while (point := source.next()) is not None:
        tried.append(point.params["plugin.substitution.top_k"])
        record = records.begin(point.key, point.params, 0, "search")
        record.state, record.metrics = "finished", {"tail/ndcg@10": 0.1 * len(tried), "head/ndcg@10": 0.1}
        source.told(record)
    assert sorted(tried) == [2, 3, 4]
    assert source.left == 0


def test_records_of_another_definition_are_refused(tmp_path):
    sweep = Sweep("small", write_settings(tmp_path))
    Records(sweep.directory, sweep.identity())
    other = Sweep("small", tmp_path / "settings.yaml", ["training.epochs=9"])
    with pytest.raises(SettingsError, match="holds trials of other data, base settings or space"):
        Records(other.directory, other.identity())
    (sweep.directory / "trials" / "x.json").write_text("{}")
    with pytest.raises(ArtifactError, match=r"x\.json: not a trial's record"):
        Records(sweep.directory)
