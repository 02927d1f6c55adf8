"""Bytes that a worker holds: counted by address, on the tensors of a real step."""

import json
import logging
from dataclasses import replace

import torch
from training_tools import BagFactory

from genrec.config import TrainingSettings
from genrec.training.holdings import Holdings, bytes_of, told
from genrec.training.loop import MEMORY_FILE, fit
from genrec.training.strategies import SingleStrategy


def test_what_is_shared_counts_once():
    whole = torch.zeros(10, 4)
    assert bytes_of([whole]) == 160
    assert bytes_of([whole[:6], whole[4:], whole[2], None, torch.empty(0)]) == 160
    assert bytes_of([whole[:2], whole[5:6], torch.zeros(3, dtype=torch.float64)]) == 32 + 16 + 24


def test_a_kind_does_not_count_what_an_earlier_one_holds():
    weights, moments = torch.zeros(8), torch.zeros(16)
    held = Holdings.of([weights], 5, [moments, weights[:4]], [weights[4:], moments[:2], torch.zeros(3)])
    assert held == Holdings(parameters=32, gradients=5, states=64, copies=12)


def test_a_run_tells_what_one_process_holds(tmp_path, caplog):
    settings = TrainingSettings(strategy="single", batch_size=16, epochs=1, max_steps=3, tensorboard=False)
    task = BagFactory()()
    with caplog.at_level(logging.INFO, "genrec.training.loop"):
        fit(task, settings, 5, tmp_path, SingleStrategy(torch.device("cpu")))
    sizes = [4 * parameter.numel() for parameter in task.model.parameters()]
    whole = sum(sizes)
    (worker,) = json.loads((tmp_path / MEMORY_FILE).read_text())
    steps = 4 * len(sizes)  # AdamW counts each parameter's steps
    assert worker == {"parameters": whole, "gradients": whole, "states": 2 * whole + steps, "copies": 0}
    assert sum("a worker of 1 holds" in record.getMessage() for record in caplog.records) == 1


def test_the_line_gives_ranges_where_workers_differ():
    one = Holdings(2**21, 2**20, 3 * 2**20)
    line = told([one, replace(one, gradients=2**22)])
    assert line == "a worker of 2 holds, in MiB: parameters 2.0, gradients 1.0 to 4.0, states 3.0, copies 0.0"
