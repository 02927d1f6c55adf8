"""Train the embedded creator: rectified flow on patch latents, guidance dropout, an average of the weights (EMA).

Matrices of the blocks are trained by Muon (Jordan et al. 2024), all else by AdamW. The budget is minutes or steps; the
learning rate falls to zero at its end. A checkpoint is written at intervals and a killed run goes on from it.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from genrec.content.creator.examples import Examples
from genrec.content.creator.latents import PatchLatents
from genrec.content.creator.network import Conditions, Network, NetworkShape

logger = logging.getLogger(__name__)
WEIGHTS = "model.safetensors"
CONFIG = "config.json"
CHECKPOINT = "checkpoint.pt"


@dataclass(frozen=True)
class TrainOptions:
    """How long and how fast.

    Attributes:
        minutes: of training, counted over all attempts; the schedule follows the share that is spent.
        steps: instead of minutes, if set.
        batch: examples a step.
        muon: learning rate of matrices; 0: AdamW trains them too.
        adam: learning rate of the rest.
        ema: decay of the average, once warm.
        seed: of weights, batches and noise.
        save_every: seconds between checkpoints.
    """

    minutes: float = 80.0
    steps: int | None = None
    batch: int = 96
    muon: float = 0.012
    adam: float = 1.2e-3
    ema: float = 0.9985
    warmup: int = 150
    decay_share: float = 0.45
    seed: int = 1
    save_every: float = 180.0
    shape: NetworkShape = field(default_factory=NetworkShape)


class Averaged:
    """Exponential average of a network's weights."""

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.decay = decay
        self.weights = {name: value.detach().clone() for name, value in network.state_dict().items()}

    @torch.no_grad()
    def update(self, network: nn.Module, step: int) -> None:
        """Move towards the network's weights; faster in the first steps."""
        decay = min(self.decay, (1 + step) / (10 + step))
        state = network.state_dict()
        torch._foreach_lerp_(list(self.weights.values()), [state[name] for name in self.weights], 1 - decay)


def optimizers(network: Network, options: TrainOptions) -> list[torch.optim.Optimizer]:
    """Muon for the blocks' matrices, AdamW for the rest."""
    matrices = [
        p
        for name, p in network.named_parameters()
        if name.startswith("blocks") and name.endswith("weight") and p.ndim == 2
    ]
    chosen = {id(p) for p in matrices} if options.muon else set()
    rest = [p for p in network.parameters() if id(p) not in chosen]
    made: list[torch.optim.Optimizer] = [torch.optim.AdamW(rest, lr=options.adam, betas=(0.9, 0.98), weight_decay=0.0)]
    if options.muon:
        made.append(torch.optim.Muon(matrices, lr=options.muon, momentum=0.95, weight_decay=0.01, ns_steps=4))
    return made


def flow_loss(
    network: nn.Module,
    latents_BPC: Tensor,
    conditions: Conditions,
    generator: torch.Generator,
    device: torch.device | None = None,
) -> Tensor:
    """Mean squared error of the velocity at logit-normal times (Esser et al. 2024), drawn on the CPU."""
    time_B = torch.sigmoid(torch.randn(len(latents_BPC), generator=generator) + 0.3)
    noise = torch.randn(latents_BPC.shape, generator=generator)
    if device is not None:
        time_B, noise, latents_BPC = time_B.to(device), noise.to(device), latents_BPC.to(device)
        conditions = conditions.to(device)
    share = time_B[:, None, None]
    noisy = (1 - share) * latents_BPC + share * noise
    return (network(noisy, time_B, conditions) - (noise - latents_BPC)).square().mean()


