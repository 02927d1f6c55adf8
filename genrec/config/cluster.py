"""Section ``cluster``: the cluster that ``python -m cluster`` renders files for and sends jobs to.

Secrets stand here by reference alone: the name of a Kubernetes Secret and a key of it, or a file on the machine
that starts the cluster. A value of a secret has no place in the settings.
"""

from __future__ import annotations

import posixpath
import re
from typing import Annotated, Any

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, field_validator, model_validator

from genrec.config.sections import Section

KubernetesName = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")]
SecretKey = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9.-]*[a-z0-9])?/[A-Za-z0-9._-]+$")]
"""``name-of-the-secret/key``."""
HostPort = Annotated[str, Field(pattern=r"^[A-Za-z0-9.-]+:[0-9]{1,5}$")]
EnvironmentName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
NodeLabels = dict[
    Annotated[str, Field(pattern=r"^[A-Za-z0-9]([A-Za-z0-9_./-]*[A-Za-z0-9])?$")],
    Annotated[str, Field(pattern=r"^[A-Za-z0-9]([A-Za-z0-9_.-]*[A-Za-z0-9])?$", max_length=63)],
]
OBJECT_STORES = ("s3", "gs", "gcs", "abfs", "abfss", "hdfs")
"""Schemes of pyarrow's file systems."""
JOB_CPUS = "GENREC_JOB_CPUS"
"""Environment of a job: the CPUs that its own process reserves on the node where it runs, for nobody else to use."""
_SECRET_NAME = re.compile(r"TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIAL|(^|_)KEY(_|$)|ACCESS_KEY", re.IGNORECASE)


class ImageSettings(Section):
    """Container images, built from cluster/docker/Dockerfile."""

    cpu: str = Field("genrec:0.1.0-cpu", min_length=1, description="head and CPU workers")
    gpu: str = Field("genrec:0.1.0-gpu", min_length=1, description="GPU workers")
    pull: bool = Field(True, description="pull before a node starts; false: an image that is on the node already")


class StorageSettings(Section):
    """Where runs live: the same for every node."""

    uri: str = Field(
        "file:///mnt/genrec",
        description="a shared file system, mounted at this path on every node; or an object store: s3://bucket/folder, "
        "gs://...",
    )
    claim: KubernetesName = Field(
        "genrec-storage", description="Kubernetes, file:// only: PersistentVolumeClaim, ReadWriteMany"
    )

    @field_validator("uri")
    @classmethod
    def _place(cls, uri: str) -> str:
        scheme, found, path = uri.partition("://")
        if scheme in OBJECT_STORES and found and re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._@/-]*[A-Za-z0-9]", path):
            return uri  # no query and no user: credentials come from the nodes' environment
        if not found or scheme != "file" or not path.startswith("/") or posixpath.normpath(path) != path or path == "/":
            raise ValueError(
                "stages are written where all nodes read them; write file:///absolute/path of a file system that all "
                "have mounted, or s3://bucket/folder without credentials"
            )
        return uri

    @property
    def mounted(self) -> bool:
        """It is a path on every node."""
        return self.uri.startswith("file://")

    @property
    def path(self) -> str:
        """The mount point, or the URI."""
        return self.uri.removeprefix("file://")


class RedisSettings(Section):
    """What the head's state outlives a restart in (fault tolerance of Ray's GCS)."""

    address: HostPort | None = Field("redis:6379", description="null: the cluster ends with its head")
    password_secret: SecretKey | None = Field(None, description="Kubernetes: secret/key")
    password_file: str | None = Field(None, description="ray up: file on the machine that runs it")


class HeadSettings(Section):
    """The head: Ray's control plane, the dashboard and the Jobs API; tasks and actors never run there."""

    cpus: PositiveInt = 2
    memory_gib: PositiveInt = 8
    node: dict[str, Any] = Field({"InstanceType": "m5.large"}, description="ray up: node_config of the provider")


class WorkerGroupSettings(Section):
    """Workers of one kind; the autoscaler keeps between ``min`` and ``max`` of them."""

    cpus: PositiveInt = 8
    gpus: NonNegativeInt = 0
    memory_gib: PositiveInt = 32
    min: NonNegativeInt = 0
    max: NonNegativeInt = Field(4, description="0: there is no such group")
    labels: NodeLabels = Field({}, description="Ray's node labels, for label selectors")
    node_selector: dict[str, str] = Field({}, description="Kubernetes: nodes that carry these labels")
    node: dict[str, Any] = Field({}, description="ray up: node_config of the provider")

    @model_validator(mode="after")
    def _bounds(self) -> WorkerGroupSettings:
        if self.min > self.max:
            raise ValueError(f"cluster: a worker group's min {self.min} is above its max {self.max}")
        return self


