"""Rendered files against the schemas of the tools that read them, and what the settings refuse."""

from __future__ import annotations

import copy
import json
import shlex
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import ray
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.serve.schema import ServeDeploySchema

from cluster.__main__ import KINDS, main
from cluster.commands import Job
from cluster.render import KINDS as RENDERED
from cluster.render import render
from genrec.config import Settings, load_settings
from genrec.errors import SettingsError
from serve.app import BuildArguments

ROOT = Path(__file__).parents[3]
GOLDEN = Path(__file__).parent / "golden"
CRDS = ROOT.parent / "shared" / "schemas" / "kuberay"
RUN = Job("run")
FULL = [
    "cluster.redis.password_secret=genrec-redis/password",
    "cluster.redis.password_file=~/.genrec/redis_password",
    "cluster.job.env={OMP_NUM_THREADS: '1'}",
    "cluster.job.env_secrets={AWS_SECRET_ACCESS_KEY: storage/secret-key}",
    "cluster.gpu_workers.node_selector={cloud.google.com/gke-accelerator: nvidia-l4}",
]
"""All optional parts at once."""
VARIANTS = {
    "defaults": [],
    "full": FULL,
    "object-store": ["cluster.storage.uri=s3://shop/genrec"],
    "one-group-no-redis": ["cluster.gpu_workers.max=0", "cluster.redis.address=null"],
}


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    """Away from the project's own ray_config.yaml."""
    monkeypatch.chdir(tmp_path)


def content(kind: str, *overrides: str, job: Job = RUN) -> Any:
    return yaml.safe_load(render(kind, load_settings(overrides=overrides), job))


def test_help_names_the_kinds_that_there_are():
    assert KINDS == RENDERED


# --- Ray's own schemas


@pytest.mark.parametrize("overrides", VARIANTS.values(), ids=VARIANTS)
def test_serve_config_is_what_serves_schema_takes(overrides):
    config = content("serve", *overrides)
    assert ServeDeploySchema.model_validate(config).applications[0].import_path == "serve.app:application"


def test_serve_config_gives_the_application_these_settings(tmp_path):
    (tmp_path / "ray_config.yaml").write_text("serve: {replicas: 9, batch_wait_s: 1}\nrun: {name: other}")
    rendered = Settings(run={"name": "shop"}, serve={"replicas": 3, "batch_wait_s": 1e-5, "port": 8123})
    config = yaml.safe_load(render("serve", rendered, RUN))
    arguments = BuildArguments.model_validate(config["applications"][0]["args"])
    read = load_settings(arguments.config, preset=arguments.preset, overrides=arguments.overrides)
    assert read.serve == rendered.serve
    assert (read.run.name, read.run.directory) == ("shop", "/mnt/genrec/runs")
    assert arguments.bundle == "/mnt/genrec/runs/shop/bundle"
    assert config["http_options"]["port"] == 8123


@pytest.mark.parametrize("overrides", VARIANTS.values(), ids=VARIANTS)
def test_ray_up_file_is_what_ray_up_takes(overrides):
    config = content("ray-up", *overrides)
    jsonschema.validate(config, json.loads((Path(ray.__file__).parent / "autoscaler" / "ray-schema.json").read_bytes()))
    validate_config(prepare_config(copy.deepcopy(config)))  # its own checks, of docker and of the bounds, too


# --- KubeRay's CRDs


def crd_schema(name: str) -> dict[str, Any]:
    path = CRDS / f"ray.io_{name}s.yaml"
    if not path.is_file():
        pytest.skip(f"{path.name} of KubeRay is not beside this checkout (../shared/schemas/kuberay)")
    versions = yaml.load(path.read_text(), Loader=yaml.CSafeLoader)["spec"]["versions"]
    (schema,) = (version["schema"]["openAPIV3Schema"] for version in versions if version["name"] == "v1")
    return closed(schema)


