"""What is known of each trial, one small JSON file each, replaced in one rename.

The records are the sweep: the search, the stopping rule, TensorBoard, MLflow, the table and the report are fed
from them, after an interruption as much as without one.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from genrec.artifacts import canonical_json
from genrec.errors import ArtifactError, SettingsError

State = Literal["waiting", "running", "finished", "stopped", "failed"]
DONE: tuple[State, ...] = ("finished", "stopped", "failed")
SCHEMA = 1


@dataclass
class Record:
    """One trial.

    Attributes:
        key: of the artifact that it makes.
        params: swept settings key -> value.
        seed: run.seed.
        roles: why it was tried; a point may serve several ends.
        order: 0, 1, ... in the order of starting.
        state: "stopped" by ASHA; "failed" after its retries.
        history: one entry an epoch: epoch, step and validation metrics while training.
        metrics: of the finished trial, on all validation users by the search of the evaluation.
        seconds: wall time of its attempts.
        attempts: times it was started.
        error: what it failed of.
        mlflow_run: id of its MLflow run.
        process: where it runs or ran last, "address:pid".
    """

    key: str
    params: dict[str, Any]
    seed: int
    roles: list[str]
    order: int
    state: State = "waiting"
    history: list[dict[str, float]] = field(default_factory=list)
    metrics: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    attempts: int = 0
    error: str = ""
    mlflow_run: str = ""
    process: str = ""

    @property
    def last(self) -> Mapping[str, float]:
        """The final metrics, or those of the latest epoch of a trial without."""
        return self.metrics or (self.history[-1] if self.history else {})

    def told(self, row: Mapping[str, float]) -> None:
        """Take in an epoch's metrics; an epoch that was trained again replaces what it told before."""
        self.history = [old for old in self.history if old["epoch"] < row["epoch"]] + [dict(row)]


class Records:
    """The records of a sweep's folder.

    Args:
        directory: of the sweep.
        identity: of the sweep's definition; records of another one are refused.

    Raises:
        SettingsError: the folder holds trials that cannot be compared with this sweep's.
        ArtifactError: a record cannot be read.
    """

    def __init__(self, directory: Path, identity: str | None = None) -> None:
        self.directory = directory
        self.trials: dict[str, Record] = {}
        marker = directory / "sweep.json"
        if identity is not None:
            if marker.is_file() and _read(marker).get("identity") != identity:
                raise SettingsError(
                    f"{directory}: holds trials of other data, base settings or space under this name. Give the sweep "
                    "another name, or delete that folder (what was trained stays in the artifact store)"
                )
            (directory / "trials").mkdir(parents=True, exist_ok=True)
            write(marker, {"schema": SCHEMA, "identity": identity})
        elif not marker.is_file():
            raise ArtifactError(f"{directory}: no such sweep was run; `python -m tune {directory.name}` runs it")
        for path in (directory / "trials").glob("[!.]*.json"):
            tree = _read(path)
            try:
                record = Record(**{name: value for name, value in tree.items() if name != "schema"})
            except TypeError as error:
                raise ArtifactError(f"{path}: not a trial's record ({error}). Delete it and run again.") from error
            self.trials[record.key] = record
        self.trials = dict(sorted(self.trials.items(), key=lambda item: item[1].order))

    def begin(self, key: str, params: Mapping[str, Any], seed: int, role: str) -> Record:
        """The record of a trial that is wanted, new or not."""
        record = self.trials.get(key)
        if record is None:
            order = 1 + max((other.order for other in self.trials.values()), default=-1)
            record = self.trials[key] = Record(key, dict(params), seed, [], order)
        if role not in record.roles:
            record.roles.append(role)
            self.save(record)
        return record

    def save(self, record: Record) -> None:
        """Write one record."""
        write(self.directory / "trials" / f"{record.key}.json", {"schema": SCHEMA, **asdict(record)})

    def frame(self, key: str) -> Path:
        """The finished trial's ranked lists of the validation users."""
        return self.directory / "frames" / f"{key}.parquet"

    def of(self, *roles: str) -> list[Record]:
        """Records that serve one of these ends, in order."""
        return [record for record in self.trials.values() if set(roles) & set(record.roles)]


def write(path: Path, value: Any) -> None:
    """Replace a JSON file in one rename."""
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    fresh.write_bytes(canonical_json(value))
    os.replace(fresh, path)


def _read(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_bytes()))
    except (OSError, ValueError) as error:
        raise ArtifactError(f"{path}: not a record of a sweep ({error}). Delete it and run again.") from error
