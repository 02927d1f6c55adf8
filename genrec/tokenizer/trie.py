"""The prefix tree of all semantic IDs, as flat arrays.

Nodes are numbered breadth first, lexicographically within a depth; the root is node 0. Therefore the
children of node n are the contiguous nodes ``first_child[n] .. first_child[n+1]-1``: one integer
array holds the whole tree, and all beams of a batch advance in a few array operations. The leaves
below any node are contiguous too (``leaf_begin``, ``leaf_end`` in lexicographic leaf order).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

IntArray = NDArray[np.int64]


@dataclass(frozen=True)
class Trie:
    """Flat prefix tree over N items with L codes each; M nodes in all, the root included.

    Attributes:
        first_child: [M + 1], children of node n are nodes first_child[n] .. first_child[n+1]-1.
        code: [M], the code that leads into the node (root: -1).
        depth_begin: [L + 2], nodes of depth d are depth_begin[d] .. depth_begin[d+1]-1.
        leaf_begin, leaf_end: [M], range of leaves (in lexicographic order) below the node.
        leaf_item: [N], the item at each leaf in lexicographic order.
        path_NL: [N, L], the node at depth l + 1 on the way to each item.
        max_children: [L], the largest number of children of any node at depth l.
    """

    first_child: IntArray
    code: IntArray
    depth_begin: IntArray
    leaf_begin: IntArray
    leaf_end: IntArray
    leaf_item: IntArray
    path_NL: IntArray
    max_children: tuple[int, ...]

    @classmethod
    def build(cls, codes_NL: NDArray[np.integer]) -> Trie:
        """Build the tree of ``codes_NL`` [N, L]; rows must be distinct."""
        codes = np.asarray(codes_NL, dtype=np.int64)
        n_items, n_levels = codes.shape
        order = np.lexsort(codes.T[::-1])
        ordered = codes[order]
        differs = ordered[1:] != ordered[:-1]
        depth_begin, total = [0, 1], 1
        node_codes, starts = [np.array([-1])], [np.array([0])]
        path_sorted = np.empty((n_items, n_levels), dtype=np.int64)
        is_new = np.zeros(n_items, dtype=bool)
        is_new[0] = True
        for level in range(n_levels):
            is_new[1:] |= differs[:, level]
            leaf_starts = np.flatnonzero(is_new)
            path_sorted[:, level] = total + np.cumsum(is_new) - 1
            node_codes.append(ordered[leaf_starts, level])
            starts.append(leaf_starts)
            total += len(leaf_starts)
            depth_begin.append(total)
        if len(starts[-1]) != n_items:
            raise ValueError(f"{n_items} items share {len(starts[-1])} semantic IDs; make them unique first")
        ends = [np.append(s[1:], n_items) for s in starts]
        first_child, counts = [], []
        for depth in range(n_levels):
            begins = depth_begin[depth + 1] + np.searchsorted(starts[depth + 1], starts[depth])
            stops = depth_begin[depth + 1] + np.searchsorted(starts[depth + 1], ends[depth])
            first_child.append(begins)
            counts.append(int((stops - begins).max()))
        first_child.append(np.full(n_items + 1, total))
        path = np.empty_like(path_sorted)
        path[order] = path_sorted
        return cls(
            first_child=np.concatenate(first_child).astype(np.int64),
            code=np.concatenate(node_codes).astype(np.int64),
            depth_begin=np.asarray(depth_begin, dtype=np.int64),
            leaf_begin=np.concatenate(starts).astype(np.int64),
            leaf_end=np.concatenate(ends).astype(np.int64),
            leaf_item=order.astype(np.int64),
            path_NL=path,
            max_children=tuple(counts),
        )

    def children(self, node: int) -> range:
        """Node numbers of the children of ``node``."""
        return range(int(self.first_child[node]), int(self.first_child[node + 1]))


def row_keys(codes_NL: NDArray[np.integer]) -> NDArray[np.void]:
    """[N] keys of 4 L bytes that compare as the rows do, lexicographically; codes must not be negative."""
    n_items, n_levels = codes_NL.shape
    return np.ascontiguousarray(codes_NL, dtype=">i4").view(f"V{4 * n_levels}").reshape(n_items)
