"""How a training step is spread: one interface, and the single process and DDP behind it.

DeepSpeed's strategy is in genrec.training.zero. The loop knows none of the differences: it hands over a
worker's part of the batch and gets its losses back. Gradients are clipped after backward, on the
gradient of the whole global batch.

Weights leave a strategy as one full state dict. The optimizer's state of the single process and of DDP is
the same (safetensors, by parameter name), so either resumes what the other saved, on any number of
workers.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from genrec.config import TrainingSettings
from genrec.errors import ArtifactError
from genrec.training.batching import WorkerBatch
from genrec.training.holdings import GradientPeak, Holdings
from genrec.training.optim import build_optimizer
from genrec.training.pieces import in_pieces, piece_size
from genrec.training.task import Task

OPTIMIZER_FILE = "optimizer.safetensors"


def default_device() -> torch.device:
    """The accelerator of this process, or the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def autocast_type(precision: str, device: torch.device) -> torch.dtype | None:
    """The low precision of matrix products, or None for full precision ("auto": where hardware has bf16)."""
    if precision == "bf16":
        return torch.bfloat16
    if precision == "auto" and device.type == "cuda" and torch.cuda.is_bf16_supported():
        return torch.bfloat16
    return None


class LossModule(nn.Module):
    """The model and its losses as one module, so that wrappers see one forward call a step."""

    def __init__(self, task: Task, precision: torch.dtype | None, device: torch.device) -> None:
        super().__init__()
        self.model = task.model
        self._task = task
        self._precision = precision
        self._device_type = device.type

    def forward(self, part: WorkerBatch, step: int) -> dict[str, Tensor]:
        """The step's losses, scaled so that their mean over workers is the global batch's."""
        with torch.autocast(self._device_type, self._precision or torch.bfloat16, self._precision is not None):
            losses = self._task.loss(part.batch, step)
        return {name: value.float() * part.share for name, value in losses.items()}


class Strategy(ABC):
    """What the loop asks of a way to train.

    Args:
        device: where this worker computes; None: its accelerator, or the CPU.
    """

    task: Task
    module: LossModule
    settings: TrainingSettings
    gradients: GradientPeak

    def __init__(self, device: torch.device | None = None) -> None:
        self.device = device or default_device()
        spread = distributed.is_available() and distributed.is_initialized()
        self.rank = distributed.get_rank() if spread else 0
        self.world = distributed.get_world_size() if spread else 1

    def setup(self, task: Task, settings: TrainingSettings) -> None:
        """Move the task's model to the device and prepare the optimizer."""
        self.task, self.settings = task, settings
        task.model.to(self.device)
        task.model.train()
        self.module = LossModule(task, autocast_type(settings.precision, self.device), self.device)
        self.gradients = GradientPeak(self.module.parameters(), self._gradients)
        self._prepare()

    @abstractmethod
    def _prepare(self) -> None:
        """Wrap ``self.module`` and build the optimizer."""

    @abstractmethod
    def train_step(self, part: WorkerBatch, step: int, rate: float) -> dict[str, Tensor]:
        """Forward, backward, clip, update. Returns this worker's scaled losses and "grad_norm"."""

    @abstractmethod
    def save_resume_state(self, directory: Path) -> None:
        """Write what besides the weights is needed to go on; every rank calls it, file names never clash."""

    @abstractmethod
    def load_resume_state(self, directory: Path, weights: Mapping[str, Tensor]) -> None:
        """Take up ``weights`` and what :meth:`save_resume_state` wrote; every rank calls it."""

    @abstractmethod
    def _gradients(self) -> list[Tensor | None]:
        """Tensors that hold gradients now."""

    @abstractmethod
    def _holdings(self) -> Holdings:
        """What this worker holds after a step."""

    def holdings(self) -> list[Holdings]:
        """What each worker holds after the first step; every rank calls it, once."""
        self.gradients.close()
        mine = self._holdings().as_dict()
        blank = {f"{rank} {name}": 0.0 for rank in range(self.world) for name in mine}
        everyone = self.sum({**blank, **{f"{self.rank} {name}": float(value) for name, value in mine.items()}})
        return [Holdings(**{name: int(everyone[f"{rank} {name}"]) for name in mine}) for rank in range(self.world)]

    def export_weights(self) -> dict[str, Tensor]:
        """The model's full state dict on the CPU, on rank 0; empty elsewhere. Every rank calls it."""
        return full_state(self.task.model) if self.rank == 0 else {}

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Within it ``task.model`` is whole, in evaluation mode, and computes without gradients."""
        self.task.model.eval()
        try:
            with torch.no_grad():
                yield
        finally:
            self.task.model.train()

    def sum(self, values: Mapping[str, float]) -> dict[str, float]:
        """Sums over the workers; every worker names the same keys."""
        if self.world == 1:
            return dict(values)
        total = torch.tensor([values[name] for name in sorted(values)], dtype=torch.float64, device=self.device)
        distributed.all_reduce(total)
        return dict(zip(sorted(values), total.tolist(), strict=True))

    def decide(self, value: int) -> int:
        """Rank 0's value, on every rank."""
        if self.world == 1:
            return value
        shared = torch.tensor([value], dtype=torch.int64, device=self.device)
        distributed.broadcast(shared, src=0)
        return int(shared.item())

    def barrier(self) -> None:
        """Wait for every worker."""
        self.decide(0)


