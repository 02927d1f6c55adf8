"""Content item-kNN: items whose texts are like those of the items of this history.

Counts say nothing of an item that few people took; its text does. Each item keeps its nearest by cosine of the text
embeddings, which weigh cosine ** ``power``; a history's scores are summed over its items as those of
:class:`~genrec.models.item_knn.ItemKNN` are, each step back in time weighing ``decay`` times the one after it. Nothing
is counted, so an item that nobody took yet is reached as well as any other.

Shape letters: N items, E width of the embeddings, K neighbours of an item.
"""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from genrec.config import ContentKNNSettings, RetrievalSettings
from genrec.models.item_knn import ItemKNN
from genrec.retrieval.collaborative_path import CollaborativeUsers

BLOCK = 256
"""Items whose neighbours are sought at once."""


def nearest_items(embeddings_NE: NDArray[np.float32], neighbours: int, search: RetrievalSettings) -> sp.csr_matrix:
    """float32 CSR [N, N], cosines above zero of each item's nearest others; by clusters from ``search.ivf_from`` on."""
    index = CollaborativeUsers.fit(embeddings_NE, search)  # an index of unit vectors, here of items
    n_items = len(embeddings_NE)
    rows, columns, cosines = [], [], []
    for begin in range(0, n_items, BLOCK):
        own_B = np.arange(begin, min(begin + BLOCK, n_items))
        found = index.search(embeddings_NE[own_B], own_B, min(neighbours, n_items))
        kept_BK = (found.users_BZ >= 0) & (found.scores_BZ > 0)
        rows.append(np.broadcast_to(own_B[:, None], kept_BK.shape)[kept_BK])
        columns.append(found.users_BZ[kept_BK])
        cosines.append(found.scores_BZ[kept_BK])
    places = np.concatenate(rows), np.concatenate(columns)
    matrix = sp.csr_matrix((np.concatenate(cosines).astype(np.float32), places), shape=(n_items, n_items))
    matrix.sort_indices()
    return matrix


def by_content(nearest_NN: sp.csr_matrix, settings: ContentKNNSettings) -> ItemKNN:
    """The scorer over what :func:`nearest_items` found."""
    weights = nearest_NN.data**settings.power  # who is near whom is shared by all settings tried
    return ItemKNN(sp.csr_matrix((weights, nearest_NN.indices, nearest_NN.indptr), nearest_NN.shape), settings.decay)
