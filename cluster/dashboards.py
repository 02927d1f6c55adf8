"""Grafana dashboards for training, caches, sweeps and the nodes; serving's is serve/dashboards/genrec-serving.json.

Import them by Grafana's own dialogue, or put them where it provisions from. Ray puts ``ray_`` before the name of every
metric and ``_total`` behind a counter's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

SCHEMA_VERSION, WIDTH, HEIGHT, COLUMNS = 39, 12, 8, 2
SOURCE = {"type": "prometheus", "uid": "${datasource}"}
RUN = 'run=~"$run"'


@dataclass(frozen=True)
class Panel:
    """One graph.

    Attributes:
        title: what is to be seen, in words.
        queries: legend -> PromQL.
        unit: Grafana's name of the unit.
    """

    title: str
    queries: dict[str, str]
    unit: str = "short"


@dataclass(frozen=True)
class Dashboard:
    """One page of graphs.

    Attributes:
        title: of the page.
        panels: in reading order.
        variable: label to choose by, and the metric whose values it has; None: nothing to choose.
    """

    title: str
    panels: tuple[Panel, ...]
    variable: tuple[str, str] | None = None


TRAINING = Dashboard(
    "genrec: training",
    (
        Panel("Steps done", {"{{run}}": f"ray_genrec_train_step{{{RUN}}}"}),
        Panel("Steps a second", {"{{run}}": f"deriv(ray_genrec_train_step{{{RUN}}}[10m])"}, "ops"),
        Panel(
            "Validation",
            {
                "{{run}} now": f"ray_genrec_train_validation{{{RUN}}}",
                "{{run}} best": f"ray_genrec_train_best{{{RUN}}}",
            },
            "percentunit",
        ),
        Panel("Workers", {"{{run}}": f"ray_genrec_train_workers{{{RUN}}}"}),
        Panel(
            "Groups of workers begun, and steps done again after a failure",
            {
                "{{run}} groups": f"ray_genrec_train_attempts_total{{{RUN}}}",
                "{{run}} steps": f"ray_genrec_train_steps_lost_total{{{RUN}}}",
            },
        ),
        Panel("Starting workers", {"{{ray_train_run_name}}": "ray_train_worker_group_start_total_time_s"}, "s"),
        Panel(
            "Time in reports and uploads",
            {
                "blocked {{ray_train_run_name}}": "sum by (ray_train_run_name) (ray_train_report_total_blocked_time_s)",
                "transfer {{ray_train_run_name}}": (
                    "sum by (ray_train_run_name) (ray_train_checkpoint_transfer_total_time_s)"
                ),
            },
            "s",
        ),
        Panel("GPUs", {"{{instance}} {{GpuIndex}}": "ray_node_gpus_utilization"}, "percent"),
    ),
    ("run", "ray_genrec_train_step"),
)
CACHES = Dashboard(
    "genrec: retrieval caches",
    (
        Panel("Units a second", {"{{kind}}": "sum by (kind) (rate(ray_genrec_cache_units_total[5m]))"}, "ops"),
        Panel(
            "Time of a unit",
            {
                "{{kind}} median": (
                    "histogram_quantile(0.5, sum by (le, kind) (rate(ray_genrec_cache_unit_s_bucket[5m])))"
                ),
                "{{kind}} 95%": (
                    "histogram_quantile(0.95, sum by (le, kind) (rate(ray_genrec_cache_unit_s_bucket[5m])))"
                ),
            },
            "s",
        ),
        Panel("Tasks", {"running": "sum(ray_data_num_tasks_running)", "failed": "sum(ray_data_num_tasks_failed)"}),
        Panel("Rows put out", {"{{dataset}}": "sum by (dataset) (ray_data_output_rows)"}),
        Panel("Object store", {"{{Location}}": "sum by (Location) (ray_object_store_memory)"}, "bytes"),
        Panel("Spilled by Ray Data", {"{{dataset}}": "sum by (dataset) (ray_data_spilled_bytes)"}, "bytes"),
    ),
)
SWEEPS = Dashboard(
    "genrec: sweeps",
    (
        Panel("Trials", {"{{state}}": 'sum by (state) (ray_genrec_sweep_trials{sweep=~"$sweep"})'}),
        Panel(
            "Best so far",
            {"{{metric}}": 'max by (metric) (ray_genrec_sweep_best{sweep=~"$sweep"})'},
            "percentunit",
        ),
        Panel("CPUs in use", {"{{State}}": 'sum by (State) (ray_resources{Name="CPU"})'}),
        Panel("Tasks and actors", {"tasks {{State}}": "sum by (State) (ray_tasks)", "actors": "sum(ray_actors)"}),
    ),
    ("sweep", "ray_genrec_sweep_trials"),
)
NODES = Dashboard(
    "genrec: nodes",
    (
        Panel("CPU", {"{{instance}}": "ray_node_cpu_utilization"}, "percent"),
        Panel("Memory", {"{{instance}}": "ray_node_mem_used_host / ray_node_mem_total_host"}, "percentunit"),
        Panel(
            "Disk left",
            {"{{instance}}": "ray_node_disk_free / (ray_node_disk_free + ray_node_disk_usage)"},
            "percentunit",
        ),
        Panel("Object store", {"{{Location}}": "sum by (Location) (ray_object_store_memory)"}, "bytes"),
        Panel("Network", {"{{instance}}": "ray_node_network_receive_speed + ray_node_network_send_speed"}, "Bps"),
        Panel(
            "Processes ended by Ray, or by accident",
            {
                "memory": "sum(increase(ray_memory_manager_worker_eviction_total[10m]))",
                "accident": "sum(increase(ray_node_manager_unexpected_worker_failure_total[10m]))",
            },
        ),
    ),
)
DASHBOARDS = {"training": TRAINING, "caches": CACHES, "sweeps": SWEEPS, "nodes": NODES}


def grafana(name: str) -> dict[str, Any]:
    """Grafana's model of one of :data:`DASHBOARDS`."""
    dashboard = DASHBOARDS[name]
    chosen: list[dict[str, Any]] = [
        {"name": "datasource", "type": "datasource", "query": "prometheus", "label": "Prometheus"}
    ]
    if dashboard.variable is not None:
        label, metric = dashboard.variable
        chosen.append(
            {
                "name": label,
                "type": "query",
                "datasource": SOURCE,
                "query": f"label_values({metric}, {label})",
                "includeAll": True,
                "multi": True,
                "refresh": 2,
            }
        )
    return {
        "uid": f"genrec-{name}",
        "title": dashboard.title,
        "tags": ["genrec"],
        "schemaVersion": SCHEMA_VERSION,
        "editable": True,
        "refresh": "30s",
        "time": {"from": "now-3h", "to": "now"},
        "templating": {"list": chosen},
        "panels": [_panel(place, panel) for place, panel in enumerate(dashboard.panels)],
    }


def _panel(place: int, panel: Panel) -> dict[str, Any]:
    row, column = divmod(place, COLUMNS)
    return {
        "id": place + 1,
        "title": panel.title,
        "type": "timeseries",
        "datasource": SOURCE,
        "gridPos": {"x": column * WIDTH, "y": row * HEIGHT, "w": WIDTH, "h": HEIGHT},
        "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0}, "overrides": []},
        "targets": [
            {"refId": chr(ord("A") + at), "expr": expression, "legendFormat": legend, "datasource": SOURCE}
            for at, (legend, expression) in enumerate(panel.queries.items())
        ],
    }