class SingleStrategy(Strategy):
    """One process, no wrapper; needs neither Ray nor a process group."""

    forward: nn.Module
    optimizer: Optimizer

    def _prepare(self) -> None:
        self.forward = self.module
        self.optimizer = build_optimizer(self.module, self.settings)

    def train_step(self, part: WorkerBatch, step: int, rate: float) -> dict[str, Tensor]:
        """See :meth:`Strategy.train_step`."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        part = WorkerBatch(part.batch.to(self.device), part.share)
        size = piece_size(self.settings.micro_batch, separable=self.task.separable, device=self.device)
        pieces = in_pieces(part, size)
        self.optimizer.zero_grad(set_to_none=True)
        losses: dict[str, Tensor] = {}
        for piece in pieces:
            with nullcontext() if piece is pieces[-1] else self._apart():
                found = self.forward(piece, step)
                found["loss"].backward()
            for name, value in found.items():
                losses[name] = losses[name] + value.detach() if name in losses else value.detach()
        clip = self.settings.clip_norm or float("inf")
        norm = nn.utils.clip_grad_norm_(self.module.parameters(), clip)
        self.optimizer.step()
        return {**losses, "grad_norm": norm.detach()}

    def _gradients(self) -> list[Tensor | None]:
        return [parameter.grad for parameter in self.module.parameters()]

    def _holdings(self) -> Holdings:
        states = [value for values in self.optimizer.state.values() for value in values.values()]
        return Holdings.of(self.module.parameters(), self.gradients.bytes, states)

    def _apart(self) -> AbstractContextManager[None]:
        """Within it gradients add up on this worker and are not shared."""
        return nullcontext()

    def save_resume_state(self, directory: Path) -> None:
        """Rank 0 writes the optimizer's state; it is the same on every rank."""
        if self.rank == 0:
            names: dict[Tensor, str] = {p: name for name, p in self.task.model.named_parameters()}
            state = {
                f"{names[parameter]}|{key}": value.detach().cpu().contiguous()
                for parameter, values in self.optimizer.state.items()
                for key, value in values.items()
            }
            save_file(state, directory / OPTIMIZER_FILE, {"kind": "adamw"})

    def load_resume_state(self, directory: Path, weights: Mapping[str, Tensor]) -> None:
        """See :meth:`Strategy.load_resume_state`."""
        path = directory / OPTIMIZER_FILE
        if not path.is_file():
            raise ArtifactError(
                f"{path}: absent, so this checkpoint was written by strategy 'deepspeed'; go on with that strategy, "
                "or start a new run"
            )
        self.task.model.load_state_dict(weights)
        parameters = dict(self.task.model.named_parameters())
        for entry, value in load_file(path).items():
            name, _, key = entry.rpartition("|")
            parameter = parameters[name]
            self.optimizer.state[parameter][key] = value.to(parameter.device)


class DDPStrategy(SingleStrategy):
    """Data-parallel workers of an initialised process group (gloo or NCCL)."""

    def _prepare(self) -> None:
        super()._prepare()
        self.forward = DistributedDataParallel(
            self.module,
            device_ids=[self.device] if self.device.type == "cuda" else None,
            broadcast_buffers=False,
            find_unused_parameters=self.task.partial_gradients,
        )

    def _apart(self) -> AbstractContextManager[None]:
        assert isinstance(self.forward, DistributedDataParallel)
        return self.forward.no_sync()


def full_state(model: nn.Module) -> dict[str, Tensor]:
    """The model's state dict, copied to the CPU."""
    return {name: value.detach().cpu().clone().contiguous() for name, value in model.state_dict().items()}


def build_strategy(name: str, device: torch.device | None = None) -> Strategy:
    """The strategy that the settings name; for "ddp" and "deepspeed" inside an initialised process group."""
    if name == "deepspeed":
        from genrec.training.zero import DeepSpeedStrategy

        return DeepSpeedStrategy(device)
    kinds: dict[str, type[Strategy]] = {"single": SingleStrategy, "ddp": DDPStrategy}
    return kinds[name](device)
