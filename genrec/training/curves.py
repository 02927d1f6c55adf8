"""Curves of a run: metrics.jsonl always, TensorBoard and MLflow where the settings ask for them.

Only rank 0 writes. A resumed run cuts the rows beyond its checkpoint, so every step stands there once.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from genrec.config import TrainingSettings

METRICS_FILE = "metrics.jsonl"


class Curves:
    """Writer of one run's curves.

    Args:
        directory: of the run; holds metrics.jsonl and tensorboard/.
        settings: where else to log.
        name: of the MLflow run.
        step: steps already done; rows beyond it are dropped.
        active: False on ranks other than 0, which write nothing.
    """

    def __init__(self, directory: Path, settings: TrainingSettings, name: str, step: int, *, active: bool) -> None:
        self.active = active
        self._path = directory / METRICS_FILE
        self._tensorboard: Any = None
        self._mlflow: Any = None
        self._mlflow_run = ""
        if not active:
            return
        rows = [row for row in read_curves(directory) if row["step"] <= step]
        fresh = self._path.with_suffix(".partial")
        fresh.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        os.replace(fresh, self._path)
        self._stream = self._path.open("a", encoding="utf-8")
        if settings.tensorboard:
            from torch.utils.tensorboard import SummaryWriter

            self._tensorboard = SummaryWriter(str(directory / "tensorboard"), purge_step=step + 1)
        if settings.mlflow_uri is not None:
            self._open_mlflow(directory, settings, name)

    def write(self, step: int, values: dict[str, float], **where: float) -> None:
        """Add one row: ``values`` are curves, ``where`` (epoch, seconds) only tells when."""
        if not self.active:
            return
        self._stream.write(json.dumps({"step": step, **where, **values}) + "\n")
        self._stream.flush()
        if self._tensorboard is not None:
            for name, value in values.items():
                self._tensorboard.add_scalar(name, value, step)
        if self._mlflow is not None:
            for name, value in values.items():
                self._mlflow.log_metric(self._mlflow_run, name.replace("@", "_at_"), value, step=step)

    def close(self) -> None:
        """Flush everything."""
        if not self.active:
            return
        self._stream.close()
        if self._tensorboard is not None:
            self._tensorboard.close()
        if self._mlflow is not None:
            self._mlflow.set_terminated(self._mlflow_run)

    def _open_mlflow(self, directory: Path, settings: TrainingSettings, name: str) -> None:
        """Go on with the MLflow run of this directory, or start one."""
        from mlflow import MlflowClient

        self._mlflow = MlflowClient(tracking_uri=settings.mlflow_uri)
        marker = directory / "mlflow_run.txt"
        if marker.is_file():
            self._mlflow_run = marker.read_text(encoding="utf-8").strip()
            self._mlflow.update_run(self._mlflow_run, status="RUNNING")
            return
        experiment = self._mlflow.get_experiment_by_name("genrec")
        number = experiment.experiment_id if experiment else self._mlflow.create_experiment("genrec")
        self._mlflow_run = self._mlflow.create_run(number, run_name=name).info.run_id
        marker.write_text(self._mlflow_run + "\n", encoding="utf-8")
        for key, value in settings.model_dump(mode="json", exclude={"mlflow_uri"}).items():
            self._mlflow.log_param(self._mlflow_run, f"training.{key}", value)


def read_curves(directory: Path) -> list[dict[str, Any]]:
    """All rows of a run's metrics.jsonl; a line cut short by a crash is left out."""
    path = directory / METRICS_FILE
    if not path.is_file():
        return []
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows
