"""ASHA: what falls behind stops, what is nearly done ends, and earlier trials set the bar."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from ray.tune.schedulers import TrialScheduler

from tune.records import Record
from tune.search import Asha

METRIC = "tail/ndcg@10"


def trial(key):
    return SimpleNamespace(trial_id=f"tune-{key}", config={"key": key})


def play(asha, key, values):
    """Epochs until the trial is stopped, or all."""
    one = trial(key)
    asha.on_trial_add(None, one)
    for epoch, value in enumerate(values, start=1):
        if asha.on_trial_result(None, one, {"epoch": epoch, METRIC: value}) == TrialScheduler.STOP:
            asha.on_trial_complete(None, one, {})
            return epoch
    asha.on_trial_complete(None, one, {})
    return len(values)


def test_a_trial_below_the_best_third_is_stopped_at_its_rung():
    """Rungs at epochs 2 and 6; a value must be in the upper third of what was seen there."""
    asha = Asha(METRIC, epochs=9, grace=2, reduction=3)
    for place, value in enumerate((0.5, 0.4, 0.6)):
        play(asha, f"{place}", [value] * 9)
    assert play(asha, "poor", [0.1] * 9) == 2
    assert play(asha, "late", [0.1, 0.9, 0.9, 0.9, 0.9, 0.01, 0.9, 0.9, 0.9]) == 6
    assert play(asha, "good", [0.1, 0.95, 0.95, 0.95, 0.95, 0.95, 0.1, 0.1, 0.1]) == 9
    assert {"poor", "late"} <= asha.stopped
    assert "good" not in asha.stopped


def test_the_last_epoch_and_the_final_report_stop_nothing():
    """A rung on the last epoch would throw away a trial that is done."""
    asha = Asha(METRIC, epochs=6, grace=2, reduction=3)
    assert play(asha, "best", [0.9] * 6) == 6
    assert play(asha, "fading", [0.95, 0.95, 0.95, 0.95, 0.95, 0.0]) == 6
    one = trial("early")
    asha.on_trial_add(None, one)
    final = {"epoch": 2, METRIC: 0.0, "finished": True}  # by patience
    assert asha.on_trial_result(None, one, final) == TrialScheduler.CONTINUE
    assert asha.stopped == set()


@pytest.mark.parametrize(("bar", "epochs"), [(0.5, 2), (0.05, 8)])
def test_trials_of_an_earlier_run_set_the_bar(bar, epochs):
    asha = Asha(METRIC, epochs=8, grace=2, reduction=2)
    for place in range(3):
        history = [{"epoch": e, "step": e, METRIC: bar} for e in range(1, 9)]
        asha.learn(Record(f"{place}", {}, 0, ["search"], place, "finished", history))
    assert play(asha, "next", [0.1] * 8) == epochs


def test_an_epoch_without_the_metric_decides_nothing():
    """A validation sample without tail users."""
    asha = Asha(METRIC, epochs=8, grace=1, reduction=2)
    one = trial("x")
    asha.on_trial_add(None, one)
    assert asha.on_trial_result(None, one, {"epoch": 1, "ndcg@10": 0.1}) == TrialScheduler.CONTINUE