def closed(schema: Any) -> Any:
    """The schema without keys beside the known ones: Kubernetes would drop a misspelt one in silence."""
    if isinstance(schema, list):
        return [closed(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    result = {key: closed(value) for key, value in schema.items()}
    if isinstance(schema.get("properties"), dict) and schema.get("type") == "object":
        result.setdefault("additionalProperties", bool(schema.get("x-kubernetes-preserve-unknown-fields")))
    return result


@pytest.mark.parametrize("kind", ["raycluster", "rayjob", "rayservice"])
def test_kuberay_files_are_what_the_crds_take(kind):
    validator = jsonschema.Draft7Validator(crd_schema(kind))
    for overrides in VARIANTS.values():
        manifest = content(kind, *overrides)
        validator.validate(manifest)
        assert manifest["apiVersion"] == "ray.io/v1"
    misspelt = copy.deepcopy(manifest)
    spec = misspelt["spec"]
    spec = spec.get("rayClusterSpec") or spec.get("rayClusterConfig") or spec
    spec["workerGroupSpecs"][0]["template"]["spec"]["containers"][0]["imagePulPolicy"] = "Always"
    assert not validator.is_valid(misspelt)


def test_with_an_object_store_nothing_is_mounted_and_all_goes_there():
    overrides = ("cluster.storage.uri=s3://shop/genrec", "run.name=shop")
    for kind in ("raycluster", "ray-up"):
        text = render(kind, load_settings(overrides=overrides), RUN)
        assert "mountPath: s3" not in text
        assert "claimName" not in text
        assert "--volume" not in text
    spec = content("rayjob", *overrides)["spec"]
    assert shlex.split(spec["entrypoint"])[-1] == "run.directory=s3://shop/genrec/runs"
    arguments = content("serve", *overrides)["applications"][0]["args"]
    assert arguments["bundle"] == "s3://shop/genrec/runs/shop/bundle"


def test_ray_service_carries_the_serve_config():
    inner = yaml.safe_load(content("rayservice")["spec"]["serveConfigV2"])
    assert inner == content("serve")
    ServeDeploySchema.model_validate(inner)


def test_ray_job_runs_the_job():
    overrides = ("training.workers=4", "cluster.job.env={A: b}")
    spec = content("rayjob", *overrides, job=Job("grid", ("beauty",), overrides=overrides))["spec"]
    words = shlex.split(spec["entrypoint"])
    assert words[:5] == ["python", "-m", "genrec", "grid", "beauty"]
    assert words[-2:] == ["--set", "run.directory=/mnt/genrec/runs"]
    assert yaml.safe_load(spec["runtimeEnvYAML"])["env_vars"]["A"] == "b"


def test_the_process_of_a_job_keeps_off_the_head_but_for_serve():
    assert content("rayjob", job=Job("pretrain"))["spec"]["entrypointNumCpus"] == 1
    assert "entrypointNumCpus" not in content("rayjob", job=Job("serve"))["spec"]


# --- what every cluster has


@pytest.mark.parametrize("overrides", VARIANTS.values(), ids=VARIANTS)
def test_head_has_no_work_and_the_token_is_on(overrides):
    spec = content("raycluster", *overrides)["spec"]
    assert spec["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    assert spec["authOptions"]["mode"] == "token"
    up = content("ray-up", *overrides)
    assert up["available_node_types"]["head"]["resources"] == {"CPU": 0}
    assert "--env RAY_AUTH_MODE=token" in up["docker"]["run_options"]
    start = up["head_start_ray_commands"][-1]
    assert "--num-cpus=0" in start
    assert "--dashboard-host=127.0.0.1" in start
    assert "~/.ray/auth_token" in up["file_mounts"]


def test_groups_have_the_bounds_labels_and_images_of_the_settings():
    overrides = ["cluster.cpu_workers.min=2", "cluster.cpu_workers.max=7", "cluster.gpu_workers.labels={zone: a}"]
    cpu, gpu = content("raycluster", *overrides)["spec"]["workerGroupSpecs"]
    up = content("ray-up", *overrides)["available_node_types"]
    assert (cpu["minReplicas"], cpu["maxReplicas"]) == (2, 7)
    assert (up["cpu"]["min_workers"], up["cpu"]["max_workers"]) == (2, 7)
    assert gpu["labels"] == up["gpu"]["labels"] == {"zone": "a"}
    assert gpu["template"]["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert gpu["template"]["spec"]["containers"][0]["image"] == up["gpu"]["docker"]["worker_image"]
    assert gpu["template"]["spec"]["containers"][0]["image"] != cpu["template"]["spec"]["containers"][0]["image"]


def test_secrets_are_references():
    spec = content("raycluster", *FULL)["spec"]
    reference = {"secretKeyRef": {"name": "genrec-redis", "key": "password"}}
    assert spec["gcsFaultToleranceOptions"]["redisPassword"] == {"valueFrom": reference}
    for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
        (variable,) = group["template"]["spec"]["containers"][0]["env"]
        assert variable["valueFrom"]["secretKeyRef"] == {"name": "storage", "key": "secret-key"}
    up = content("ray-up", *FULL)
    assert up["file_mounts"]["~/.genrec/redis_password"] == "~/.genrec/redis_password"
    assert '"$(cat ~/.genrec/redis_password)"' in up["head_start_ray_commands"][-1]


def test_without_redis_nothing_speaks_of_it():
    for kind in ("raycluster", "ray-up"):
        assert "redis" not in render(kind, load_settings(overrides=["cluster.redis.address=null"]), RUN).lower()


@pytest.mark.parametrize("kind", ["ray-up", "raycluster", "rayjob", "prometheus", "alarms", "runtime-env"])
def test_golden(kind):
    """After a wanted change: python -m cluster render KIND --config /dev/null -o golden/KIND.yaml, VERSION put back."""
    rendered = render(kind, Settings(), RUN).replace(f"rayVersion: {ray.__version__}", "rayVersion: VERSION")
    assert rendered == (GOLDEN / f"{kind}.yaml").read_text(encoding="utf-8")


# --- refusals


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("cluster.hed.cpus=2", "cluster.hed: unknown key; did you mean 'head'?"),
        ("cluster.cpu_workers.maximum=2", "cluster.cpu_workers.maximum: unknown key; did you mean 'max'?"),
        ("cluster.storage.uri=ftp://bucket/runs", "file:///absolute/path"),
        ("cluster.storage.uri=s3://key:secret@bucket/runs", "without credentials"),
        ("cluster.storage.uri=s3://bucket/runs?secret_key=x", "without credentials"),
        ("cluster.storage.uri=file:///mnt/../etc", "file:///absolute/path"),
        ("cluster.cpu_workers={min: 5, max: 2}", "min 5 is above its max 2"),
        ("cluster.job.env={AWS_SECRET_ACCESS_KEY: x}", "AWS_SECRET_ACCESS_KEY looks like a secret"),
        ("cluster.redis.password_secret=hunter2", "cluster.redis.password_secret"),
        ("cluster.job.cpus=64", "cluster.job.cpus: 64 fits on no worker"),
        ("cluster={cpu_workers: {max: 0, min: 0}, gpu_workers: {max: 0}}", "nothing could ever run"),
        ("cluster.name=Gen_Rec", "cluster.name"),
    ],
)
def test_settings_refuse(override, told):
    with pytest.raises(SettingsError) as raised:
        load_settings(overrides=[override])
    assert told in str(raised.value)


def test_the_command_writes_the_file_and_refuses_in_one_line(tmp_path, capsys):
    (tmp_path / "ray_config.yaml").write_text("presets: {shop: {run: {name: shop}}}")
    path = tmp_path / "serve.yaml"
    assert main(["render", "serve", "--preset", "shop", "-o", str(path)]) == 0
    assert yaml.safe_load(path.read_text())["applications"][0]["args"]["bundle"].endswith("/shop/bundle")
    for words in (
        ["render", "serve", "--set", "cluster.nmae=x"],
        ["render", "serve", "tokenize"],
        ["render", "rayjob", "tokenise"],
        ["render", "serve", "-o", str(tmp_path / "no" / "such")],
    ):
        assert main(words) == 2
        error = capsys.readouterr().err
        assert error.startswith("cluster render: ")
        assert error.count("\n") == 1
