"""A sweep resolved against the settings: its points, their keys, and all that can be wrong before a trial starts.

A trial is known by the key of the artifact that it makes (genrec.artifacts), so equal settings are one trial,
whoever asked for them, and what a sweep has trained is found again by ``genrec run``.
"""

from __future__ import annotations

import difflib
import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from genrec.artifacts import digest, is_uri
from genrec.config import Settings, load_settings
from genrec.config.load import SWEEPS, explain
from genrec.errors import SettingsError
from genrec.stages import STAGES, plan
from genrec.stages.stage import flatten
from tune.settings import Parameter, load_sweeps

Role = Literal["control", "defaults", "grid", "search", "confirm"]
JUDGES = ("run", "data", "evaluation", "ray", "serve", "bundle", "cluster")
"""Sections that decide what trials are judged by or where they run; they are not swept."""
MANNER = {"training.checkpoint_every": 1, "training.checkpoint_steps": None}
"""A trial tells of every epoch, and only of whole ones; no key depends on these."""


@dataclass(frozen=True)
class Point:
    """Settings to be tried with one seed.

    Attributes:
        role: why.
        params: swept settings key -> value, beside the sweep's base.
        seed: run.seed.
        key: of the artifact that the trial makes.
        settings: the resolved tree.
    """

    role: Role
    params: Mapping[str, Any]
    seed: int
    key: str
    settings: Settings


