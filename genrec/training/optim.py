"""The optimizer and the learning rate.

AdamW with weight decay on matrices only (biases and norm gains are not decayed), in torch's fused form.
The learning rate is a pure function of the step, so a resumed run needs no scheduler state.
"""

from __future__ import annotations

import math
from typing import Any

from torch import nn
from torch.optim import AdamW

from genrec.config import TrainingSettings


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Trainable parameters in two groups: matrices (decayed) and vectors (not)."""
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in trainable if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in trainable if p.ndim < 2], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def build_optimizer(model: nn.Module, settings: TrainingSettings) -> AdamW:
    """AdamW over the trainable parameters, which must already be on their device."""
    groups = parameter_groups(model, settings.weight_decay)
    return AdamW(groups, lr=settings.learning_rate, fused=True)


def learning_rate(step: int, total_steps: int, settings: TrainingSettings) -> float:
    """Learning rate of optimizer step ``step`` (0-based): linear warm-up, then cosine to zero or constant."""
    warmup = round(settings.warmup_share * total_steps)
    if step < warmup:
        return settings.learning_rate * (step + 1) / warmup
    if settings.schedule == "constant":
        return settings.learning_rate
    progress = min((step - warmup) / max(total_steps - warmup, 1), 1.0)
    return settings.learning_rate * 0.5 * (1.0 + math.cos(math.pi * progress))
