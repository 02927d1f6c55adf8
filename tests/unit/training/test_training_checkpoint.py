"""Checkpoints survive kill -9 at any moment, and damage is never loaded."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from training_tools import BagTask, make_interactions

from genrec.config import TrainingSettings
from genrec.training.checkpoint import CheckpointStore, Progress
from genrec.training.strategies import SingleStrategy

KILLS = 60
KILLER = """
import json, os, random, signal, sys, time
from pathlib import Path
import torch
torch.set_num_threads(1)
sys.path.insert(0, sys.argv[2])
from training_tools import BagTask, make_interactions
from genrec.config import TrainingSettings
from genrec.training.checkpoint import CheckpointStore, Progress
from genrec.training.strategies import SingleStrategy

root, kills = Path(sys.argv[1]), int(sys.argv[3])
task = BagTask(make_interactions([8, 8]))
strategy = SingleStrategy(torch.device("cpu"))
strategy.setup(task, TrainingSettings(strategy="single"))
store = CheckpointStore(root)

def commit_for_ever(pipe):
    latest = store.latest()
    step = store.load(latest)[0].step if latest else 0
    while True:
        step += 1
        with torch.no_grad():
            for parameter in task.model.parameters():
                parameter.fill_(step)
        progress = Progress(step=step, best_metric=step / 10, best_step=step // 10 * 10 or 1)
        store.save(progress, strategy, background=True)
        store.wait()
        os.write(pipe, step.to_bytes(4, "little"))

randomness = random.Random(0)
inside = 0
previous = 0
for _ in range(kills):
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        commit_for_ever(writing)
    os.close(writing)
    os.read(reading, 4)  # one commit is done; the next ones are under way
    time.sleep(randomness.random() * 0.03)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    said = previous + 1
    while data := os.read(reading, 4):
        said = int.from_bytes(data, "little")
    os.close(reading)
    inside += any(root.glob(".step-*"))
    path = store.latest()
    progress, weights = store.load(path)
    said = max(said, previous + 1)
    assert progress.step in (said, said + 1), (progress.step, said)
    assert all(bool((value == progress.step).all()) for value in weights.values())
    assert store.weights(progress.best_step).is_file()
    previous = progress.step
print(json.dumps({"kills": kills, "inside": inside, "last": previous}))
"""


@pytest.fixture
def run(tmp_path):
    task = BagTask(make_interactions([8, 8]))
    strategy = SingleStrategy(torch.device("cpu"))
    strategy.setup(task, TrainingSettings(strategy="single"))
    return CheckpointStore(tmp_path), strategy, task


def test_kill_minus_nine_around_commits_always_leaves_the_last_complete_checkpoint(tmp_path):
    """A process that commits without pause is killed at random moments; its successor goes on each time."""
    script = tmp_path / "killer.py"
    script.write_text(KILLER)
    tools = str(Path(__file__).parents[2])
    command = [sys.executable, str(script), str(tmp_path / "checkpoints"), tools, str(KILLS)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(tools).parent)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["kills"] == KILLS
    assert report["inside"] >= KILLS // 4  # the kills did fall into commits
    assert report["last"] > KILLS


def test_the_last_two_and_the_best_are_kept(run):
    store, strategy, _ = run
    for step in range(1, 8):
        store.save(Progress(step=step, best_step=min(step, 3)), strategy)
    assert store.steps() == [3, 6, 7]


def test_a_damaged_checkpoint_is_passed_over(run, caplog):
    store, strategy, task = run
    for step in (1, 2):
        with torch.no_grad():
            task.model.items.weight.fill_(step)
        store.save(Progress(step=step, best_step=1), strategy)
    files = [path for path in store.path(2).rglob("*") if path.is_file()]
    for path in files:
        original = path.read_bytes()
        for place in {0, len(original) // 2, len(original) - 1}:
            altered = bytearray(original)
            altered[place] ^= 1
            path.write_bytes(altered)
            assert store.latest() == store.path(1)
        path.unlink()
        assert store.latest() == store.path(1)
        path.write_bytes(original)
    assert store.latest() == store.path(2)
    progress, weights = store.load(store.path(2))
    assert progress.step == 2
    assert (weights["items.weight"] == 2).all()


def test_a_damaged_checkpoint_is_replaced_when_its_step_comes_again(run):
    store, strategy, _ = run
    for step in (1, 2):
        store.save(Progress(step=step, best_step=1), strategy)
    (store.path(2) / "progress.json").write_text("{}")
    store.save(Progress(step=2, best_step=1), strategy)
    assert store.latest() == store.path(2)


def test_a_commit_in_the_background_holds_the_weights_of_its_step(run):
    store, strategy, task = run
    for step in (1, 2, 3):
        with torch.no_grad():
            task.model.items.weight.fill_(step)
        store.save(Progress(step=step, best_step=1), strategy, background=True)
    store.wait()
    for step in store.steps():
        progress, weights = store.load(store.path(step))
        assert (progress.step, float(weights["items.weight"].mean())) == (step, step)
    assert store.latest() == store.path(3)


def test_a_failed_background_commit_is_not_silent(run):
    store, strategy, _ = run
    (store.root / "step-00000002").write_text("a file where the directory must go")
    store.save(Progress(step=2, best_step=2), strategy, background=True)
    with pytest.raises(NotADirectoryError):
        store.wait()
