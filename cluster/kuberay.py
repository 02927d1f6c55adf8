"""Kubernetes: RayCluster, RayJob and RayService for the KubeRay operator (ray.io/v1).

The operator hands the token of the Secret to every node (authOptions) and keeps the head's state in Redis
(gcsFaultToleranceOptions). Secrets are made by whoever runs the cluster; the manifests refer to them by name.
"""

from __future__ import annotations

from typing import Any

import ray
import yaml

from cluster.commands import Job, command, environment, reserved_cpus
from cluster.serve_config import serve_config
from genrec.config import Settings, WorkerGroupSettings

API_VERSION = "ray.io/v1"
USER_ID = 1000
"""Of the user in cluster/docker/Dockerfile."""


def ray_cluster(settings: Settings) -> dict[str, Any]:
    """A RayCluster that stays."""
    return _resource(settings, "RayCluster", _cluster_spec(settings))


def ray_job(settings: Settings, job: Job) -> dict[str, Any]:
    """A RayJob: a cluster of its own for one job, given back after it.

    Raises:
        SettingsError: the job is not one that can run (cluster.commands.check).
    """
    how = settings.cluster.job
    spec: dict[str, Any] = {
        "entrypoint": command(settings, job),
        "entrypointNumCpus": reserved_cpus(settings, job),
        "runtimeEnvYAML": yaml.safe_dump({"env_vars": environment(settings)}),
        "backoffLimit": how.retries,
        "shutdownAfterJobFinishes": True,
        "ttlSecondsAfterFinished": how.keep_s,
        "rayClusterSpec": _cluster_spec(settings),
    }
    if not spec["entrypointNumCpus"]:
        del spec["entrypointNumCpus"]
    return _resource(settings, "RayJob", spec)


def ray_service(settings: Settings) -> dict[str, Any]:
    """A RayService: the endpoint; a changed cluster is brought up whole before the old one goes."""
    spec = {
        "serveConfigV2": yaml.safe_dump(serve_config(settings), sort_keys=False),
        "upgradeStrategy": {"type": "NewCluster"},
        "rayClusterConfig": _cluster_spec(settings),
    }
    return _resource(settings, "RayService", spec)


def _resource(settings: Settings, kind: str, spec: dict[str, Any]) -> dict[str, Any]:
    return {
        "apiVersion": API_VERSION,
        "kind": kind,
        "metadata": {"name": settings.cluster.name, "namespace": settings.cluster.namespace},
        "spec": spec,
    }


def _cluster_spec(settings: Settings) -> dict[str, Any]:
    cluster = settings.cluster
    spec: dict[str, Any] = {
        "rayVersion": ray.__version__,
        "authOptions": {"mode": "token", "secretName": cluster.token_secret},
        "enableInTreeAutoscaling": True,
        "autoscalerOptions": {
            "version": "v2",
            "upscalingMode": "Default",
            "idleTimeoutSeconds": 60 * cluster.idle_minutes,
        },
        "headGroupSpec": {
            "rayStartParams": {"num-cpus": "0", "dashboard-host": "0.0.0.0"},  # noqa: S104 (the operator asks there)
            "template": _pod(settings, "ray-head", cluster.images.cpu, cluster.head.cpus, cluster.head.memory_gib),
        },
        "workerGroupSpecs": [_worker_group(settings, name, group) for name, group in cluster.worker_groups().items()],
    }
    if cluster.redis.address is not None:
        state: dict[str, Any] = {"redisAddress": cluster.redis.address}
        if cluster.redis.password_secret is not None:
            state["redisPassword"] = {"valueFrom": _from_secret(cluster.redis.password_secret)}
        spec["gcsFaultToleranceOptions"] = state
    return spec


def _worker_group(settings: Settings, name: str, group: WorkerGroupSettings) -> dict[str, Any]:
    images = settings.cluster.images
    image = images.gpu if group.gpus else images.cpu
    pod = _pod(settings, "ray-worker", image, group.cpus, group.memory_gib, group.gpus)
    if group.node_selector:
        pod["spec"]["nodeSelector"] = dict(group.node_selector)
    return {
        "groupName": name,
        "replicas": group.min,
        "minReplicas": group.min,
        "maxReplicas": group.max,
        "labels": dict(group.labels),
        "rayStartParams": {},
        "template": pod,
    }


def _pod(settings: Settings, name: str, image: str, cpus: int, memory_gib: int, gpus: int = 0) -> dict[str, Any]:
    cluster = settings.cluster
    # Requests equal limits: Ray counts the limits as what there is, so a node must really have them.
    amounts = {"cpu": str(cpus), "memory": f"{memory_gib}Gi", **({"nvidia.com/gpu": str(gpus)} if gpus else {})}
    secrets = [
        {"name": variable, "valueFrom": _from_secret(reference)}
        for variable, reference in cluster.job.env_secrets.items()
    ]
    container: dict[str, Any] = {
        "name": name,
        "image": image,
        "imagePullPolicy": "Always" if cluster.images.pull else "IfNotPresent",
        "resources": {"requests": dict(amounts), "limits": dict(amounts)},
        "volumeMounts": [
            *([{"name": "storage", "mountPath": cluster.storage.path}] if cluster.storage.mounted else []),
            {"name": "shared-memory", "mountPath": "/dev/shm"},  # noqa: S108 (Ray's object store)
        ],
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
    }
    if secrets:
        container["env"] = secrets
    if name == "ray-head":
        container["ports"] = [
            {"name": "gcs-server", "containerPort": 6379},
            {"name": "dashboard", "containerPort": 8265},
            {"name": "client", "containerPort": 10001},
            {"name": "metrics", "containerPort": 8080},
            {"name": "serve", "containerPort": settings.serve.port or 8000},
        ]
    shared_memory = {"medium": "Memory", "sizeLimit": f"{max(memory_gib // 3, 1)}Gi"}
    return {
        "spec": {
            "securityContext": {"runAsNonRoot": True, "runAsUser": USER_ID, "fsGroup": USER_ID},
            "containers": [container],
            "volumes": [
                *(
                    [{"name": "storage", "persistentVolumeClaim": {"claimName": cluster.storage.claim}}]
                    if cluster.storage.mounted
                    else []
                ),
                {"name": "shared-memory", "emptyDir": shared_memory},
            ],
        }
    }


def _from_secret(reference: str) -> dict[str, Any]:
    secret, _, key = reference.partition("/")
    return {"secretKeyRef": {"name": secret, "key": key}}
