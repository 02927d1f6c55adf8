"""Int8 inference on a CPU: weights in 8 bits, activations quantized as they come.

The matrix products of a decoding step then read a quarter of the memory and run on the integer units; lists may
differ a little, by how much `python -m benchmarks decoding --int8` measures.
"""

from __future__ import annotations

import copy
import warnings
from typing import TypeVar

from torch import nn

from genrec.models.contracts import Backbone

Model = TypeVar("Model", bound=nn.Module)

KEPT = ("memory_keys_values", "head")
"""Linear layers whose weight is read outside of their own product, or whose product is the answer itself."""


def quantized(model: Model) -> Model:
    """A copy of ``model`` for inference on a CPU with its linear layers in int8; embeddings and norms stay float32."""
    shared: dict[int, object] = {id(model.sid_table): model.sid_table} if isinstance(model, Backbone) else {}
    copied = copy.deepcopy(model, shared).cpu().eval().requires_grad_(False)
    for module in list(copied.modules()):
        for child_name, child in list(module.named_children()):
            if isinstance(child, nn.Linear) and child_name not in KEPT:
                setattr(module, child_name, _int8(child))
    return copied


def _int8(layer: nn.Linear) -> nn.Module:
    from torch.ao.nn.quantized.dynamic import Linear
    from torch.ao.quantization import per_channel_dynamic_qconfig

    plain = nn.Linear(layer.in_features, layer.out_features, bias=layer.bias is not None)  # the one type it takes
    plain.weight, plain.bias = layer.weight, layer.bias
    plain.qconfig = per_channel_dynamic_qconfig  # type: ignore[assignment]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.quantize_per_tensor")  # torch's own call of it
        warnings.simplefilter("ignore", DeprecationWarning)
        return Linear.from_float(plain)  # type: ignore[no-untyped-call]
