"""What a training under Ray tells Prometheus, beside Ray Train's own metrics; cluster/dashboards shows them.

Rank 0 sets them at each checkpoint; outside of Ray there is nobody to set them for.
"""

from __future__ import annotations

from ray.util.metrics import Counter, Gauge

from genrec.training.attempts import Attempt
from genrec.training.loop import Reporter
from genrec.training.task import KEY_METRIC


class TrainingGauges:
    """Of one training.

    Args:
        run: its name: stage and key.
    """

    def __init__(self, run: str) -> None:
        self._tags = {"run": run}
        keys = ("run",)
        self._step = Gauge("genrec_train_step", "optimizer steps done", tag_keys=keys)
        self._epoch = Gauge("genrec_train_epoch", "epochs done", tag_keys=keys)
        self._metric = Gauge("genrec_train_validation", f"{KEY_METRIC} of the last validation", tag_keys=keys)
        self._best = Gauge("genrec_train_best", f"best {KEY_METRIC} so far", tag_keys=keys)
        self._workers = Gauge("genrec_train_workers", "workers that train now", tag_keys=keys)
        self._attempts = Counter("genrec_train_attempts", "groups of workers that began", tag_keys=keys)
        self._lost = Counter("genrec_train_steps_lost", "steps done again after a failure", tag_keys=keys)

    def began(self, attempt: Attempt) -> None:
        """A group of workers begins."""
        self._workers.set(len(attempt.nodes), tags=self._tags)
        self._attempts.inc(tags=self._tags)
        if attempt.lost:
            self._lost.inc(attempt.lost, tags=self._tags)

    def reporting(self, report: Reporter) -> Reporter:
        """The reporter that sets the gauges, too."""

        def tell(metrics: dict[str, float]) -> None:
            for gauge, name in (
                (self._step, "step"),
                (self._epoch, "epoch"),
                (self._best, "best"),
                (self._metric, KEY_METRIC),
            ):
                if name in metrics:
                    gauge.set(metrics[name], tags=self._tags)
            report(metrics)

        return tell
