"""The checks in a process of their own: who kills it gets a refusal, never a pass."""

from __future__ import annotations

import os
import signal
import threading

import pytest
from content_samples import draft_of, drawing

from genrec.config.content import FidelitySettings
from genrec.content.fidelity import CHECKS, FidelityGate, ProcessRunner

pytestmark = pytest.mark.integration


def refused(report):
    return {verdict.check for verdict in report.verdicts if not verdict.passed}


def test_killing_the_process_of_the_checks_refuses_and_the_next_review_starts_another(tmp_path):
    settings = FidelitySettings(encoder="none", timeout_s=120.0)
    runner = ProcessRunner(settings, tmp_path / "keys")
    gate = FidelityGate(settings, tmp_path, runner=runner)
    try:
        draft = draft_of(drawing(2))
        runner.start()
        first = runner.pid
        os.kill(first, signal.SIGSTOP)  # it is asked, does not answer, and dies
        killer = threading.Timer(1.0, os.kill, (first, signal.SIGKILL))
        killer.start()
        report = gate.review(draft)
        assert refused(report) == set(CHECKS)
        assert not report.passed
        assert {verdict.evidence for verdict in report.verdicts} == {"the checks' process ended"}
        again = gate.review(draft)
        assert again.passed, again
        assert runner.pid not in (None, first)
    finally:
        gate.close()
    assert runner.pid is None
