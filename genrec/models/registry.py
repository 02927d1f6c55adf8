"""Hosts by name."""

from __future__ import annotations

from torch import nn

from genrec.config import ModelSettings
from genrec.models.tiger import Tiger
from genrec.tokenizer.sid_table import SidTable


def build_backbone(settings: ModelSettings, sid_table: SidTable) -> Tiger:
    """The host that ``settings.backbone`` names, with fresh weights, speaking ``sid_table``."""
    hosts: dict[str, type[Tiger]] = {"tiger": Tiger}
    return hosts[settings.backbone](settings, sid_table)


def parameter_count(model: nn.Module) -> int:
    """Number of trainable weights, tied ones once."""
    return sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
