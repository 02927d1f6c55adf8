"""Checkpoints are copied elsewhere while training goes on, and a run that lost its folder goes on from the copies."""

import logging
import shutil
import threading

import pytest
import torch
from training_tools import BagFactory

from genrec.artifacts import ArtifactStore
from genrec.config import TrainingSettings
from genrec.errors import SettingsError
from genrec.training.apart import Apart
from genrec.training.checkpoint import CheckpointStore
from genrec.training.loop import checkpoints, fit
from genrec.training.mirror import Mirror, clear_held
from genrec.training.strategies import SingleStrategy


def settings(upload=None, **changes):
    values = {"strategy": "single", "batch_size": 16, "epochs": 3, "log_every": 1, "tensorboard": False}
    return TrainingSettings(**{**values, "upload": upload, **changes})


def train(directory, upload=None, reporter=None, **changes):
    strategy = SingleStrategy(torch.device("cpu"))
    return fit(BagFactory()(), settings(upload, **changes), 5, directory, strategy, reporter=reporter)


def complete(root):
    """A store of the copies, whose every byte is read."""
    return CheckpointStore(root, BagFactory()().sid_version).latest()


def tree(root):
    return {path.relative_to(root): path.read_bytes() for path in root.rglob("*") if path.is_file()}


@pytest.mark.parametrize("scheme", ["", "file://"])
def test_the_copies_are_the_checkpoints_that_are_kept(tmp_path, scheme):
    run, elsewhere = tmp_path / "pretrain" / ".0abc.scratch", tmp_path / "elsewhere"
    train(run, f"{scheme}{elsewhere}", checkpoint_steps=3)
    copies = elsewhere / "pretrain" / "0abc"
    assert tree(copies) == tree(run / "checkpoints")
    assert not list((run / "checkpoints").glob(".*"))
    assert complete(copies) is not None


def test_a_run_that_lost_its_folder_ends_as_if_it_had_not(tmp_path):
    whole = train(tmp_path / "whole" / "run")

    def cut(told):
        if told["step"] >= 10:
            raise InterruptedError

    upload = str(tmp_path / "elsewhere")
    with pytest.raises(InterruptedError):
        train(tmp_path / "here" / "run", upload, cut, checkpoint_steps=5)
    shutil.rmtree(tmp_path / "here")
    steps = []
    again = train(tmp_path / "here" / "run", upload, lambda told: steps.append(told["step"]), checkpoint_steps=5)
    assert steps[0] > 10
    assert (again.best_metric, again.best_step, again.steps) == (whole.best_metric, whole.best_step, whole.steps)
    assert again.weights.read_bytes() == whole.weights.read_bytes()


def test_a_copy_cut_short_is_passed_over_and_a_damaged_one_too(tmp_path, caplog):
    upload, here = tmp_path / "elsewhere", tmp_path / "here" / "run"
    train(here, str(upload), checkpoint_steps=3)
    names = [f"step-{step:08d}" for step in checkpoints(here).steps()]
    copies = upload / "here" / "run"
    shutil.rmtree(here)
    newest = copies / names[-1]
    (newest / "weights.safetensors").write_bytes(b"damaged")
    (copies / "step-99999999").mkdir()
    (copies / "step-99999999" / "weights.safetensors").write_bytes(b"no manifest yet")
    store = checkpoints(here, BagFactory()().sid_version)
    store.mirror = Mirror(str(upload), "here/run")
    here.mkdir(parents=True)
    with caplog.at_level(logging.WARNING):
        assert store.recover().name == names[-2]
    assert "passing over a damaged checkpoint" in caplog.text


def test_training_never_waits_for_a_slow_copy_and_drops_what_came_too_late(tmp_path):
    mirror, gate, sent = Mirror(str(tmp_path / "elsewhere"), "run"), threading.Event(), []
    kept = ["step-1"]
    for number in (1, 2, 3):
        path = tmp_path / "run" / f"step-{number}"
        path.mkdir(parents=True)
        (path / "manifest.json").write_text(str(number))

    def present():
        gate.wait(20)
        sent.append(list(kept))
        return kept

    mirror.take(tmp_path / "run" / "step-1", present)
    mirror.take(tmp_path / "run" / "step-2", present)
    mirror.take(tmp_path / "run" / "step-3", present)
    kept[:] = ["step-2", "step-3"]
    shutil.rmtree(tmp_path / "run" / "step-2")  # its hard links stand
    gate.set()
    mirror.wait()
    assert len(sent) == 3
    assert mirror.names() == ["step-2", "step-3"]
    clear_held(tmp_path / "run")
    assert not list((tmp_path / "run").glob(".*"))


def test_a_copy_that_fails_is_a_warning(tmp_path, caplog):
    (tmp_path / "elsewhere").write_text("a file where a folder should be")
    checkpoint = tmp_path / "run" / "step-1"
    checkpoint.mkdir(parents=True)
    (checkpoint / "manifest.json").write_text("1")
    mirror = Mirror(str(tmp_path / "elsewhere"), "run")
    with caplog.at_level(logging.WARNING, "genrec.training.mirror"):
        mirror.take(checkpoint, lambda: ["step-1"])
        mirror.wait()
    assert "step-1 could not be copied" in caplog.text
    assert not list((tmp_path / "run").glob(".*"))


def test_a_place_that_is_none_is_told_at_once(tmp_path):
    with pytest.raises(SettingsError, match=r"training\.upload: 'nowhere://x' is no folder or URI"):
        train(tmp_path / "run", "nowhere://x")


def test_a_node_apart_takes_the_copies_for_the_only_checkpoints(tmp_path):
    """A node that was away has newer steps, and another checkpoint of a copied step: it goes on with neither."""
    place = (tmp_path / "place").as_uri()
    apart = Apart(ArtifactStore(tmp_path / "none"), [])
    here, away = (tmp_path / node / "pretrain" / ".0abc.scratch" for node in ("here", "away"))
    train(here, place, checkpoint_steps=5, max_steps=10)
    apart.send_curves(here, settings(place))
    train(away, checkpoint_steps=10, max_steps=11, learning_rate=0.5)
    newest = checkpoints(here).path(10).name
    assert (away / "checkpoints" / newest).is_dir()
    assert tree(away / "checkpoints" / newest) != tree(here / "checkpoints" / newest)
    apart.fetch_state(away, settings(place))
    copies = tmp_path / "place" / "pretrain" / "0abc"
    assert checkpoints(away).steps()[-1] == 10
    assert tree(away / "checkpoints" / newest) == tree(copies / newest)
    assert (away / "metrics.jsonl").read_bytes() == (here / "metrics.jsonl").read_bytes()
    fresh = tmp_path / "fresh" / "pretrain" / ".0abc.scratch"
    fresh.mkdir(parents=True)
    apart.fetch_state(fresh, settings(place))
    assert complete(fresh / "checkpoints").name == newest
    best = checkpoints(fresh).load(fresh / "checkpoints" / newest)[0].best_step
    assert checkpoints(fresh).weights(best).is_file()
