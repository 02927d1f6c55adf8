"""What Prometheus reads and when it calls: its configuration, and alarms, each with its part of docs/operations.md.

Every node's agent exports metrics without asking for a token, so the port belongs inside the network.
"""

from __future__ import annotations

from typing import Any

from genrec.config import Settings

METRICS_PORT, INTERVAL = 8080, "15s"
MACHINES = "/tmp/ray/prom_metrics_service_discovery.json"  # noqa: S108 (where Ray's head writes it)
RULES = "genrec-alarms.yaml"
RUNBOOK = "docs/operations.md"


def prometheus(settings: Settings) -> dict[str, Any]:
    """``prometheus.yml``: nodes on Kubernetes by their labels, machines of `ray up` by the head's own list."""
    cluster = settings.cluster
    pods = [
        _keep("__meta_kubernetes_pod_label_ray_io_cluster", f"{cluster.name}.*"),  # jobs and services add a suffix
        _keep("__meta_kubernetes_pod_container_name", "ray-head|ray-worker"),
        {
            "source_labels": ["__meta_kubernetes_pod_ip"],
            "target_label": "__address__",
            "replacement": f"$1:{METRICS_PORT}",
        },
        {"source_labels": ["__meta_kubernetes_pod_name"], "target_label": "instance"},
        {"source_labels": ["__meta_kubernetes_pod_label_ray_io_group"], "target_label": "group"},
    ]
    return {
        "global": {"scrape_interval": INTERVAL, "evaluation_interval": INTERVAL},
        "rule_files": [RULES],
        "scrape_configs": [
            {
                "job_name": "ray-kubernetes",
                "kubernetes_sd_configs": [{"role": "pod", "namespaces": {"names": [cluster.namespace]}}],
                "relabel_configs": pods,
            },
            {"job_name": "ray-machines", "file_sd_configs": [{"files": [MACHINES]}]},
        ],
    }


def _keep(label: str, pattern: str) -> dict[str, Any]:
    return {"source_labels": [label], "action": "keep", "regex": pattern}


def alarms(settings: Settings) -> dict[str, Any]:
    """Prometheus' alarm rules, each with the part of the runbook that says what to do."""
    return {"groups": [{"name": "genrec", "rules": [_rule(*alarm) for alarm in ALARMS]}]}


ALARMS = (
    ("NodeLost", 'min by (instance) (up{job=~"ray-.*"}) == 0', "2m", "critical", "a node's metrics stay away"),
    (
        "MemoryShort",
        "ray_node_mem_used_host / ray_node_mem_total_host > 0.9",
        "5m",
        "warning",
        "Ray ends workers at 95% of a node's memory",
    ),
    (
        "WorkersEvicted",
        "sum(increase(ray_memory_manager_worker_eviction_total[10m])) > 0",
        "0m",
        "warning",
        "Ray ended processes for want of memory",
    ),
    (
        "DiskShort",
        "ray_node_disk_free / (ray_node_disk_free + ray_node_disk_usage) < 0.1",
        "5m",
        "critical",
        "Ray stops spilling at 95% of a disk, and checkpoints fail",
    ),
    (
        "TrainingStands",
        "ray_genrec_train_workers > 0 and changes(ray_genrec_train_step[60m]) == 0",
        "10m",
        "warning",
        "a training has told no checkpoint for an hour",
    ),
    (
        "TrainingRestarts",
        "increase(ray_genrec_train_attempts_total[1h]) > 2",
        "0m",
        "warning",
        "a group of workers began more than twice within an hour",
    ),
    (
        "TrialsFail",
        'ray_genrec_sweep_trials{state="failed"} > 2',
        "0m",
        "warning",
        "more than two trials of a sweep failed",
    ),
    (
        "ServiceRefuses",
        "sum(rate(ray_genrec_refused_total[5m])) > 1",
        "5m",
        "critical",
        "more than one request a second is refused",
    ),
    (
        "ReplicasRestart",
        "sum by (deployment) (increase(ray_serve_deployment_replica_starts_total[10m])) > 5",
        "0m",
        "warning",
        "replicas begin again and again",
    ),
)


def _rule(name: str, expression: str, lasting: str, severity: str, told: str) -> dict[str, Any]:
    return {
        "alert": name,
        "expr": expression,
        "for": lasting,
        "labels": {"severity": severity},
        "annotations": {"summary": told, "runbook_url": f"{RUNBOOK}#{name.lower()}"},
    }