def train(
    examples: Examples,
    latents: PatchLatents,
    out: Path,
    options: TrainOptions,
    *,
    progress: Callable[[float], None] | None = None,
    wrap: Callable[[Network], nn.Module] | None = None,
    agree: Callable[[float], float] | None = None,
    rank: int = 0,
    device: torch.device | None = None,
) -> Path:
    """Train, or go on with a training that was cut off; returns the directory with the weights.

    Args:
        examples: what to train on.
        latents: the code its latents were made with; saved with the weights.
        out: gets checkpoints, weights and ``log.jsonl``.
        options: how long and how fast.
        progress: told the share that is done.
        wrap: makes the network distributed (DDP); the average is taken of the bare one.
        agree: makes the share that is done the same for all workers.
        rank: of this process; only rank 0 writes.
        device: where the network is; None: an accelerator if there is one.
    """
    torch.manual_seed(options.seed)
    device = device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network = Network(options.shape).to(device)
    average = Averaged(network, options.ema)
    made = optimizers(network, options)
    generator = torch.Generator()
    step, spent = _resume(out, network, average, made)
    module = network if wrap is None else wrap(network)
    begin = saved = time.monotonic()
    losses: list[float] = []
    out.mkdir(parents=True, exist_ok=True)
    while True:
        now = time.monotonic()
        done = step / options.steps if options.steps else (spent + now - begin) / (options.minutes * 60)
        done = done if agree is None else agree(done)
        if done >= 1:
            break
        factor = min(1.0, (step + 1) / options.warmup, (1 - done) / options.decay_share)
        for optimizer, rate in zip(made, [options.adam, options.muon], strict=False):
            for group in optimizer.param_groups:
                group["lr"] = rate * factor
        # Each step has its own seed, so that a run that was cut off goes on as if it had not been.
        generator.manual_seed((options.seed * 1000 + rank) * 1_000_003 + step)
        batch, conditions = examples.batch(options.batch, generator)
        loss = flow_loss(module, batch, conditions, generator, device)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        for optimizer in made:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        average.update(network, step)
        step += 1
        losses.append(float(loss.detach()))
        if step % 50 == 0 and rank == 0:
            elapsed = spent + time.monotonic() - begin
            row = {"step": step, "seconds": round(elapsed, 1), "loss": round(sum(losses) / len(losses), 5)}
            with (out / "log.jsonl").open("a") as stream:
                stream.write(json.dumps(row) + "\n")
            losses.clear()
            if progress is not None:
                progress(min(done, 1.0))
        if rank == 0 and now - saved > options.save_every:
            saved = now
            _checkpoint(out, network, average, made, step, spent + now - begin)
            save_weights(out, average.weights, latents, options, step)
    if rank == 0:
        _checkpoint(out, network, average, made, step, spent + time.monotonic() - begin)
        save_weights(out, average.weights, latents, options, step)
    return out


def save_weights(
    out: Path, weights: dict[str, Tensor], latents: PatchLatents, options: TrainOptions, step: int
) -> None:
    """The averaged weights and the latent code as float16 safetensors, and what they are."""
    tensors = {f"network.{name}": value.half().cpu().contiguous() for name, value in weights.items()}
    tensors |= {f"latents.{name}": value.float().contiguous() for name, value in latents.state_dict().items()}
    save_file(tensors, out / f".{WEIGHTS}")
    config = {
        "network": options.shape.as_json(),
        "latents": {"size": latents.size, "patch": latents.patch, "components": latents.components},
        "training": {k: v for k, v in asdict(options).items() if k != "shape"} | {"step": step},
    }
    (out / CONFIG).write_text(json.dumps(config, indent=1) + "\n")
    os.replace(out / f".{WEIGHTS}", out / WEIGHTS)


def load_weights(directory: Path) -> tuple[Network, PatchLatents, dict[str, Any]]:
    """Network (in evaluation mode), latent code and config.json of a directory."""
    config = json.loads((directory / CONFIG).read_text())
    tensors = load_file(directory / WEIGHTS)
    network = Network(NetworkShape(**config["network"]))
    latents = PatchLatents(**config["latents"])
    for module, prefix in ((network, "network."), (latents, "latents.")):
        part = {name[len(prefix) :]: value.float() for name, value in tensors.items() if name.startswith(prefix)}
        module.load_state_dict(part)
    return network.eval(), latents.eval(), config


def _checkpoint(
    out: Path, network: nn.Module, average: Averaged, made: list[torch.optim.Optimizer], step: int, seconds: float
) -> None:
    state = {
        "network": network.state_dict(),
        "average": average.weights,
        "optimizers": [optimizer.state_dict() for optimizer in made],
        "step": step,
        "seconds": seconds,
    }
    torch.save(state, out / f".{CHECKPOINT}")
    os.replace(out / f".{CHECKPOINT}", out / CHECKPOINT)


def _resume(out: Path, network: nn.Module, average: Averaged, made: list[torch.optim.Optimizer]) -> tuple[int, float]:
    path = out / CHECKPOINT
    if not path.is_file():
        return 0, 0.0
    state = torch.load(path, map_location="cpu", weights_only=True)
    network.load_state_dict(state["network"])
    average.weights = {name: value.to(average.weights[name].device) for name, value in state["average"].items()}
    for optimizer, saved in zip(made, state["optimizers"], strict=True):
        optimizer.load_state_dict(saved)
    logger.info("goes on at step %d", state["step"])
    return int(state["step"]), float(state["seconds"])
