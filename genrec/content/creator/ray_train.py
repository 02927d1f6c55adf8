"""The creator's training on Ray Train workers: the same loop, its network wrapped in DDP.

Each worker reads the corpus itself and draws its own batches, so a step sees ``workers`` times as many examples.
Checkpoints are the loop's own, in the output directory, which all nodes must share; a group that lost a
worker starts anew from the last one.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ray
import ray.train
import torch
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer, get_device

from genrec.config import TrainingSettings
from genrec.content.creator.network import Network
from genrec.content.creator.run import train_alone
from genrec.content.creator.train import TrainOptions
from genrec.training.ray_train import TrainingError, require_resources, worker_resources


def train_on_ray(corpus: Path, out: Path, options: TrainOptions, workers: int, settings: TrainingSettings) -> Path:
    """Train on ``workers`` workers of the connected cluster, or of a local one.

    Args:
        corpus: at the same path on every node.
        out: likewise; gets checkpoints and weights.
        options: as for one process.
        workers: how many.
        settings: what a worker reserves, and how many failures are borne.

    Raises:
        SettingsError: the cluster can never hold the workers.
        TrainingError: workers failed more often than ``training.max_failures`` allows.
    """
    if not ray.is_initialized():
        ray.init(address="local", include_dashboard=False, log_to_driver=False)
    wanted = settings.model_copy(update={"workers": workers, "workers_min": None})
    require_resources(wanted)
    trainer = TorchTrainer(
        _work,
        train_loop_config={
            "corpus": corpus.resolve(),
            "out": out.resolve(),
            "options": options,
            "gpu": wanted.gpus_per_worker > 0,
        },
        scaling_config=ScalingConfig(
            num_workers=workers, use_gpu=wanted.gpus_per_worker > 0, resources_per_worker=worker_resources(wanted)
        ),
        run_config=RunConfig(
            name="creator",
            storage_path=str(out.resolve() / "ray"),
            failure_config=FailureConfig(max_failures=settings.max_failures),
        ),
    )
    try:
        trainer.fit()
    except ray.train.TrainingFailedError as error:
        raise TrainingError(f"training of the creator failed on Ray: {error}") from error
    return out


def _work(config: dict[str, Any]) -> None:
    """What each worker runs."""
    context = ray.train.get_context()
    torch.set_num_threads(1)
    rank = context.get_world_rank()
    device = get_device() if config["gpu"] else torch.device("cpu")

    def wrap(network: Network) -> torch.nn.Module:
        return torch.nn.parallel.DistributedDataParallel(network)

    def agree(done: float) -> float:
        # The clock of the first worker decides for all, else one would wait for a step that another never takes.
        shared = torch.tensor([done], device=device)
        torch.distributed.broadcast(shared, 0)
        return float(shared)

    train_alone(config["corpus"], config["out"], config["options"], wrap=wrap, agree=agree, rank=rank, device=device)
    ray.train.report({"done": 1.0})
