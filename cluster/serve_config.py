"""Serve's config file: what ``serve deploy`` and a RayService take.

Serve's schema passes over misspelt keys of an application's arguments in silence, so the settings travel as overrides
that serve.app.application reads back through our own strict tree. The image's settings file therefore cannot disagree
with the rendered one.
"""

from __future__ import annotations

import json
import posixpath
from typing import Any

from cluster.commands import environment, run_directory
from genrec.config import Settings
from serve.tuning import SERVE_ENVIRONMENT

APPLICATION = "genrec"
SERVED_SECTIONS = ("run", "serve", "content")


def serve_config(settings: Settings) -> dict[str, Any]:
    """The file's content for the bundle of ``run.name`` on the shared storage.

    Serve's HTTP port checks no token: put a gateway that does in front of it.
    """
    directory = run_directory(settings)
    tree = settings.model_dump(mode="json", include=set(SERVED_SECTIONS))
    tree["run"]["directory"] = directory
    return {
        "proxy_location": "EveryNode",
        "http_options": {
            "host": "0.0.0.0",  # noqa: S104 (within the cluster's network; see above)
            "port": settings.serve.port or 8000,
            # The ingress answers 504 before.
            "request_timeout_s": max(settings.serve.request_timeout_s, settings.serve.instruction_timeout_s) + 5.0,
        },
        "logging_config": {"encoding": "JSON"},
        "applications": [
            {
                "name": APPLICATION,
                "route_prefix": "/",
                "import_path": "serve.app:application",
                "runtime_env": {"env_vars": {**SERVE_ENVIRONMENT, **environment(settings)}},
                "args": {
                    "bundle": posixpath.join(directory, settings.run.name, "bundle"),
                    "overrides": [f"{section}={json.dumps(tree[section])}" for section in SERVED_SECTIONS],
                },
            }
        ],
    }
