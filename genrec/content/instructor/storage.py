"""Weights in a file a quarter of their size: matrices in 8 bits with a scale a row, all else in 16.

A row is what makes one output, so that one large weight coarsens its own row alone.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

SCALE = ":scale"
"""Ends the name of a matrix's scales in the file; no weight has such a name."""
_LARGEST = 127


def packed(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What is kept of float weights.

    Args:
        weights: by name; of two or more dimensions [rows, ...]: kept as int8, with float16 scales [rows] beside them.
    """
    kept: dict[str, Tensor] = {}
    for name, weight in weights.items():
        if weight.dim() < 2:
            kept[name] = weight.to(torch.float16).contiguous()
            continue
        scale_R = weight.flatten(1).abs().amax(1).div(_LARGEST).clamp_min(torch.finfo(torch.float16).tiny)
        kept[name + SCALE] = scale_R.to(torch.float16)
        steps = weight / _rows(kept[name + SCALE], weight.dim())
        kept[name] = steps.round().clamp(-_LARGEST, _LARGEST).to(torch.int8).contiguous()
    return kept


def unpacked(kept: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """float32 weights from what :func:`packed` kept."""
    weights = {}
    for name, value in kept.items():
        if name.endswith(SCALE):
            continue
        scale_R = kept.get(name + SCALE)
        weights[name] = value.float() if scale_R is None else value.float() * _rows(scale_R, value.dim())
    return weights


def _rows(scale_R: Tensor, dimensions: int) -> Tensor:
    """Scales in the shape that multiplies rows, in float32."""
    return scale_R.float().view(-1, *[1] * (dimensions - 1))
