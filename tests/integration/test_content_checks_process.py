"""The checks in a process of their own: who kills it gets a refusal, never a pass."""

from __future__ import annotations

import os
import signal

import pytest
from content_samples import draft_of, drawing

from genrec.config.content import FidelitySettings
from genrec.content.fidelity import CHECKS, FidelityGate, ProcessRunner

pytestmark = pytest.mark.integration


def refused(report):
    return {verdict.check for verdict in report.verdicts if not verdict.passed}


def test_killing_the_process_of_the_checks_refuses_and_the_next_review_starts_another(tmp_path):
    # Checks that load quickly would do, but what is killed here is the process that is used in earnest.
    settings = FidelitySettings(encoder="none", timeout_s=120.0)
    runner = ProcessRunner(settings, tmp_path / "keys")
    gate = FidelityGate(settings, tmp_path, runner=runner)
    try:
        draft = draft_of(drawing(2))
        runner.start()
        first = runner.pid
        os.kill(first, signal.SIGSTOP)  # it is asked, and cannot answer any more
        os.kill(first, signal.SIGKILL)
        report = gate.review(draft)
        assert refused(report) == set(CHECKS)
        assert not report.passed
        again = gate.review(draft)
        assert again.passed, again
        assert runner.pid not in (None, first)
    finally:
        gate.close()
    assert runner.pid is None