class CpuWorkerSettings(WorkerGroupSettings):
    """Workers without GPU: preparation, retrieval caches, evaluation, serving."""

    gpus: NonNegativeInt = Field(0, le=0)
    min: NonNegativeInt = 1
    labels: NodeLabels = Field({"genrec/workers": "cpu"})
    node: dict[str, Any] = Field({"InstanceType": "m5.2xlarge"})


class GpuWorkerSettings(WorkerGroupSettings):
    """Workers with GPUs: training."""

    gpus: PositiveInt = 1
    labels: NodeLabels = Field({"genrec/workers": "gpu"})
    node: dict[str, Any] = Field({"InstanceType": "g5.2xlarge"})


class RayUpSettings(Section):
    """What `ray up` alone needs."""

    provider: dict[str, Any] = Field(
        {"type": "aws", "region": "us-west-2", "cache_stopped_nodes": False}, description="Ray's provider section"
    )
    ssh_user: str = Field("ubuntu", min_length=1)
    token_file: str = Field(
        "~/.ray/auth_token", description="of this machine; `ray get-auth-token --generate` makes it"
    )
    mount: tuple[str, ...] = Field((), description="commands that mount the storage on a node, before its container")
    head_setup: tuple[str, ...] = Field(
        ("python -m pip install 'boto3>=1.35,<2'",), description="the head's autoscaler calls the cloud with this"
    )


class JobSettings(Section):
    """How jobs run that ``cluster submit`` sends."""

    working_dir: str = Field(".", min_length=1, description="folder that is uploaded; it holds genrec and settings")
    cpus: PositiveFloat = Field(1.0, description="reserved for the job's own process, which keeps it off the head")
    retries: NonNegativeInt = Field(2, description="RayJob: fresh clusters after a failure; a run goes on where it was")
    keep_s: NonNegativeInt = Field(600, description="RayJob: seconds that the cluster stays after the job's end")
    env: dict[EnvironmentName, str] = Field({}, description="environment of the job; no secrets")
    env_secrets: dict[EnvironmentName, SecretKey] = Field({}, description="Kubernetes: variable -> secret/key")

    @field_validator("env")
    @classmethod
    def _no_secret(cls, env: dict[str, str]) -> dict[str, str]:
        if named := [name for name in env if _SECRET_NAME.search(name)]:
            raise ValueError(f"{', '.join(named)} looks like a secret; refer to it in cluster.job.env_secrets")
        return env


class ClusterSettings(Section):
    """A Ray cluster of many machines."""

    name: KubernetesName = "genrec"
    namespace: KubernetesName = Field("default", description="Kubernetes")
    address: str | None = Field(
        None,
        pattern=r"^https?://[^\s/]+/?$",
        description="Jobs API, as http://127.0.0.1:8265; null: RAY_API_SERVER_ADDRESS, then RAY_ADDRESS",
    )
    token_file: str | None = Field(
        None, description="file with the cluster's token; null: RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH, ~/.ray/auth_token"
    )
    token_secret: KubernetesName = Field("genrec-token", description="Kubernetes: Secret with the key auth_token")
    images: ImageSettings = ImageSettings()
    storage: StorageSettings = StorageSettings()
    redis: RedisSettings = RedisSettings()
    head: HeadSettings = HeadSettings()
    cpu_workers: CpuWorkerSettings = CpuWorkerSettings()
    gpu_workers: GpuWorkerSettings = GpuWorkerSettings()
    idle_minutes: PositiveInt = Field(5, description="a worker that idles so long is given back")
    ray_up: RayUpSettings = RayUpSettings()
    job: JobSettings = JobSettings()

    @model_validator(mode="after")
    def _combinations(self) -> ClusterSettings:
        groups = self.worker_groups()
        if not groups:
            raise ValueError("cluster.cpu_workers.max, cluster.gpu_workers.max: both 0, so nothing could ever run")
        largest = max(group.cpus for group in groups.values())
        if self.job.cpus > largest:
            raise ValueError(f"cluster.job.cpus: {self.job.cpus:g} fits on no worker; the largest has {largest}")
        return self

    def worker_groups(self) -> dict[str, WorkerGroupSettings]:
        """Group name -> settings, of the groups that there are."""
        groups: dict[str, WorkerGroupSettings] = {"cpu": self.cpu_workers, "gpu": self.gpu_workers}
        return {name: group for name, group in groups.items() if group.max}
