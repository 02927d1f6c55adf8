"""Rendering: settings in, the native file of one of Ray's own tools out."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import yaml

from cluster.commands import Job, environment
from cluster.dashboards import DASHBOARDS, grafana
from cluster.kuberay import ray_cluster, ray_job, ray_service
from cluster.monitoring import RULES, alarms, prometheus
from cluster.ray_up import ray_up
from cluster.serve_config import serve_config
from genrec.config import Settings

_KINDS: dict[str, tuple[Callable[[Settings, Job], dict[str, Any]], str]] = {
    "serve": (lambda settings, job: serve_config(settings), "serve deploy FILE"),
    "ray-up": (lambda settings, job: ray_up(settings), "ray up FILE"),
    "raycluster": (lambda settings, job: ray_cluster(settings), "kubectl apply -f FILE"),
    "rayjob": (ray_job, "kubectl apply -f FILE"),
    "rayservice": (lambda settings, job: ray_service(settings), "kubectl apply -f FILE"),
    "prometheus": (lambda settings, job: prometheus(settings), "prometheus --config.file FILE"),
    "alarms": (lambda settings, job: alarms(settings), f"beside Prometheus' own file, as {RULES}"),
    "runtime-env": (lambda settings, job: runtime_env(settings), "ray job submit --runtime-env FILE -- COMMAND"),
}
GRAFANA = tuple(f"grafana-{name}" for name in DASHBOARDS)
KINDS = (*_KINDS, *GRAFANA)


def runtime_env(settings: Settings) -> dict[str, Any]:
    """The job's runtime environment: the uploaded folder over the image's code, and no packages of its own.

    Packages are pinned in the image; installed again at each job they would differ from node to node.
    """
    return {"working_dir": settings.cluster.job.working_dir, "env_vars": environment(settings)}


def render(kind: str, settings: Settings, job: Job) -> str:
    """The file's text.

    Args:
        kind: one of :data:`KINDS`.
        settings: resolved.
        job: what a RayJob runs; the other kinds pass over it.

    Raises:
        SettingsError: the job is not one that can run.
    """
    if kind in GRAFANA:  # JSON knows no comments
        return json.dumps(grafana(kind.removeprefix("grafana-")), indent=1) + "\n"
    content, use = _KINDS[kind]
    header = f"# Rendered by `python -m cluster render {kind}` from the settings; change those instead.\n# {use}\n"
    return header + yaml.dump(content(settings, job), Dumper=_Plain, sort_keys=False, width=120)


class _Plain(yaml.SafeDumper):
    """Long texts as blocks, and equal parts written out: `ray up` and people read no anchors."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Plain.add_representer(str, _text)
