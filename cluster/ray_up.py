"""The cluster file of ``ray up``: cloud machines that a head starts and gives back by need.

Secrets are files of the machine that runs ``ray up``, copied to the nodes; the file names them, no more. The dashboard
and the Jobs API listen on the head's 127.0.0.1 alone: ``ray dashboard FILE`` opens a tunnel to them.
"""

from __future__ import annotations

import shlex
from typing import Any

from genrec.config import Settings, WorkerGroupSettings

HEAD = "head"
GCS_PORT, OBJECT_PORT = 6379, 8076
_TOKEN = "~/.ray/auth_token"  # noqa: S105 (where Ray looks for the token on every node)
_REDIS_PASSWORD = "~/.genrec/redis_password"  # noqa: S105 (a path on the head)


def ray_up(settings: Settings) -> dict[str, Any]:
    """The file's content."""
    cluster = settings.cluster
    groups = cluster.worker_groups()
    mount = shlex.quote(cluster.storage.path)
    mounts = {_TOKEN: cluster.ray_up.token_file}
    if cluster.redis.address is not None and cluster.redis.password_file is not None:
        mounts[_REDIS_PASSWORD] = cluster.redis.password_file
    return {
        "cluster_name": cluster.name,
        "max_workers": sum(group.max for group in groups.values()),
        "upscaling_speed": 1.0,
        "idle_timeout_minutes": cluster.idle_minutes,
        "provider": dict(cluster.ray_up.provider),
        "auth": {"ssh_user": cluster.ray_up.ssh_user},
        "docker": {
            "image": cluster.images.cpu,
            "container_name": cluster.name,
            "pull_before_run": cluster.images.pull,
            "run_options": [
                "--ulimit nofile=65536:65536",
                "--env RAY_AUTH_MODE=token",
                *([f"--volume {mount}:{mount}"] if cluster.storage.mounted else []),
            ],
        },
        "head_node_type": HEAD,
        "available_node_types": {
            HEAD: {
                "resources": {"CPU": 0},
                "node_config": dict(cluster.head.node),
                "min_workers": 0,
                "max_workers": 0,
            },
            **{name: _node_type(settings, group) for name, group in groups.items()},
        },
        "file_mounts": mounts,
        "initialization_commands": list(cluster.ray_up.mount),
        "setup_commands": [f"chmod 600 {_TOKEN}"],
        "head_setup_commands": list(cluster.ray_up.head_setup),
        "head_start_ray_commands": ["ray stop", _start_head(settings)],
        "worker_start_ray_commands": [
            "ray stop",
            f"ulimit -n 65536; ray start --address=$RAY_HEAD_IP:{GCS_PORT} --object-manager-port={OBJECT_PORT}",
        ],
    }


def _node_type(settings: Settings, group: WorkerGroupSettings) -> dict[str, Any]:
    node: dict[str, Any] = {
        "resources": {"CPU": group.cpus, **({"GPU": group.gpus} if group.gpus else {})},
        "labels": dict(group.labels),
        "node_config": dict(group.node),
        "min_workers": group.min,
        "max_workers": group.max,
    }
    if group.gpus:
        node["docker"] = {"worker_image": settings.cluster.images.gpu, "pull_before_run": settings.cluster.images.pull}
    return node


def _start_head(settings: Settings) -> str:
    redis = settings.cluster.redis
    state, password = "", ""
    if redis.address is not None:
        # The namespace keeps clusters apart that share one Redis.
        state = f"RAY_REDIS_ADDRESS={redis.address} RAY_external_storage_namespace={settings.cluster.name} "
        if redis.password_file is not None:
            password = f' --redis-password="$(cat {_REDIS_PASSWORD})"'
    return (
        f"ulimit -n 65536; {state}ray start --head --num-cpus=0 --port={GCS_PORT} "
        f"--object-manager-port={OBJECT_PORT} --dashboard-host=127.0.0.1 "
        f"--autoscaling-config=~/ray_bootstrap_config.yaml{password}"
    )
