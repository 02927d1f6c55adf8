"""Reading the weights of a transformers T5 into our blocks: same shapes, same numbers.

Used by the parity tests and benchmarks, and by whoever wants to start from a published T5-shaped checkpoint.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from genrec.models.tiger import Tiger


def from_t5(weights: Mapping[str, Tensor], model: Tiger) -> dict[str, Tensor]:
    """A transformers T5 ``state_dict`` under the names of ``model`` (for ``load_state_dict``)."""
    ours = {"_embedding.weight": weights["shared.weight"]}
    for stack, n_layers in (("encoder", len(model.encoder.layers)), ("decoder", len(model.decoder.layers))):
        first = f"{stack}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
        ours[f"{stack}.bias.weight"] = weights[first]
        ours[f"{stack}.norm.weight"] = weights[f"{stack}.final_layer_norm.weight"]
        for index in range(n_layers):
            ours |= _layer(weights, f"{stack}.block.{index}.layer", f"{stack}.layers.{index}", stack == "decoder")
    ours["decoder.memory_keys_values.weight"] = torch.cat(
        [
            weights[f"decoder.block.{index}.layer.1.EncDecAttention.{name}.weight"]
            for index in range(len(model.decoder.layers))
            for name in "kv"
        ]
    )
    if model.head is not None:
        ours["head.weight"] = weights["lm_head.weight"]
    return ours


def _layer(weights: Mapping[str, Tensor], theirs: str, ours: str, is_decoder: bool) -> dict[str, Tensor]:
    def joined(part: str, names: str) -> Tensor:
        return torch.cat([weights[f"{theirs}.{part}.{name}.weight"] for name in names])

    feed = 2 if is_decoder else 1
    layer = {
        f"{ours}.attention_norm.weight": weights[f"{theirs}.0.layer_norm.weight"],
        f"{ours}.attention.qkv.weight": joined("0.SelfAttention", "qkv"),
        f"{ours}.attention.out.weight": weights[f"{theirs}.0.SelfAttention.o.weight"],
        f"{ours}.feed_norm.weight": weights[f"{theirs}.{feed}.layer_norm.weight"],
        f"{ours}.feed.wide.weight": weights[f"{theirs}.{feed}.DenseReluDense.wi.weight"],
        f"{ours}.feed.narrow.weight": weights[f"{theirs}.{feed}.DenseReluDense.wo.weight"],
    }
    if is_decoder:
        layer |= {
            f"{ours}.cross_norm.weight": weights[f"{theirs}.1.layer_norm.weight"],
            f"{ours}.cross.query.weight": weights[f"{theirs}.1.EncDecAttention.q.weight"],
            f"{ours}.cross.out.weight": weights[f"{theirs}.1.EncDecAttention.o.weight"],
        }
    return layer
