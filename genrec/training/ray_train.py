"""The train loop on Ray Train V2 workers.

Each worker builds the task anew from a picklable factory, takes its place in a process group (gloo on
CPUs, NCCL on GPUs) and runs the same loop as a single process does. Checkpoints are the loop's own, in
``work_dir``, which all nodes must share. A worker or node that dies makes Ray start the group anew; the loop
goes on after the last complete checkpoint. DDP may go on with fewer workers, for its checkpoints and
batches do not depend on their number.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import ray
import ray.train
import torch
from ray.train import FailureConfig, RunConfig, ScalingConfig, UserCallback
from ray.train.torch import TorchConfig, TorchTrainer

from genrec.config import TrainingSettings
from genrec.config.cluster import JOB_CPUS
from genrec.errors import GenrecError, SettingsError
from genrec.training.apart import Apart
from genrec.training.attempts import note_attempt, read_attempts
from genrec.training.gauges import TrainingGauges
from genrec.training.loop import FitResult, Reporter, checkpoints, fit, mirror_of, result_of
from genrec.training.mirror import run_name
from genrec.training.strategies import build_strategy
from genrec.training.task import Task

logger = logging.getLogger(__name__)

TaskFactory = Callable[[], Task]
"""Builds the task inside a worker; must be picklable (a frozen dataclass or functools.partial)."""

START_TIMEOUT_ENV, START_TIMEOUT_S, GROUP_STARTS = "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", 60.0, 3
"""How long Ray waits at a time for the resources of a group of workers; how often it may at the least."""
COLLECTIVE_TIMEOUT_S = 1800


class TrainingError(GenrecError):
    """Training under Ray failed for good; the text holds the first worker's error."""


def fit_on_ray(
    factory: TaskFactory,
    settings: TrainingSettings,
    seed: int,
    work_dir: Path,
    *,
    sid_version: str | None,
    callbacks: Sequence[UserCallback] = (),
    apart: Apart | None = None,
) -> FitResult:
    """Train on the connected Ray cluster, going on from the last complete checkpoint in ``work_dir``.

    Args:
        factory: builds the task in each worker.
        settings: strategy "ddp" or "deepspeed", number of workers and their resources.
        seed: as for :func:`genrec.training.loop.fit`.
        work_dir: the run's directory, at the same path on every node.
        sid_version: the task's; a checkpoint made with other semantic IDs is refused before anything starts.
        callbacks: of Ray Train, told of every checkpoint's metrics.
        apart: how nodes that share no file system get what they read; None: they see ``work_dir`` and all artifacts.

    Raises:
        SettingsError: the cluster can never hold the workers, or ``training.upload`` is no place.
        VersionMismatchError: ``work_dir`` holds a run with other semantic IDs.
        TrainingError: workers failed more often than ``max_failures`` allows.
        GenrecError: what a worker raised of this kind, unchanged.
    """
    work_dir = work_dir.resolve()
    store = checkpoints(work_dir, sid_version)
    if apart is not None:
        apart.fetch_state(work_dir, settings)
    latest = store.latest()
    if latest is not None and (progress := store.load(latest)[0]).stopped:
        return result_of(work_dir, progress)
    require_resources(settings)
    mirror_of(work_dir, settings)  # a place that is none is told before anything starts
    fixed = settings.workers_min is None
    workers: Any = settings.workers if fixed else (settings.workers_min, settings.workers)
    trainer = TorchTrainer(
        _work,
        train_loop_config={
            "factory": factory,
            "settings": settings,
            "seed": seed,
            "work_dir": work_dir,
            "apart": apart,
        },
        torch_config=TorchConfig(timeout_s=COLLECTIVE_TIMEOUT_S),
        scaling_config=ScalingConfig(
            num_workers=workers,
            use_gpu=settings.gpus_per_worker > 0,
            resources_per_worker=worker_resources(settings),
            elastic_resize_monitor_interval_s=settings.resize_check_s,  # type: ignore[call-arg]
        ),
        run_config=RunConfig(
            name=work_dir.name,
            storage_path=str(work_dir / "ray") if apart is None else f"{settings.upload}/{run_name(work_dir)}",
            callbacks=list(callbacks),  # type: ignore[arg-type]
            failure_config=FailureConfig(
                max_failures=settings.max_failures,
                controller_failure_limit=_group_starts(settings),  # type: ignore[call-arg]
            ),
        ),
    )
    try:
        trainer.fit()
    except ray.train.TrainingFailedError as error:
        raise _cause(error) from error
    if apart is not None:
        apart.fetch_state(work_dir, settings)
    for attempt in read_attempts(work_dir):
        logger.info("%s", attempt)
    latest = store.latest()
    assert latest is not None, "training ended without a checkpoint"
    return result_of(work_dir, store.load(latest)[0])


def _group_starts(settings: TrainingSettings) -> int:
    """How often Ray may wait for a group's resources until ``training.wait_minutes`` are over."""
    each = float(os.environ.get(START_TIMEOUT_ENV, START_TIMEOUT_S))
    return max(GROUP_STARTS, math.ceil(settings.wait_minutes * 60 / each))


