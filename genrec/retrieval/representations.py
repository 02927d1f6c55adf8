"""Vectors of histories: SASRec's user state, and the mean-pooled states of a host's ID encoder.

The first is the space of the collaborative path. The second re-ranks the candidates and is what the paper's
retrieval-augmented decoder attends to: one cached vector a neighbour, as one memory.

Shape letters: B histories, T history items, D width, R retrieved users, U users.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

import faiss
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from genrec.models.contracts import Backbone, Batch, Memory
from genrec.models.sasrec import SasRec
from genrec.retrieval.documents import latest_items
from genrec.retrieval.neighbours import Neighbours

ROWS_AT_ONCE = 256


class HistoryEncoder(Protocol):
    """Anything that turns histories into vectors."""

    def __call__(self, histories_BT: NDArray[np.int64]) -> NDArray[np.float32]:
        """float32 [B, D] for histories padded right with -1; zeros for an empty one."""


EncoderLoader = Callable[[], HistoryEncoder]
"""Makes an encoder where it is needed: each actor of a cache calls it once."""


class SasRecEncoder:
    """SASRec's state after the last item."""

    def __init__(self, model: SasRec) -> None:
        self.model = model.eval()

    def __call__(self, histories_BT: NDArray[np.int64]) -> NDArray[np.float32]:
        """float32 [B, D]."""
        device = self.model.items.weight.device
        return _in_parts(histories_BT, self.model.max_history, device, self.model.user_vectors)


class MeanPooledEncoder:
    """The mean of a host's ID-encoder states over a history.

    Args:
        backbone: a module that implements :class:`~genrec.models.contracts.Backbone`.
        max_history: items of a history that it reads.
    """

    def __init__(self, backbone: Backbone, max_history: int) -> None:
        assert isinstance(backbone, torch.nn.Module)
        self.backbone, self.max_history = backbone.eval(), max_history

    def __call__(self, histories_BT: NDArray[np.int64]) -> NDArray[np.float32]:
        """float32 [B, D]."""
        device = self.backbone.token_embedding.weight.device
        return _in_parts(histories_BT, self.max_history, device, self._pooled)

    def _pooled(self, history_BT: Tensor) -> Tensor:
        return self.backbone.encode(Batch(history_BT=history_BT)).pooled()


def users_memory(neighbours: Neighbours, vectors_UD: NDArray[np.float32]) -> Memory:
    """The retrieved users' vectors as a memory of the decoder (kind "users"), visible to every target."""
    states_BRD = torch.from_numpy(vectors_UD[np.maximum(neighbours.users_BZ, 0)])
    found_BR = torch.from_numpy(neighbours.found_BZ)
    return Memory(states_BRD * found_BR[:, :, None], found_BR, "users")


@contextmanager
def single_threaded() -> Iterator[None]:
    """One thread for torch and FAISS: sums of several threads may differ in the last bit."""
    torch_threads, faiss_threads = torch.get_num_threads(), faiss.omp_get_max_threads()
    torch.set_num_threads(1)
    faiss.omp_set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(torch_threads)
        faiss.omp_set_num_threads(faiss_threads)


@torch.inference_mode()
def _in_parts(
    histories_BT: NDArray[np.int64], max_history: int, device: torch.device, encode: Callable[[Tensor], Tensor]
) -> NDArray[np.float32]:
    parts = []
    for begin in range(0, len(histories_BT), ROWS_AT_ONCE):
        rows_BT = latest_items(histories_BT[begin : begin + ROWS_AT_ONCE], max_history)
        vectors_BD = encode(torch.from_numpy(rows_BT).to(device)).float().cpu().numpy()
        parts.append(np.where((rows_BT[:, :1] >= 0), vectors_BD, np.float32(0)))
    return np.concatenate(parts) if parts else np.empty((0, 0), dtype=np.float32)
