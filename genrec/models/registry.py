"""Hosts by name."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from torch import nn

from genrec.config import ModelSettings
from genrec.models.decoder_only import DecoderOnly
from genrec.models.host import Host
from genrec.models.letter import Letter
from genrec.models.mql4grec import Mql4Grec
from genrec.models.tiger import Tiger
from genrec.tokenizer.sid_table import SidTable

HOSTS: Mapping[str, type[Tiger] | type[DecoderOnly]] = MappingProxyType(
    {"tiger": Tiger, "letter": Letter, "decoder-only": DecoderOnly, "mql4grec": Mql4Grec}
)
"""The hosts, by the name that ``model.backbone`` uses."""


def build_backbone(settings: ModelSettings, sid_table: SidTable) -> Host:
    """The host that ``settings.backbone`` names, with fresh weights, speaking ``sid_table``."""
    return HOSTS[settings.backbone](settings, sid_table)


def parameter_count(model: nn.Module) -> int:
    """Number of trainable weights, tied ones once."""
    return sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
