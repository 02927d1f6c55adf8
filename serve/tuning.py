"""How Ray Serve passes requests on: settings of its own, which its processes read from the environment as they start.

Calls between deployments go by gRPC, not as Ray tasks whose results travel by reference, which costs a list a sixth of
its processor time more (docs/benchmarks.md); Serve listens for both either way. ``python -m serve`` sets this for the
cluster that it starts, a rendered Serve config for the replicas of the application; what is set already stands.
"""

from __future__ import annotations

import os

SERVE_ENVIRONMENT = {
    "RAY_SERVE_USE_GRPC_BY_DEFAULT": "1",
    "RAY_SERVE_LOG_TO_STDERR": "0",  # each line once: the log files have them all
}


def tune() -> None:
    """Set it, before anything imports ``ray.serve``."""
    for name, value in SERVE_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