class Sweep:
    """A named sweep over resolved settings.

    Args:
        name: below ``sweeps`` in the settings file.
        config: the settings file; None: the default one.
        overrides: ``section.key=value`` over the sweep's own.

    Raises:
        SettingsError: there is no such sweep, or its space cannot be tried as it is.
    """

    def __init__(self, name: str, config: str | Path | None = None, overrides: Sequence[str] = ()) -> None:
        sweeps = load_sweeps(config)
        if name not in sweeps:
            near = difflib.get_close_matches(name, sweeps, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"it has: {', '.join(sweeps) or 'none'}"
            raise SettingsError(f"{SWEEPS}.{name}: no such sweep in the settings file; {hint}")
        self.name, self.where, self.definition = name, f"{SWEEPS}.{name}", sweeps[name]
        self.overrides = tuple(overrides)
        definition = self.definition
        for override in overrides:
            key = override.partition("=")[0].strip()
            if key in definition.space or key == "run.seed":
                raise SettingsError(f"--set {override!r}: the sweep varies {key} itself")
        layers = (definition.overrides,)
        self.base = load_settings(config, preset=definition.preset, layers=layers, overrides=overrides)
        self.leaves = flatten(self.base.model_dump(mode="json"))
        if is_uri(self.base.run.directory):
            raise SettingsError(
                f"run.directory: {self.base.run.directory}: a sweep's records and locks are files; give a directory, "
                "mounted on all nodes"
            )
        self._require_keys(definition.space, "space")
        self._require_keys(definition.control, "control")
        self._require_values()
        self.shared = self._shared_stages()

    @property
    def directory(self) -> Path:
        """Folder of the sweep's records, logs and report."""
        return Path(self.base.run.directory) / "sweeps" / self.name

    @property
    def epochs(self) -> int:
        """Most epochs of a trial."""
        return self.base.training.epochs

    def point(self, role: Role, params: Mapping[str, Any], seed: int) -> Point:
        """Settings and key of one trial.

        Raises:
            SettingsError: the values do not go together.
        """
        settings = self._settings({**params, **MANNER, "run.seed": seed, "run.name": self.name})
        return Point(role, dict(params), seed, plan(STAGES, settings)[self.definition.stage].key, settings)

    def grid(self) -> list[Point]:
        """Every combination of the values with every seed, all points of the first seed first."""
        names = list(self.definition.space)
        columns = [parameter.values or () for parameter in self.definition.space.values()]
        rows = [dict(zip(names, row, strict=True)) for row in itertools.product(*columns)]
        return [self.point("grid", row, seed) for seed in self.definition.seeds for row in rows]

    def references(self, seeds: Iterable[int]) -> list[Point]:
        """The control and the defaults, which any point is compared with."""
        defaults = {key: self.leaves[key] for key in self.definition.space}
        roles: tuple[tuple[Role, dict[str, Any]], ...] = (
            ("control", {**defaults, **self.definition.control}),
            ("defaults", defaults),
        )
        return [self.point(role, params, seed) for seed in seeds for role, params in roles]

    def identity(self) -> str:
        """Digest of all that makes earlier trials of this name comparable with new ones."""
        definition = self.definition
        space = {key: parameter.model_dump(mode="json") for key, parameter in definition.space.items()}
        return digest(
            {
                "base": self.point("defaults", {}, definition.seeds[0]).key,
                "space": space if definition.search == "optuna" else sorted(space),
                "search": definition.search,
                "stage": definition.stage,
                "seed": definition.seeds[0],
            }
        )

    def _settings(self, values: Mapping[str, Any]) -> Settings:
        tree = self.base.model_dump(mode="json")
        for key, value in values.items():
            *sections, last = key.split(".")
            node = tree
            for section in sections:
                node = node[section]
            node[last] = value
        try:
            return Settings.model_validate(tree)
        except ValidationError as error:
            told = "; ".join(explain(item, Settings) for item in error.errors())
            raise SettingsError(f"{self.where}: {told}") from None

    def _require_keys(self, keys: Iterable[str], part: str) -> None:
        for key in keys:
            if key not in self.leaves:
                near = difflib.get_close_matches(key, self.leaves, n=1)
                hint = f"did you mean {near[0]!r}?" if near else "`python -m genrec config` lists all"
                raise SettingsError(f"{self.where}.{part}.{key}: unknown settings key; {hint}")
            if key.split(".")[0] in JUDGES:
                raise SettingsError(
                    f"{self.where}.{part}.{key}: trials that differ in {key.split('.')[0]} cannot be compared; "
                    f"set it in {self.where}.overrides, for all trials"
                )

    def _require_values(self) -> None:
        """Every value, and both ends of every range, must be settings, and must matter."""
        definition, stage = self.definition, self.definition.stage
        for part, choices in (
            ("space", {key: parameter.ends for key, parameter in definition.space.items()}),
            ("control", {key: (value,) for key, value in definition.control.items()}),
        ):
            for key, values in choices.items():
                for value in values:
                    try:
                        self._settings({key: value})
                    except SettingsError as error:
                        told = str(error).removeprefix(f"{self.where}: ")
                        raise SettingsError(f"{self.where}.{part}.{key}: {value!r} is refused: {told}") from None
        for key, parameter in definition.space.items():
            keys = {plan(STAGES, self._settings({key: value}))[stage].key for value in parameter.ends[:2]}
            if len(parameter.ends) > 1 and len(keys) == 1:
                other = " (stage: finetune measures the host with its neighbours)" if stage == "pretrain" else ""
                raise SettingsError(f"{self.where}.space.{key}: changes nothing of what {stage} makes{other}; drop it")
        if definition.search == "grid":
            self.grid()
        if stage == "finetune" and not self.base.plugin.retrieval:
            raise SettingsError(
                f"{self.where}.stage: 'finetune' measures the host with its neighbours; set "
                "overrides.plugin.retrieval=true, or stage: pretrain"
            )

    def _shared_stages(self) -> list[str]:
        """Stages below the measured one that no swept key touches, in order; they are made once, before the trials."""
        base = plan(STAGES, self.base)
        variants = [
            plan(STAGES, self._settings({key: value}))
            for key, parameter in self.definition.space.items()
            for value in parameter.ends[:2]
        ]
        variants.append(plan(STAGES, self._settings(self.definition.control)))
        needed: set[str] = set()
        waiting: list[str] = [self.definition.stage]
        while waiting:
            for source in base[waiting.pop()].stage.inputs:
                if source not in needed:
                    needed.add(source)
                    waiting.append(source)
        return [name for name in STAGES if name in needed and all(v[name].key == base[name].key for v in variants)]


def is_integer(parameter: Parameter, default: Any) -> bool:
    """Does a range run over whole numbers? It does where its ends and the key's default are whole."""
    return all(
        isinstance(value, int) and not isinstance(value, bool) for value in (parameter.low, parameter.high, default)
    )
