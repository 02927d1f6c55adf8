"""Grids of the settings file (``grids:``): named comparisons of arms that differ in a few settings.

A cell is one arm with one seed: base, the grid's preset, the grid's overrides, the arm's overrides, then ``--set``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field, NonNegativeInt, ValidationError, model_validator

from genrec.config.load import GRIDS, explain, load_settings, read_tree
from genrec.config.sections import Section
from genrec.config.tree import Settings
from genrec.errors import SettingsError

NAME = r"^[A-Za-z0-9][A-Za-z0-9_-]*$"
OWN = ("run.seed", "run.name")
"""Leaves that a grid sets for its cells."""


class ArmSettings(Section):
    """One way to make a model."""

    about: str = ""
    overrides: dict[str, Any] = Field({}, description="settings over the grid's, as a tree of sections")
    against: tuple[str, ...] | None = Field(None, description="arms it is compared with; none: the grid's control")


class GridSettings(Section):
    """Arms, seeds, and which arm the others are compared with."""

    about: str = ""
    preset: str | None = None
    overrides: dict[str, Any] = Field({}, description="settings over the preset, for every arm")
    seeds: tuple[NonNegativeInt, ...] = Field((0, 1, 2), min_length=1)
    control: str
    arms: dict[str, ArmSettings] = Field(min_length=1, description="in order of importance")

    @model_validator(mode="after")
    def _names(self) -> GridSettings:
        known = ", ".join(self.arms)
        if self.control not in self.arms:
            raise ValueError(f"control: {self.control!r} is not an arm; it may be one of: {known}")
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds: {list(self.seeds)} names one twice")
        for name, arm in self.arms.items():
            for other in arm.against or ():
                if other not in self.arms or other == name:
                    raise ValueError(f"arms.{name}.against: {other!r} is not another arm; there are: {known}")
        return self

    def against(self, arm: str) -> tuple[str, ...]:
        """The arms that ``arm`` is compared with; none for one that is only compared with."""
        own = self.arms[arm].against
        return own if own is not None else ((self.control,) if arm != self.control else ())


@dataclass(frozen=True)
class Cell:
    """One arm with one seed.

    Attributes:
        arm, seed: which.
        settings: the resolved tree; its ``run.name`` is ``grid.arm.seed``.
    """

    arm: str
    seed: int
    settings: Settings

    @property
    def name(self) -> str:
        """The run's name."""
        return self.settings.run.name


def load_grids(path: str | Path | None = None) -> dict[str, GridSettings]:
    """All grids of a settings file, in its order.

    Raises:
        SettingsError: naming the key, the value and what it may be.
    """
    found = read_tree(path).get(GRIDS) or {}
    if not isinstance(found, dict):
        raise SettingsError(f"{GRIDS}: expected name: grid, got {type(found).__name__}")
    return {str(name): _grid(str(name), tree) for name, tree in found.items()}


def grid_cells(
    name: str, grid: GridSettings, path: str | Path | None = None, *, overrides: Sequence[str] = ()
) -> list[Cell]:
    """Every cell of a grid: all arms with the first seed, in order of importance, then with the next.

    Args:
        name: the grid's.
        grid: its definition.
        path: the settings file it stands in.
        overrides: ``section.key=value``, over every arm's own.

    Raises:
        SettingsError: an arm's settings are wrong, or two arms are the same.
    """
    for override in overrides:
        if override.partition("=")[0].strip() in OWN:
            raise SettingsError(f"--set {override!r}: a grid seeds and names its runs itself; choose with --seeds")
    made: dict[tuple[int, str], str] = {}
    cells = []
    for seed in grid.seeds:
        for arm, own in grid.arms.items():
            settings = _cell_settings(name, grid, arm, own, seed, path, overrides)
            cells.append(Cell(arm, seed, settings))
            other = made.setdefault((seed, settings.model_dump_json(exclude={"run"})), arm)
            if other != arm:
                raise SettingsError(
                    f"{GRIDS}.{name}.arms.{arm}: has the same settings as arm {other!r}; an arm must differ from "
                    "every other (does a --set level what they differ in?)"
                )
    return cells


def _cell_settings(
    name: str,
    grid: GridSettings,
    arm: str,
    own: ArmSettings,
    seed: int,
    path: str | Path | None,
    overrides: Sequence[str],
) -> Settings:
    try:
        return load_settings(
            path,
            preset=grid.preset,
            layers=(grid.overrides, own.overrides),
            overrides=[*overrides, f"run.seed={seed}", f"run.name={name}.{arm}.{seed}"],
        )
    except SettingsError as error:
        raise SettingsError(f"{GRIDS}.{name}.arms.{arm}: {error}") from None


def _grid(name: str, tree: Any) -> GridSettings:
    where = f"{GRIDS}.{name}"
    if not isinstance(tree, Mapping):
        raise SettingsError(f"{where}: expected arms, seeds and control, got {type(tree).__name__}")
    try:
        grid = GridSettings.model_validate(tree)
    except ValidationError as error:
        told = [explain(item, GridSettings, where) for item in error.errors()]
        raise SettingsError("\n".join(told)) from None
    for kind, text in ((GRIDS, name), *((f"{where}.arms", arm) for arm in grid.arms)):
        if not re.fullmatch(NAME, text):
            raise SettingsError(f"{kind}: {text!r} is no name; use letters, digits, '-' and '_'")
    own = {where: grid.overrides} | {f"{where}.arms.{arm}": it.overrides for arm, it in grid.arms.items()}
    for key, overrides in own.items():
        if "run" in overrides:
            raise SettingsError(f"{key}.overrides.run: a grid seeds and names its runs itself; use {where}.seeds")
    return grid
