"""The sweeps of the settings file (``sweeps:``): what is varied, how points are chosen, and what counts as better."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, ValidationError, model_validator

from genrec.config.load import SWEEPS, explain, read_tree
from genrec.config.sections import Section
from genrec.errors import SettingsError

NAME = r"^[A-Za-z0-9][A-Za-z0-9_-]*$"
VERBS = ("list", "report", "status")
"""Words of the command line that no sweep may be called."""

Metric = Literal["ndcg@10", "hit@10", "head/ndcg@10", "head/hit@10", "tail/ndcg@10", "tail/hit@10"]
"""Of validation targets; "tail/" and "head/" are the users whose target is such an item."""


class Parameter(Section):
    """The values that one settings key may take: a list, or a range."""

    values: tuple[Any, ...] | None = Field(None, description="these and no others; what a grid needs")
    low: int | float | None = None
    high: int | float | None = None
    log: bool = Field(False, description="search the range by factors, not by differences")
    label: str | None = Field(None, description="name on plots; none: the key")

    @model_validator(mode="after")
    def _space(self) -> Parameter:
        if (self.values is None) == (self.low is None and self.high is None):
            raise ValueError("give either values or low and high")
        if self.values is not None:
            told = [repr(value) for value in self.values]
            if not told or len(set(told)) < len(told):
                raise ValueError(f"values: {list(self.values)} is empty or names one twice; list each value once")
            return self
        if self.low is None or self.high is None or not self.low < self.high:
            raise ValueError(f"low: the range from {self.low} to {self.high} is empty; low must be below high")
        if self.log and self.low <= 0:
            raise ValueError(f"low: a logarithmic range begins above 0, got {self.low}; raise low or drop log")
        return self

    @property
    def ends(self) -> tuple[Any, ...]:
        """All values, or both ends of the range."""
        return self.values if self.values is not None else (self.low, self.high)


class Objective(Section):
    """What makes one point better than another."""

    maximise: tuple[Metric, ...] = Field(
        ("tail/ndcg@10",), min_length=1, max_length=3, description="several: the search spreads over their Pareto front"
    )
    keep: Metric | None = Field("head/ndcg@10", description="metric that must not fall; none: no constraint")
    keep_share: float = Field(0.95, gt=0, le=1, description="of the control's value of `keep` that must be reached")


class Stopping(Section):
    """Asynchronous successive halving (ASHA, arXiv 1810.05934) over the epochs of a trial."""

    grace_epochs: PositiveInt = Field(2, description="epochs that every trial is given")
    reduction: float = Field(3, gt=1, description="at each rung about 1 of so many goes on")


class SweepSettings(Section):
    """One sweep. A trial is the train loop of every other run, with some settings of its own."""

    about: str = ""
    preset: str | None = None
    overrides: dict[str, Any] = Field({}, description="settings over the preset, for every trial; a tree of sections")
    space: dict[str, Parameter] = Field(min_length=1, description="settings key -> its values")
    search: Literal["optuna", "grid"] = "optuna"
    trials: PositiveInt = Field(20, description="optuna: points to try, beside the control and the defaults")
    seeds: tuple[NonNegativeInt, ...] = Field(
        (0,), min_length=1, description="grid: of every point. optuna: the first searches, the others confirm the best"
    )
    stage: Literal["pretrain", "finetune"] = Field(
        "pretrain", description="what is measured: the host, or the host with its neighbours (for retrieval.*)"
    )
    control: dict[str, Any] = Field(
        {"plugin.substitution.p1": 0.0}, description="settings of the control that always runs (no substitution)"
    )
    objective: Objective = Objective()
    stopping: Stopping | None = Field(Stopping(), description="optuna only; none: every trial runs to its end")
    concurrency: PositiveInt | None = Field(None, description="trials at once; none: as many as the cluster holds")
    retries: NonNegativeInt = Field(1, description="times that a crashed trial is started again before it is marked")
    max_minutes: PositiveFloat | None = Field(None, description="no new trial after so long; run again to go on")
    mlflow: bool = Field(True, description="log every trial as an MLflow run")
    mlflow_uri: str | None = Field(None, description="tracking server; none: a SQLite store in the runs' directory")

    @model_validator(mode="after")
    def _combinations(self) -> SweepSettings:
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds: {list(self.seeds)} names one twice")
        if self.search == "grid":
            for key, parameter in self.space.items():
                if parameter.values is None:
                    raise ValueError(f"space.{key}: a grid needs values, got a range; list them or use search: optuna")
        return self


def load_sweeps(path: str | Path | None = None) -> dict[str, SweepSettings]:
    """All sweeps of a settings file, in its order.

    Raises:
        SettingsError: naming the key, the value and what it may be.
    """
    found = read_tree(path).get(SWEEPS) or {}
    if not isinstance(found, dict):
        raise SettingsError(f"{SWEEPS}: expected name: sweep, got {type(found).__name__}")
    return {str(name): _sweep(str(name), tree) for name, tree in found.items()}


def _sweep(name: str, tree: Any) -> SweepSettings:
    where = f"{SWEEPS}.{name}"
    if not re.fullmatch(NAME, name) or name in VERBS:
        raise SettingsError(
            f"{SWEEPS}: {name!r} cannot name a sweep; use letters, digits, '-' and '_', and none of {', '.join(VERBS)}"
        )
    if not isinstance(tree, Mapping):
        raise SettingsError(f"{where}: expected space and search, got {type(tree).__name__}")
    try:
        return SweepSettings.model_validate(tree)
    except ValidationError as error:
        raise SettingsError("\n".join(_told(item, where) for item in error.errors())) from None


def _told(item: Any, where: str) -> str:
    """As every settings mistake is told; a rule within a part names the part as well."""
    if item["type"] == "value_error" and item["loc"]:
        where = ".".join([where, *map(str, item["loc"])])
    return explain(item, SweepSettings, where)
