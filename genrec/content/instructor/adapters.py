"""Low-rank adapters: what MiniLM learns of instructions, kept beside its frozen weights (Hu et al. 2022, "LoRA").

Each linear layer of the transformer gets ``W x + 2 U D x`` in place of ``W x``, with a narrow D drawn at random and U
zero at first, so that an untrained adapter changes nothing. Trained, they are added to a copy of the weights once,
when they are loaded, and cost nothing after that. The encoder itself stays as it is: it embeds titles and wishes.

Shape letters: R rank, I inputs and O outputs of a linear layer.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

PLACES = {
    "query": "attention.self.query",
    "key": "attention.self.key",
    "value": "attention.self.value",
    "output": "attention.output.dense",
    "widen": "intermediate.dense",
    "narrow": "output.dense",
}
"""The linear layers of a BERT layer, by the names that their adapters have."""
SCALE = 2.0
DROPOUT = 0.1
_WIDER = 4
"""How many times wider than the model the feed-forward layer is."""


class Adapter(nn.Module):
    """What is added to one linear layer."""

    def __init__(self, inputs: int, outputs: int, rank: int) -> None:
        super().__init__()
        self.down_RI = nn.Parameter(torch.randn(rank, inputs) / inputs**0.5)
        self.up_OR = nn.Parameter(torch.zeros(outputs, rank))
        self.dropout = nn.Dropout(DROPOUT)

    def forward(self, inputs: Tensor) -> Tensor:
        """What is added to the layer's outputs [..., O] for inputs [..., I]."""
        return SCALE * (self.dropout(inputs) @ self.down_RI.T) @ self.up_OR.T

    def weight_OI(self) -> Tensor:
        """The same as a weight to be added."""
        return SCALE * self.up_OR @ self.down_RI


class Adapters(nn.Module):
    """An adapter for every linear layer of a BERT-like model.

    Args:
        layers: of the transformer.
        width: of its states.
        rank: R.
    """

    def __init__(self, layers: int, width: int, rank: int) -> None:
        super().__init__()
        inner = _WIDER * width
        sizes = {place: (width, width) for place in PLACES} | {"widen": (width, inner), "narrow": (inner, width)}
        self.layers = nn.ModuleList(
            [nn.ModuleDict({place: Adapter(*size, rank) for place, size in sizes.items()}) for _ in range(layers)]
        )

    def attached(self, model: Any) -> Any:
        """A frozen copy of ``model`` that asks these adapters at every step: for training."""
        copied = _copied(model).requires_grad_(False)
        for layer, path, adapter in self._places(copied):
            layer.set_submodule(path, _Adapted(layer.get_submodule(path), adapter))
        return copied

    def merged(self, model: Any) -> Any:
        """A copy of ``model`` with these adapters in its weights: for reading, as fast as ``model``."""
        copied = _copied(model)
        with torch.no_grad():
            for layer, path, adapter in self._places(copied):
                weight = layer.get_submodule(path).weight
                weight += adapter.weight_OI().to(weight)
        return copied

    def _places(self, model: Any) -> Iterator[tuple[Any, str, Adapter]]:
        """Each adapter with the layer of ``model`` and the path in it that it belongs to."""
        for layer, adapters in zip(model.encoder.layer, self.layers, strict=True):
            for place, adapter in adapters.items():  # type: ignore[operator]
                yield layer, PLACES[place], adapter


class _Adapted(nn.Module):
    def __init__(self, linear: nn.Module, adapter: nn.Module) -> None:
        super().__init__()
        self.linear = linear
        self.adapter = adapter

    def forward(self, inputs: Tensor) -> Tensor:
        added: Tensor = self.linear(inputs) + self.adapter(inputs)
        return added


def _copied(model: Any) -> Any:
    """A copy that shares the word embeddings, half of the model, which no adapter touches."""
    shared = model.embeddings.word_embeddings.weight
    return copy.deepcopy(model, {id(shared): shared})
