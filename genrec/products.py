"""Matrix products of float32 rows on a CPU, by the faster of the two libraries that torch carries.

torch asks MKL for them, which keeps to AVX2 on other makers' processors. oneDNN, in the same torch, takes AVX-512
wherever the processor has it: up to 2.4 times faster on the machine of docs/benchmarks.md. On a GPU, in other
precisions, under autocast, for parameters that ZeRO-3 shards and for very small products the calls go to torch as
before. The numbers are those of ``torch.nn.functional.linear`` but for rounding.

Shape letters: X rows, I inputs and O outputs of a linear map.
"""

from __future__ import annotations

from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn import functional

Model = TypeVar("Model", bound=nn.Module)

SMALLEST = 2**18
"""Multiplications in a product below which a call of oneDNN costs more than it saves."""


def _available() -> bool:
    if not torch.backends.cpu.get_cpu_capability().startswith("AVX512"):
        return False
    return torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")  # type: ignore[no-untyped-call]


AVAILABLE = _available()
"""Does this processor gain by oneDNN, and has this torch the calls?"""


def linear(rows: Tensor, weight_OI: Tensor, bias_O: Tensor | None = None) -> Tensor:
    """``rows`` [..., I] times ``weight_OI`` transposed, plus ``bias_O``: [..., O]; differentiable once."""
    if not _suits(rows, weight_OI):
        return functional.linear(rows, weight_OI, bias_O)
    return _Linear.apply(rows, weight_OI, bias_O)  # type: ignore[no-any-return, no-untyped-call]


class Linear(nn.Linear):
    """``torch.nn.Linear`` by :func:`linear`."""

    def forward(self, rows: Tensor) -> Tensor:
        """[..., I] to [..., O]."""
        return linear(rows, self.weight, self.bias)


def hasten(model: Model) -> Model:
    """Let every plain linear layer of ``model`` compute by :func:`linear`, in place; for models of other makers."""
    for module in model.modules():
        if type(module) is nn.Linear:
            module.__class__ = Linear
    return model


class Product:
    """Rows times a matrix that does not change, laid out for that once.

    Args:
        weight_OI: the matrix, as a linear layer keeps it.
    """

    def __init__(self, weight_OI: Tensor) -> None:
        self.inputs = weight_OI.shape[1]
        self.plain_IO = weight_OI.t().contiguous()
        usable = AVAILABLE and weight_OI.device.type == "cpu" and weight_OI.dtype == torch.float32
        self.laid = torch.ops.mkldnn._reorder_linear_weight(weight_OI.contiguous(), None) if usable else None

    def __call__(self, rows_XI: Tensor) -> Tensor:
        """[X, O]."""
        if self.laid is None or self._small(rows_XI):
            return torch.mm(rows_XI, self.plain_IO)
        return _by_onednn(rows_XI, self.laid)

    def relu(self, rows_XI: Tensor) -> Tensor:
        """[X, O], zero where the product is negative."""
        if self.laid is None or self._small(rows_XI):
            return torch.mm(rows_XI, self.plain_IO).relu_()
        return _by_onednn(rows_XI, self.laid, then="relu")

    def add_to(self, sums_XO: Tensor, rows_XI: Tensor) -> Tensor:
        """``sums_XO`` plus the product; may overwrite the sums."""
        if self.laid is None or self._small(rows_XI):
            return sums_XO.addmm_(rows_XI, self.plain_IO)
        return torch.ops.mkldnn._linear_pointwise.binary(rows_XI, sums_XO, self.laid, None, "add")  # type: ignore[no-any-return]

    def _small(self, rows_XI: Tensor) -> bool:
        return rows_XI.shape[0] * self.plain_IO.numel() < SMALLEST


class _Linear(Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, weight_OI: Tensor, bias_O: Tensor | None) -> Tensor:
        ctx.save_for_backward(rows, weight_OI)
        ctx.biased = bias_O is not None
        made_XO = _by_onednn(rows.flatten(0, -2), weight_OI, bias_O)
        # Unsafe only where both are used afterwards: a plain view could not be worked on in place.
        return torch.ops.aten._unsafe_view(made_XO, [*rows.shape[:-1], weight_OI.shape[0]])  # type: ignore[no-any-return]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        rows, weight_OI = ctx.saved_tensors
        for_rows = for_weight = for_bias = None
        if ctx.needs_input_grad[0]:
            for_rows = _by_onednn(gradient, weight_OI.t())
        flat_XO, flat_XI = gradient.flatten(0, -2), rows.flatten(0, -2)
        if ctx.needs_input_grad[1]:
            # The narrower side in the role of the rows is the faster way round.
            if weight_OI.shape[0] > weight_OI.shape[1]:
                for_weight = _by_onednn(flat_XI.t(), flat_XO.t()).t()
            else:
                for_weight = _by_onednn(flat_XO.t(), flat_XI.t())
        if ctx.biased and ctx.needs_input_grad[2]:
            for_bias = flat_XO.sum(0)
        return for_rows, for_weight, for_bias


def _by_onednn(rows: Tensor, weight_OI: Tensor, bias_O: Tensor | None = None, *, then: str = "none") -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(rows, weight_OI, bias_O, then, [], "")  # type: ignore[no-any-return]


def _suits(rows: Tensor, weight_OI: Tensor) -> bool:
    return (
        AVAILABLE
        and rows.dtype == weight_OI.dtype == torch.float32
        and rows.device.type == weight_OI.device.type == "cpu"
        and rows.numel() * weight_OI.shape[0] >= SMALLEST
        and not hasattr(weight_OI, "ds_id")  # ZeRO-3's, whole only inside of its own module's call
        and not torch.is_autocast_enabled("cpu")
    )
