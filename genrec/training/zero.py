"""DeepSpeed ZeRO behind the strategy interface.

ZeRO shards optimizer states (stage 1), gradients (2) and parameters (3) over the workers. Its JSON is
built from our settings here and nowhere else. On a CPU it runs over gloo with torch's own AdamW.

DeepSpeed's sharded state is pickled; it stays inside the run as resume state, is read only after the
checkpoint's digests have been verified, and goes on with the same number of workers only. What leaves the
run are whole safetensors weights, gathered bit for bit.

DeepSpeed is imported when the strategy is set up, inside the worker, and chooses its accelerator then.
"""

from __future__ import annotations

import copy
import json
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat, NonNegativeInt, PositiveInt
from torch import Tensor, nn

from genrec.config import TrainingSettings
from genrec.errors import ArtifactError, SettingsError
from genrec.training.batching import WorkerBatch
from genrec.training.extension import load_extension
from genrec.training.holdings import Holdings
from genrec.training.optim import build_optimizer, parameter_groups
from genrec.training.strategies import Strategy, full_state

WORLD_FILE = "world.json"
TAG = "zero"


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Offload(_Strict):
    """``offload_optimizer`` and ``offload_param`` of DeepSpeed's JSON."""

    device: Literal["cpu", "nvme"]
    nvme_path: str | None = None
    pin_memory: bool = True


class ZeroJson(_Strict):
    """``zero_optimization`` of DeepSpeed's JSON."""

    stage: Literal[1, 2, 3]
    reduce_bucket_size: PositiveInt
    allgather_bucket_size: PositiveInt
    overlap_comm: bool
    contiguous_gradients: bool = True
    offload_optimizer: Offload | None = None
    offload_param: Offload | None = None
    stage3_prefetch_bucket_size: NonNegativeInt | None = None
    stage3_param_persistence_threshold: NonNegativeInt | None = None
    stage3_gather_16bit_weights_on_model_save: bool | None = None


class DeepSpeedJson(_Strict):
    """The part of DeepSpeed's JSON that we use; field names are DeepSpeed's."""

    train_micro_batch_size_per_gpu: PositiveInt
    gradient_accumulation_steps: PositiveInt = 1
    gradient_clipping: NonNegativeFloat = 0.0
    steps_per_print: PositiveInt = 2**30
    zero_optimization: ZeroJson
    zero_allow_untested_optimizer: bool = True
    zero_force_ds_cpu_optimizer: bool = False
    wall_clock_breakdown: bool = False
    checkpoint: dict[str, bool] = Field(default_factory=lambda: {"load_universal": False})


BUCKETS = 8
"""Gradients on their way to their worker are at most so small a part of all: a bucket for the whole model would hold
what sharding is to save."""


