"""What semantic IDs are worth, measured on the items that got them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from genrec.tokenizer.quantizer import CHUNK, FloatRows, Quantizer
from genrec.tokenizer.unique import prefix_groups

PAIRS = 50_000


def perplexity(code_N: NDArray[np.integer], size: int) -> float:
    """exp(entropy) of a level's use of its codes; ``size`` when all are used alike."""
    share_V = np.bincount(code_N, minlength=size) / len(code_N)
    share_V = share_V[share_V > 0]
    return float(np.exp(-(share_V * np.log(share_V)).sum()))


def code_metrics(codes_NL: NDArray[np.integer], level_sizes: tuple[int, ...]) -> dict[str, Any]:
    """Perplexity and share of used codes by level, collisions: all before uniqueness.

    ``collisions`` is the number of items beyond the first of their leaf, ``crowd`` the fullest leaf.
    """
    leaf = np.bincount(prefix_groups(codes_NL, codes_NL.shape[1]))
    levels = list(enumerate(level_sizes))
    return {
        "perplexity": [perplexity(codes_NL[:, level], size) for level, size in levels],
        "used_share": [len(np.unique(codes_NL[:, level])) / size for level, size in levels],
        "collisions": int(len(codes_NL) - len(leaf)),
        "crowd": int(leaf.max()),
    }


def reconstruction_error(quantizer: Quantizer, embeddings_NE: FloatRows, codes_NL: NDArray[np.integer]) -> float:
    """Squared error of the decoded codes over the embeddings' variance (1: no better than the mean)."""
    error, squares, total_E = 0.0, 0.0, np.zeros(embeddings_NE.shape[1])
    for begin in range(0, len(embeddings_NE), CHUNK):
        rows = np.asarray(embeddings_NE[begin : begin + CHUNK], dtype=np.float64)
        error += float(((rows - quantizer.decode(codes_NL[begin : begin + CHUNK])) ** 2).sum())
        squares += float((rows * rows).sum())
        total_E += rows.sum(0)
    variance = squares - float(total_E @ total_E) / len(embeddings_NE)
    return error / max(variance, 1e-12)


def similarity_by_depth(
    embeddings_NE: FloatRows, codes_NL: NDArray[np.integer], *, seed: int = 0
) -> list[dict[str, float]]:
    """Mean cosine of random item pairs that share exactly the first d codes, for d = 0 .. L.

    Args:
        embeddings_NE: float [N, E].
        codes_NL: codes without a collision level.
        seed: of the pairs.

    Returns:
        One {"depth", "similarity", "pairs"} for each depth that any sampled pair has.
    """
    rng = np.random.default_rng(seed)
    n_levels = codes_NL.shape[1]
    result: list[dict[str, float]] = []
    for depth in range(n_levels + 1):
        group_N = prefix_groups(codes_NL, depth)
        order = np.argsort(group_N, kind="stable")
        size_N = np.bincount(group_N)[group_N]
        begin_N = np.searchsorted(group_N[order], group_N)
        candidates = np.flatnonzero(size_N > 1)
        if not len(candidates):
            break
        left = rng.choice(candidates, PAIRS)
        right = order[begin_N[left] + (rng.random(PAIRS) * size_N[left]).astype(np.int64)]
        exact = left != right
        if depth < n_levels:
            exact &= codes_NL[left, depth] != codes_NL[right, depth]
        left, right = left[exact], right[exact]
        if len(left):
            cosine = _cosines(embeddings_NE, left, right)
            result.append({"depth": depth, "similarity": float(cosine.mean()), "pairs": len(left)})
    return result


def _cosines(embeddings_NE: FloatRows, left: NDArray[np.int64], right: NDArray[np.int64]) -> NDArray[np.float32]:
    a, b = np.asarray(embeddings_NE[left]), np.asarray(embeddings_NE[right])
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return np.asarray((a * b).sum(1) / np.maximum(norms, 1e-12), dtype=np.float32)
