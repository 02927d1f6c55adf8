"""The best settings that a sweep found (``python -m tune``), read from the file that it left.

Applications stand above the library, so this reads their file and imports nothing of them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from genrec.config import Settings, load_settings
from genrec.errors import ArtifactError
from genrec.stages.stage import nested

FILE = "best.json"


def settings_from_sweep(name: str, config: str | Path | None, overrides: Sequence[str]) -> Settings:
    """The settings of a sweep's best point: base, its preset, its overrides, the best values, then ``--set``.

    Args:
        name: of the sweep, below ``<run.directory>/sweeps``; the run is called by it as well.
        config: the settings file that the sweep stands in.
        overrides: ``section.key=value``.

    Raises:
        ArtifactError: no such sweep has ended with a best point, or its file is not one.
        SettingsError: the values no longer fit the settings.
    """
    path = Path(load_settings(config, overrides=overrides).run.directory) / "sweeps" / name / FILE
    if not path.is_file():
        raise ArtifactError(f"{path.parent}: no such sweep has a best point; `python -m tune {name}` finds one")
    try:
        told = json.loads(path.read_bytes())
        layers = (told["overrides"], {"run": {"name": name}}, nested(told["best"]))
        preset, given = told["preset"], [str(text) for text in told["given"]]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ArtifactError(f"{path}: not the result of a sweep ({error}); run the sweep again") from error
    return load_settings(config, preset=preset, layers=layers, overrides=[*given, *overrides])