def deepspeed_json(
    settings: TrainingSettings, world: int, device: torch.device, sizes: Sequence[int] = ()
) -> dict[str, Any]:
    """DeepSpeed's configuration for these settings; ``sizes`` of the parameters, in elements, bound its buckets.

    Precision is not DeepSpeed's business here: as with every strategy, weights and states are fp32 and
    matrix products run under autocast.
    """
    zero = settings.deepspeed

    def offload(where: str) -> Offload | None:
        if where == "none" or device.type == "cpu":
            return None
        return Offload(device=where, nvme_path=zero.nvme_path if where == "nvme" else None)  # type: ignore[arg-type]

    third = zero.zero_stage == 3
    bucket = zero.reduce_bucket_elements
    if sizes:
        bucket = min(bucket, max(sum(sizes) // BUCKETS, *sizes))
    config = DeepSpeedJson(
        train_micro_batch_size_per_gpu=max(settings.batch_size // world, 1),
        gradient_clipping=settings.clip_norm or 0.0,
        zero_optimization=ZeroJson(
            stage=zero.zero_stage,
            reduce_bucket_size=bucket,
            allgather_bucket_size=zero.gather_bucket_elements,
            overlap_comm=zero.overlap_communication and device.type == "cuda",
            offload_optimizer=offload(zero.offload_optimizer),
            offload_param=offload(zero.offload_parameters),
            stage3_prefetch_bucket_size=zero.prefetch_elements if third else None,
            stage3_param_persistence_threshold=zero.persistence_elements if third else None,
        ),
    )
    return config.model_dump(exclude_none=True)


class DeepSpeedStrategy(Strategy):
    """ZeRO-1, -2 or -3 over the workers of an initialised process group."""

    engine: Any

    def _prepare(self) -> None:
        if self.device.type == "cpu":
            os.environ.setdefault("DS_ACCELERATOR", "cpu")
        if self.settings.micro_batch is not None:
            raise SettingsError(
                f"training.micro_batch: {self.settings.micro_batch} with strategy 'deepspeed', which computes each "
                "worker's part whole; leave it out, or use strategy 'ddp'"
            )
        import deepspeed

        logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
        if self.device.type == "cpu":
            load_extension()
        self._zero = deepspeed.zero
        self._sharded = self.settings.deepspeed.zero_stage == 3
        sizes = [parameter.numel() for parameter in self.module.parameters() if parameter.requires_grad]
        # Decoding calls single layers, which sharded parameters cannot serve: validation uses a whole copy.
        self._whole: nn.Module | None = copy.deepcopy(self.task.model).cpu() if self._sharded else None
        self.engine, *_ = deepspeed.initialize(
            model=self.module,
            optimizer=self._optimizer(),
            config=deepspeed_json(self.settings, self.world, self.device, sizes),
            dist_init_required=False,
        )

    def _optimizer(self) -> torch.optim.Optimizer:
        if self.settings.deepspeed.offload_optimizer == "none" or self.device.type == "cpu":
            return build_optimizer(self.module, self.settings)
        from deepspeed.ops.adam import DeepSpeedCPUAdam

        groups = parameter_groups(self.module, self.settings.weight_decay)
        return DeepSpeedCPUAdam(groups, lr=self.settings.learning_rate, adamw_mode=True)

    def train_step(self, part: WorkerBatch, step: int, rate: float) -> dict[str, Tensor]:
        """See :meth:`Strategy.train_step`; DeepSpeed clips between reduction and update."""
        for group in self.engine.optimizer.param_groups:
            group["lr"] = rate
        losses = self.engine(WorkerBatch(part.batch.to(self.device), part.share), step)
        self.engine.backward(losses["loss"])
        self.engine.step()
        norm = torch.as_tensor(self.engine.get_global_grad_norm() or 0.0, device=self.device)
        return {**{name: value.detach() for name, value in losses.items()}, "grad_norm": norm}

    def _gradients(self) -> list[Tensor | None]:
        """Each parameter's own, and this worker's part of the exchanged ones."""
        optimizer = self.engine.optimizer
        held: list[Tensor | None] = [getattr(optimizer, "grad_partitions_flat_buffer", None)]  # stage 3
        for parameter in self.module.parameters():
            held += [parameter.grad, getattr(parameter, "grad_accum", None)]
        for group in optimizer.averaged_gradients.values():
            held += list(group or ())
        return held

    def _holdings(self) -> Holdings:
        optimizer = self.engine.optimizer
        # Stage 3 keeps shards beside parameters that are whole, or empty while nobody needs them.
        weights = [part for p in self.module.parameters() for part in (p.data, getattr(p, "ds_tensor", None))]
        copies = optimizer.fp32_partitioned_groups_flat if self._sharded else optimizer.single_partition_of_fp32_groups
        states = [value for values in optimizer.optimizer.state.values() for value in values.values()]
        tensors = [part for part in weights if part is not None]
        return Holdings.of(tensors, self.gradients.bytes, filter(torch.is_tensor, states), copies)

    def save_resume_state(self, directory: Path) -> None:
        """DeepSpeed's shards, one file or two a rank."""
        if self.rank == 0:
            self._write_world(directory)
        self.engine.save_checkpoint(str(directory), tag=TAG, save_latest=False)

    def load_resume_state(self, directory: Path, weights: Mapping[str, Tensor]) -> None:
        """See :meth:`Strategy.load_resume_state`; the shards hold the weights too."""
        path = directory / WORLD_FILE
        here = self._world()
        if not path.is_file():
            raise ArtifactError(
                f"{path}: absent, so this checkpoint was written by strategy 'single' or 'ddp'; go on with that "
                "strategy, or start a new run"
            )
        there = json.loads(path.read_text(encoding="utf-8"))
        if there != here:
            raise ArtifactError(
                f"{path}: the run was sharded as {there}, these settings give {here}; go on with the same "
                "training.workers and training.deepspeed.zero_stage, or start a new run"
            )
        self.engine.load_checkpoint(str(directory), tag=TAG)

    def export_weights(self) -> dict[str, Tensor]:
        """The full state dict on rank 0; parameters of stage 3 are gathered one by one."""
        if not self._sharded:
            return super().export_weights()
        state = self._gathered(keep=self.rank == 0)
        if self.rank == 0:
            state.update({name: full for name, full in full_state(self.task.model).items() if name not in state})
        return state

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """With stage 3, ``task.model`` is a whole copy with the present weights meanwhile."""
        if self._whole is None:
            with super().evaluating():
                yield
            return
        sharded, whole = self.task.model, self._whole
        whole.load_state_dict(self._gathered(keep=True), strict=False)
        self.task.model = whole.to(self.device).eval()
        try:
            with torch.no_grad():
                yield
        finally:
            self.task.model = sharded
            whole.cpu()

    def _gathered(self, *, keep: bool) -> dict[str, Tensor]:
        """Whole parameters by name, where ``keep``; every rank takes part."""
        state: dict[str, Tensor] = {}
        for name, parameter in self.task.model.named_parameters():
            with self._zero.GatheredParameters([parameter]):
                if keep:
                    state[name] = parameter.detach().cpu().clone()
        return state

    def _world(self) -> dict[str, int]:
        return {"workers": self.world, "zero_stage": self.settings.deepspeed.zero_stage}

    def _write_world(self, directory: Path) -> None:
        (directory / WORLD_FILE).write_text(json.dumps(self._world()) + "\n", encoding="utf-8")
