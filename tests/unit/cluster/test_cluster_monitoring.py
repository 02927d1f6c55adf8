"""What Grafana, Prometheus and the runbook are given: every metric in it is one that genrec or Ray exports."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import promql_parser
import pytest
import ray
import yaml

from cluster.commands import Job
from cluster.dashboards import DASHBOARDS
from cluster.monitoring import ALARMS
from cluster.render import GRAFANA, render
from genrec.config import Settings, load_settings

ROOT = Path(__file__).parents[3]
OURS = re.compile(r'(Counter|Gauge|Histogram)\(\s*"(genrec_\w+)"')
SUFFIXES = {"Counter": ("_total",), "Gauge": ("",), "Histogram": ("_bucket", "_sum", "_count")}


def exported() -> set[str]:
    """Names as Prometheus sees them: ours from the source, Ray's from the dashboards and metrics of its wheel."""
    names = {"up"}
    for package in ("genrec", "serve", "tune"):
        for path in (ROOT / package).rglob("*.py"):
            for kind, name in OURS.findall(path.read_text(encoding="utf-8")):
                names |= {f"ray_{name}{suffix}" for suffix in SUFFIXES[kind]}
    wheel = Path(ray.__file__).parent
    for path in (wheel / "dashboard" / "modules" / "metrics" / "dashboards").glob("*_panels.py"):
        names |= set(re.findall(r"\bray_[a-z0-9_]+", path.read_text(encoding="utf-8")))
    for part in ("serve", "train", "data"):
        for path in (wheel / part).rglob("*.py"):
            text = path.read_text(encoding="utf-8")
            names |= {f"ray_{name}{end}" for name in re.findall(rf'"({part}_[a-z_]+)"', text) for end in ("", "_total")}
    text = (wheel / "dashboard" / "modules" / "reporter" / "reporter_agent.py").read_text(encoding="utf-8")
    names |= {f"ray_{name}" for name in re.findall(r'"((?:component|node)_[a-z_]+)"', text)}
    assert len(names) > 100
    return names


def metrics_of(expression: str) -> set[str]:
    """Names in a PromQL expression, which must be one."""
    told = promql_parser.parse(expression.replace("$run", ".*").replace("$sweep", ".*")).prettify()
    bare = re.sub(r"\{[^}]*\}|\b(by|on|ignoring|without)\s*\([^)]*\)|\"[^\"]*\"", "", told)
    return set(re.findall(r"\bray_\w+|\bup\b", bare))


def expressions() -> Iterator[tuple[str, str]]:
    for name in DASHBOARDS:
        for panel in json.loads(render(f"grafana-{name}", Settings(), Job("run")))["panels"]:
            for target in panel["targets"]:
                yield f"{name}: {panel['title']}", target["expr"]
    for name, expression, *_ in ALARMS:
        yield name, expression
    serving = json.loads((ROOT / "serve" / "dashboards" / "genrec-serving.json").read_bytes())
    for panel in serving["panels"]:
        for target in panel.get("targets", ()):
            yield f"serving: {panel['title']}", target["expr"]


def test_every_expression_is_promql_over_metrics_that_there_are():
    known, seen = exported(), set()
    for where, expression in expressions():
        names = metrics_of(expression)
        assert names, where
        assert names <= known, f"{where}: {names - known}"
        seen |= names
    assert {"ray_genrec_train_step", "ray_genrec_cache_units_total", "ray_genrec_sweep_trials"} <= seen
    with pytest.raises(ValueError, match="unclosed"):
        metrics_of("sum by (a (rate(x[5m]))")


@pytest.mark.parametrize("kind", GRAFANA)
def test_dashboards_are_what_grafana_imports(kind):
    board = json.loads(render(kind, Settings(), Job("run")))
    assert board["uid"] == f"genrec-{kind.removeprefix('grafana-')}"
    places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in board["panels"]]
    assert len(set(places)) == len(places)
    assert len({panel["id"] for panel in board["panels"]}) == len(places)
    variables = {entry["name"] for entry in board["templating"]["list"]}
    used = set(re.findall(r"\$\{?(\w+)", json.dumps(board["panels"])))
    assert used <= variables


def test_prometheus_scrapes_the_pods_of_this_cluster_alone():
    settings = load_settings(overrides=["cluster.name=shop", "cluster.namespace=recommending"])
    config = yaml.safe_load(render("prometheus", settings, Job("run")))
    pods, machines = config["scrape_configs"]
    assert pods["kubernetes_sd_configs"][0]["namespaces"]["names"] == ["recommending"]
    keeps = {
        rule["source_labels"][0]: rule["regex"] for rule in pods["relabel_configs"] if rule.get("action") == "keep"
    }
    cluster = keeps["__meta_kubernetes_pod_label_ray_io_cluster"]
    assert re.fullmatch(cluster, "shop-x7r2k")
    assert not re.fullmatch(cluster, "genrec")
    head = yaml.safe_load(render("raycluster", settings, Job("run")))["spec"]["headGroupSpec"]["template"]["spec"]
    ports = {port["name"]: port["containerPort"] for port in head["containers"][0]["ports"]}
    (address,) = [rule for rule in pods["relabel_configs"] if rule.get("target_label") == "__address__"]
    assert address["replacement"] == f"$1:{ports['metrics']}"
    assert machines["file_sd_configs"]


def test_every_alarm_has_its_part_of_the_runbook():
    rules = yaml.safe_load(render("alarms", Settings(), Job("run")))["groups"][0]["rules"]
    titles = re.findall(r"^#+ (\w+)$", (ROOT / "docs" / "operations.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert {rule["alert"] for rule in rules} <= set(titles)
    assert all(re.fullmatch(r"\d+m", rule["for"]) and rule["annotations"]["summary"] for rule in rules)
