"""The run folder: one name under which people find a run's settings, keys, report and bundle.

    <run.directory>/<run.name>/run.json       resolved settings, key and state of each stage
                               settings.yaml  the resolved tree, to be run again by --config
                               report.html, metrics.json, bundle -> links into the artifact store
    <run.directory>/bundles/<bundle.name>     -> the newest bundle of that name, for `serve`

The artifacts themselves are shared by all runs of the directory.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping
from pathlib import Path

from genrec import __version__
from genrec.artifacts import ArtifactStore, canonical_json
from genrec.bundle import LINKS as BUNDLES
from genrec.config import Settings, resolved_yaml
from genrec.errors import ArtifactError
from genrec.stages.stage import Plan

RESERVED = ("artifacts", "bundles", "cache", "sweeps")
RUN = "run.json"
LINKS = {
    "report.html": ("evaluate", "report.html"),
    "metrics.json": ("evaluate", "metrics.json"),
    "bundle": ("bundle", ""),
}


class RunFolder:
    """Folder of one run.

    Args:
        settings: the resolved tree.
        store: where the artifacts are.
        plans: all stages with their keys.
    """

    def __init__(self, settings: Settings, store: ArtifactStore, plans: Mapping[str, Plan]) -> None:
        self.settings, self.store, self.plans = settings, store, plans
        self.path = store.root.parent / settings.run.name

    def update(self) -> None:
        """Write run.json and set the links to what is finished by now; each change is one rename."""
        self.path.mkdir(parents=True, exist_ok=True)
        stages = {
            name: {"key": item.key, "finished": self.store.has(name, item.key)} for name, item in self.plans.items()
        }
        record = {
            "schema": 1,
            "name": self.settings.run.name,
            "genrec": __version__,
            "machine": {"system": platform.platform(), "cpus": os.cpu_count(), "python": platform.python_version()},
            "stages": stages,
            "settings": self.settings.model_dump(mode="json"),
        }
        _write(self.path / RUN, canonical_json(record))
        _write(self.path / "settings.yaml", resolved_yaml(self.settings).encode())
        for name in ("settings.yaml", RUN):
            self.store.share(self.path / name)
        for link, (stage, file) in LINKS.items():
            if stages.get(stage, {}).get("finished"):
                self._link(self.path / link, stage, file)
            else:  # made with other settings under the same name
                (self.path / link).unlink(missing_ok=True)
        if stages.get("bundle", {}).get("finished"):
            self._link(self.store.root.parent / BUNDLES / self.settings.bundle.name, "bundle", "")

    @staticmethod
    def read_keys(store: ArtifactStore, run: str) -> dict[str, str]:
        """Stage -> key of the finished stages of a run.

        Raises:
            ArtifactError: there is no run of that name.
        """
        raw, path = store.record(f"{run}/{RUN}"), store.where(store.root.parent / run / RUN)
        if raw is None:
            raise ArtifactError(f"{path}: no such run; `python -m genrec run` makes one")
        try:
            stages = json.loads(raw)["stages"]
            return {name: entry["key"] for name, entry in stages.items() if entry["finished"]}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ArtifactError(f"{path}: not a run record ({error}); run it again") from error

    def _link(self, link: Path, stage: str, file: str) -> None:
        target = self.store.path(stage, self.plans[stage].key) / file
        if not target.exists():
            return
        link.parent.mkdir(parents=True, exist_ok=True)
        fresh = link.with_name(f".{link.name}.{os.getpid()}")
        fresh.unlink(missing_ok=True)
        fresh.symlink_to(os.path.relpath(target, link.parent))
        os.replace(fresh, link)
        if target.is_file():
            self.store.share(link)


def _write(path: Path, data: bytes) -> None:
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    fresh.write_bytes(data)
    os.replace(fresh, path)
