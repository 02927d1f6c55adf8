"""TensorBoard and MLflow logs of a sweep, written by the driver from the records, a run each trial.

An epoch's metrics are written once, whether they come while the trial runs or from its record afterwards.
TensorBoard: ``<sweep>/tensorboard/<number>-<role>``, with the HParams plug-in's summaries. MLflow: experiment
``sweep/<name>``, one run a trial with parameters, metrics by epoch, the final ones under ``final/`` and the record
as an artifact.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, Protocol

from genrec.errors import SettingsError
from tune.records import Record, Records
from tune.trial import EPOCH, MEASURES, SEGMENTS

FINAL = "final/"
_RUN_STATUS = {"finished": "FINISHED", "stopped": "FINISHED", "failed": "FAILED"}


class Log(Protocol):
    """Somewhere to watch trials."""

    def update(self, record: Record) -> None:
        """Write what is new in a record."""

    def close(self) -> None:
        """Flush everything."""


class TensorBoardLog:
    """Event files, a folder each trial.

    Args:
        directory: of the logs.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._writers: dict[str, Any] = {}
        self._epochs: dict[str, set[float]] = {}

    def update(self, record: Record) -> None:
        """Write epochs that are new, and settings and final metrics of a trial that is done."""
        if record.key not in self._writers:
            from torch.utils.tensorboard import SummaryWriter

            folder = self.directory / run_name(record)
            if folder.exists():  # of an earlier attempt, perhaps with half an event at its end: all is in the record
                shutil.rmtree(folder)
            self._writers[record.key], self._epochs[record.key] = SummaryWriter(str(folder)), set()
        writer, written = self._writers[record.key], self._epochs[record.key]
        for row in record.history:
            if row[EPOCH] not in written:
                written.add(row[EPOCH])
                for name, value in values(row).items():
                    writer.add_scalar(name, value, int(row[EPOCH]))
        if record.state in _RUN_STATUS:
            self._end(record, writer)
            writer.close()
            del self._writers[record.key]
        else:
            writer.flush()

    def _end(self, record: Record, writer: Any) -> None:
        from torch.utils.tensorboard.summary import hparams

        final = {FINAL + name: value for name, value in record.metrics.items()}
        # The page takes the list of metrics from any one trial, so each names all, a failed one too.
        named = {FINAL + segment + measure: 0.0 for segment in SEGMENTS for measure in MEASURES}
        told = {name: value if isinstance(value, bool | int | float) else str(value) for name, value in params(record)}
        for summary in hparams(told, named):  # type: ignore[no-untyped-call]
            writer.file_writer.add_summary(summary)
        for name, value in final.items():
            writer.add_scalar(name, value, int(record.history[-1][EPOCH]) if record.history else 0)

    def close(self) -> None:
        """Close the event files of trials that are not done."""
        for writer in self._writers.values():
            writer.close()
        self._writers.clear()


class MlflowLog:
    """MLflow runs, in a server or in a SQLite store beside the sweeps.

    Args:
        name: of the sweep.
        uri: tracking server; None: the local store.
        records: to remember each trial's run.

    Raises:
        SettingsError: MLflow is not installed, or there is no such store.
    """

    def __init__(self, name: str, uri: str | None, records: Records) -> None:
        where = f"sweeps.{name}.mlflow"
        try:
            from mlflow import MlflowClient
            from mlflow.exceptions import MlflowException
        except ModuleNotFoundError as error:
            raise SettingsError(
                f"{where}: MLflow is not installed ({error}); pip install 'genrec[mlflow]', or set mlflow: false"
            ) from error
        self.records, self.sweep = records, name
        self.uri = uri or local_store(records.directory)
        local = None if uri else (records.directory.parent / "mlflow-artifacts").resolve().as_uri()
        try:
            self.client = MlflowClient(tracking_uri=self.uri)
            found = self.client.get_experiment_by_name(f"sweep/{name}")
            self.experiment = (
                found.experiment_id
                if found
                else self.client.create_experiment(f"sweep/{name}", artifact_location=local and f"{local}/{name}")
            )
        except (MlflowException, OSError) as error:
            raise SettingsError(
                f"{where}_uri: no MLflow store at {self.uri!r} ({str(error).splitlines()[0]}); null takes a local one"
            ) from error
        self._epochs: dict[str, set[float]] = {}

    def update(self, record: Record) -> None:
        """Write epochs that are new, and all that is known of a trial that is done."""
        if record.key not in self._epochs:
            self._open(record)
        from mlflow.entities import Metric

        written, now = self._epochs[record.key], _milliseconds()
        fresh = [row for row in record.history if row[EPOCH] not in written]
        metrics = [
            Metric(mlflow_name(name), value, now, int(row[EPOCH]))
            for row in fresh
            for name, value in values(row).items()
        ]
        written.update(row[EPOCH] for row in fresh)
        if record.state in _RUN_STATUS:
            last = int(record.history[-1][EPOCH]) if record.history else 0
            metrics += [Metric(mlflow_name(FINAL + n), v, now, last) for n, v in record.metrics.items()]
        if metrics:
            self.client.log_batch(record.mlflow_run, metrics=metrics)
        if record.state in _RUN_STATUS:
            self.client.set_tag(record.mlflow_run, "state", record.state)
            self.client.log_dict(
                record.mlflow_run,
                {"params": record.params, "seed": record.seed, "metrics": record.metrics},
                "trial.json",
            )
            self.client.set_terminated(record.mlflow_run, _RUN_STATUS[record.state])
            del self._epochs[record.key]

    def _open(self, record: Record) -> None:
        """Find the trial's run or begin it; a driver killed at any line of this is gone on with by the next."""
        from mlflow.entities import Param

        if not record.mlflow_run:
            begun = self.client.search_runs([self.experiment], filter_string=f"tags.key = '{record.key}'")
            tags = {"sweep": self.sweep, "key": record.key, "roles": ", ".join(record.roles)}
            run = begun[0] if begun else self.client.create_run(self.experiment, run_name=run_name(record), tags=tags)
            record.mlflow_run = run.info.run_id
            self.records.save(record)
        told = [Param(name, str(value)) for name, value in params(record)]
        self.client.log_batch(record.mlflow_run, params=told)
        self.client.update_run(record.mlflow_run, status="RUNNING")
        written = self.client.get_metric_history(record.mlflow_run, mlflow_name("ndcg@10"))
        self._epochs[record.key] = {metric.step for metric in written}

    def close(self) -> None:
        """Nothing is open."""


def local_store(sweep: Path) -> str:
    """URI of the SQLite store beside all sweeps."""
    sweep.parent.mkdir(parents=True, exist_ok=True)
    return f"sqlite:///{(sweep.parent / 'mlflow.db').resolve()}"


def values(row: dict[str, float]) -> dict[str, float]:
    """An epoch's metrics without its place in time."""
    return {name: value for name, value in row.items() if name not in (EPOCH, "step")}


def run_name(record: Record) -> str:
    """What people see of a trial: its number and what it was tried for."""
    return f"{record.order:03d}-{record.roles[0]}"


def params(record: Record) -> list[tuple[str, Any]]:
    """A trial's settings, the seed among them."""
    return [*record.params.items(), ("run.seed", record.seed), ("role", record.roles[0])]


def mlflow_name(name: str) -> str:
    """MLflow allows no "@" in a metric's name; the train loop's runs write it the same way."""
    return name.replace("@", "_at_")


def _milliseconds() -> int:
    import time

    return int(time.time() * 1000)
