"""Item-kNN by co-occurrence: what people took soon after the items of this history.

The honest baseline: seconds of counting beat most published generative recommenders on Amazon
Beauty, so no table stands without it. Two items of one user that are ``gap`` steps apart, at most
``window``, count 1/gap, from the earlier to the later; ``reverse`` times the transposed counts are
added, and columns are divided by degree ** ``degree_power`` (a column's degree is its sum), so that
popular items don't win by being everywhere. A user's scores are the sum of the history's rows, each
step back in time weighing ``decay`` times the one after it. Only training interactions are counted.

Shape letters: B users, T history items, N items.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from genrec.config import ItemKNNSettings
from genrec.data.interactions import Interactions
from genrec.errors import ArtifactError


@dataclass(frozen=True, eq=False)
class ItemKNN:
    """Fitted neighbours of items: by co-occurrence, or others (content_knn.py of genrec/retrieval, linear.py here).

    Attributes:
        weights_NN: float32 CSR [N, N], row = item of the history, column = item scored.
        decay: weight of the history per step back.
    """

    weights_NN: sp.csr_matrix
    decay: float

    @classmethod
    def fit(cls, interactions: Interactions, settings: ItemKNNSettings) -> ItemKNN:
        """Count co-occurrences in the training interactions."""
        counts_NN = cooccurrence(interactions, settings.window)
        both_NN = (counts_NN + settings.reverse * counts_NN.T).tocsr()
        degree_N = np.asarray(both_NN.sum(axis=0)).ravel()
        scale_N = np.where(degree_N > 0, np.maximum(degree_N, np.finfo(np.float64).tiny), 1.0) ** -settings.degree_power
        weights_NN = (both_NN @ sp.diags(scale_N)).tocsr().astype(np.float32)
        weights_NN.sort_indices()
        return cls(weights_NN, settings.decay)

    @property
    def n_items(self) -> int:
        """N, the number of items."""
        return int(self.weights_NN.shape[0])

    def score_histories(
        self, histories_BT: NDArray[np.int64], users_B: NDArray[np.int64] | None = None
    ) -> NDArray[np.float32]:
        """float32 [B, N]; items that no history item co-occurred with score 0."""
        given_BT = histories_BT >= 0
        back_BT = given_BT.sum(axis=1, keepdims=True) - 1 - np.arange(histories_BT.shape[1])
        rows, steps = np.nonzero(given_BT)
        weight = self.decay ** back_BT[rows, steps].astype(np.float64)
        shape = (len(histories_BT), self.n_items)
        recency_BN = sp.csr_matrix((weight.astype(np.float32), (rows, histories_BT[rows, steps])), shape=shape)
        return (recency_BN @ self.weights_NN).toarray()

    def save(self, path: Path) -> None:
        """Write the CSR arrays and the decay as safetensors."""
        matrix = self.weights_NN
        arrays = {
            "data": matrix.data.astype(np.float32),
            "indices": matrix.indices.astype(np.int64),
            "indptr": matrix.indptr.astype(np.int64),
        }
        # One entry: safetensors writes several in an order that changes from run to run.
        save_file(arrays, path, {"decay": repr(self.decay)})

    @classmethod
    def load(cls, path: Path) -> ItemKNN:
        """Read what :meth:`save` wrote.

        Raises:
            ArtifactError: no such file, or not an item-kNN.
        """
        try:
            with safe_open(path, framework="numpy") as stream:
                decay = float((stream.metadata() or {})["decay"])
                data, indices, indptr = (stream.get_tensor(name) for name in ("data", "indices", "indptr"))
        except (OSError, SafetensorError, KeyError, ValueError) as error:
            raise ArtifactError(f"{path}: not a saved item-kNN ({error}). Fit it again.") from error
        n_items = len(indptr) - 1
        in_range = indices.size == 0 or (indices.min() >= 0 and indices.max() < n_items)
        if len(data) != len(indices) or indptr[-1] != len(data) or (np.diff(indptr) < 0).any() or not in_range:
            raise ArtifactError(f"{path}: its arrays do not form a matrix of {n_items} items. Fit it again.")
        return cls(sp.csr_matrix((data, indices, indptr), shape=(n_items, n_items)), decay)


def cooccurrence(interactions: Interactions, window: int) -> sp.csr_matrix:
    """float64 CSR [N, N]: sum of 1/gap over training pairs (earlier item, later item), gap <= ``window``."""
    owner_E = np.repeat(np.arange(interactions.n_users), np.diff(interactions.offsets))
    position_E = np.arange(len(interactions.items)) - interactions.offsets[owner_E]
    in_train_E = position_E < interactions.train_end[owner_E]
    items, owners = interactions.items[in_train_E], owner_E[in_train_E]
    total = sp.csr_matrix((interactions.n_items, interactions.n_items), dtype=np.float64)
    for gap in range(1, min(window, max(len(items) - 1, 0)) + 1):
        together = owners[gap:] == owners[:-gap]
        earlier, later = items[:-gap][together], items[gap:][together]
        weight = np.full(len(earlier), 1 / gap)
        total = total + sp.csr_matrix((weight, (earlier, later)), shape=total.shape)
    return total.tocsr()
