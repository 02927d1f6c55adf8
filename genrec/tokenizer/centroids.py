"""What a code stands for: the mean of what its items have left, level by level.

The first level's codes stand for the mean of their items, each further level's for the mean of what the levels before
left over; so the vectors of an item's codes sum to about the item. Told from the items that have the codes, not from a
quantizer's codebook: it serves every kind of semantic IDs, published ones too.

Shape letters: N items, E width of the space, W width asked for, V tokens.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray

from genrec.tokenizer.joint import members_of
from genrec.tokenizer.sid_table import SidTable

SAMPLE = 100_000
"""Most items that the principal axes are told from."""


def code_centroids(
    table: SidTable, spaces: Mapping[str, NDArray[np.float32]], width: int, *, seed: int = 0
) -> NDArray[np.float32]:
    """What each token stands for, each level scaled to unit variance.

    Args:
        table: the semantic IDs, of one or several tables.
        spaces: float32 [N, E] by name of a table, what its quantizer read of each item.
        width: W; a wider space is reduced to its first W principal axes.
        seed: of the sample that the axes are told from.

    Returns:
        float32 [V, W], a row of NaN for a token that stands for nothing: padding, a collision code, a code without
        items. Axes beyond those of a narrower space are NaN, too.
    """
    result = np.full((table.vocab_size, width), np.nan, dtype=np.float32)
    for member in members_of(table):
        residual_ND = _principal(spaces[member.name], width, seed)
        n_axes = residual_ND.shape[1]
        for level in range(member.n_levels - member.collision_level):
            tokens_N = torch.from_numpy(member.tokens_NL[:, level])
            counts_V = torch.bincount(tokens_N, minlength=table.vocab_size)
            used = counts_V > 0
            sums_VD = torch.zeros(table.vocab_size, n_axes).index_add_(0, tokens_N, residual_ND)
            means_VD = sums_VD / counts_V.clamp(min=1)[:, None]
            residual_ND -= means_VD[tokens_N]
            spread = means_VD[used].square().mean().sqrt().clamp(min=1e-12)
            result[used.numpy(), :n_axes] = (means_VD[used] / spread).numpy()
    return result


def _principal(rows_NE: NDArray[np.float32], width: int, seed: int) -> torch.Tensor:
    """Rows less their mean, along at most ``width`` principal axes: float32 [N, min(E, W)]."""
    rows = torch.from_numpy(np.ascontiguousarray(rows_NE, dtype=np.float32))
    sample = rows
    if len(rows) > SAMPLE:
        chosen = np.sort(np.random.default_rng(seed).choice(len(rows), SAMPLE, replace=False))
        sample = rows[torch.from_numpy(chosen)]
    mean_E = sample.mean(dim=0)
    if rows.shape[1] <= width:
        return rows - mean_E
    centred = (sample - mean_E).double()
    axes_EW = torch.linalg.eigh(centred.T @ centred).eigenvectors[:, -width:].float()
    return rows @ axes_EW - mean_E @ axes_EW
