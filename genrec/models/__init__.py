"""Transformer blocks, backbones (one file each) and baselines."""

from genrec.models.contracts import PAD_ITEM, Backbone, Batch, DecoderCache, Memory, Outputs
from genrec.models.registry import build_backbone, parameter_count
from genrec.models.tiger import Tiger

__all__ = [
    "PAD_ITEM",
    "Backbone",
    "Batch",
    "DecoderCache",
    "Memory",
    "Outputs",
    "Tiger",
    "build_backbone",
    "parameter_count",
]