def worker_resources(settings: TrainingSettings) -> dict[str, float]:
    """What one worker reserves."""
    resources = {"CPU": settings.cpus_per_worker}
    if settings.gpus_per_worker > 0:
        resources["GPU"] = settings.gpus_per_worker
    return resources


def require_resources(settings: TrainingSettings) -> None:
    """Raise SettingsError if the cluster's nodes can never hold the workers, whatever else they do.

    In a job, the CPUs of its own process are not theirs. Ray counts them all the same, and would wait for as many
    workers as it counts.
    """
    asked, own = worker_resources(settings), float(os.environ.get(JOB_CPUS, 0))
    nodes, counted = _nodes_for(asked, own), min(_room(_nodes_for(asked), asked), settings.workers)
    room, needed = _room(nodes, asked), max(settings.workers_min or settings.workers, counted)
    if room < needed:
        wanted = ", ".join(f"{amount:g} {name}" for name, amount in asked.items())
        has = "; ".join(", ".join(f"{node.get(name, 0.0):g} {name}" for name in asked) for node in nodes)
        kept = f", less {own:g} CPU of this job's own process (cluster.job.cpus)" if own else ""
        raise SettingsError(
            f"training.workers: {needed} workers of {wanted} each do not fit the cluster, which has room for {room} "
            f"({len(nodes)} nodes: {has}{kept}); lower training.workers, cpus_per_worker or gpus_per_worker, or add "
            "nodes"
        )


def room_for(asked: Mapping[str, float]) -> int:
    """How many workers of these resources the connected cluster's nodes hold together, were they idle."""
    return _room(_nodes_for(asked, float(os.environ.get(JOB_CPUS, 0))), asked)


def _room(nodes: list[dict[str, float]], asked: Mapping[str, float]) -> int:
    return sum(min(math.floor(node.get(name, 0.0) / amount + 1e-9) for name, amount in asked.items()) for node in nodes)


def _nodes_for(asked: Mapping[str, float], own_cpus: float = 0.0) -> list[dict[str, float]]:
    """Resources of each node that is alive, less what this job's own process has.

    It is on the node that this process is connected to, or, where that one has no CPUs, on whichever hurts most.
    """
    here = ray.get_runtime_context().get_node_id()
    alive = [node for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
    nodes: list[dict[str, float]] = [{"CPU": 0.0, **node["Resources"]} for node in alive]
    able = [at for at, node in enumerate(nodes) if own_cpus and node["CPU"] >= own_cpus]
    able = [at for at in able if alive[at]["NodeID"] == here] or able
    left = [[{**node, "CPU": node["CPU"] - own_cpus * (at == own)} for at, node in enumerate(nodes)] for own in able]
    return min(left, key=lambda nodes: _room(nodes, asked), default=nodes)


def _work(config: dict[str, Any]) -> None:
    """What each worker runs."""
    settings: TrainingSettings = config["settings"]
    torch.set_num_threads(max(1, int(settings.cpus_per_worker)))
    device = ray.train.torch.get_device() if settings.gpus_per_worker > 0 else torch.device("cpu")
    work_dir: Path = config["work_dir"]
    apart: Apart | None = config["apart"]
    reporter: Reporter = ray.train.report
    strategy = build_strategy(settings.strategy, device)
    if apart is not None:
        apart.fetch_inputs()
        apart.fetch_state(work_dir, settings)
        reporter = apart.reporting(work_dir, settings, reporter, strategy.rank)
    nodes: list[Any] = [ray.get_runtime_context().get_node_id()] * strategy.world
    if strategy.world > 1:  # also: no node begins before all have fetched
        torch.distributed.all_gather_object(nodes, nodes[0])
    if apart is not None and settings.strategy == "deepspeed" and len(set(nodes)) > 1:
        raise SettingsError(
            "training.strategy: deepspeed's workers each write a part of a checkpoint, and with run.directory by URI "
            "their nodes share no file system; mount the storage (file:///...), take ddp, or one node"
        )
    if strategy.rank == 0:
        work_dir.mkdir(parents=True, exist_ok=True)
        gauges = TrainingGauges(run_name(work_dir))
        gauges.began(note_attempt(work_dir, nodes, max(checkpoints(work_dir).steps(), default=0)))
        if apart is not None:
            apart.send_curves(work_dir, settings)
        reporter = gauges.reporting(reporter)
    fit(config["factory"](), settings, config["seed"], work_dir, strategy, reporter=reporter)
    if apart is not None and strategy.rank == 0:
        apart.send_curves(work_dir, settings)


def _cause(error: BaseException) -> GenrecError:
    """The workers' own GenrecError where there is one, else a TrainingError with the first failure."""
    failures = list(getattr(error, "worker_failures", {}).values())
    for failure in failures:
        inner: BaseException | None = failure
        while inner is not None:
            if isinstance(inner, GenrecError):
                return inner
            inner = inner.__cause__
    first = str(failures[0] if failures else error).strip().splitlines()
    return TrainingError(f"training failed on Ray: {first[-1] if first else type(error).__name__}")
