"""Where a made item stands among the catalog's: its semantic ID from the frozen codebook, and its nearest item.

A bundle that carries its tokenizer (folder ``tokenizer/``) places an asset as any new item is placed: text embedding,
the space that the IDs were made in (an asset that nobody took yet borrows the mean collaborative vector of its
nearest catalog items by text), frozen codebook, next free ID. A bundle without places it beside the nearest catalog
item: the longest prefix of that item's ID below which a code is free. No ID of the catalog ever changes.

Shape letters: N catalog items, A assets, L levels, E width of text embeddings.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from genrec.config.sections import TokenizerSettings
from genrec.encoders import TextEncoder, load_encoder
from genrec.encoders.tfidf import TfidfSvdEncoder
from genrec.errors import ArtifactError, SettingsError
from genrec.tokenizer.fit import Tokenizer
from genrec.tokenizer.joint import JointTable
from genrec.tokenizer.sid_table import SidTable
from genrec.tokenizer.spaces import item_space, load_vectors

TOKENIZER, ENCODER = "tokenizer", "encoder"
FALLBACK_DIMENSION = 64

Rows = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Placement:
    """Gives semantic IDs to new texts.

    Attributes:
        table: the catalog's.
        encoder: of texts.
        text_NE: float32 [N, E], the catalog's embeddings.
        tokenizer: the frozen one; None: assets stand beside their nearest item.
        vectors_NC: collaborative vectors, NaN where nobody took an item; None where the IDs need none.
        neighbours: items of which a collaborative vector is borrowed.
    """

    table: SidTable
    encoder: TextEncoder
    text_NE: Rows
    tokenizer: Tokenizer | None
    vectors_NC: Rows | None
    neighbours: int

    @classmethod
    def load(
        cls, bundle: Path, table: SidTable, texts: Sequence[str], settings: TokenizerSettings, neighbours: int
    ) -> Placement:
        """From a bundle's directory.

        Args:
            bundle: the directory.
            table: its semantic IDs.
            texts: N texts of its catalog.
            settings: section tokenizer of what made it.
            neighbours: items of which a collaborative vector is borrowed.

        Raises:
            ArtifactError: its tokenizer is not that of its semantic IDs.
            SettingsError: it has several tables of semantic IDs.
        """
        if isinstance(table, JointTable):
            raise SettingsError(
                "tokenizer.tables: made items can enter a catalog with one table of semantic IDs, this has several"
            )
        folder = bundle / TOKENIZER
        if not folder.is_dir():
            encoder = TfidfSvdEncoder.fit(texts, dimension=min(FALLBACK_DIMENSION, max(1, len(texts) - 1)))
            return cls(table, encoder, encoder.encode(texts), None, None, neighbours)
        tokenizer = Tokenizer.load(folder, table.name)
        table.require(tokenizer.table.version, str(folder))
        text_NE, vectors_NC = load_vectors(folder)
        if len(text_NE) != table.n_items:
            raise ArtifactError(f"{folder}: embeddings of {len(text_NE)} items, {table.n_items} semantic IDs")
        return cls(table, load_encoder(folder / ENCODER), text_NE, tokenizer, vectors_NC, neighbours)

    def nearest(self, texts: Sequence[str]) -> NDArray[np.int64]:
        """int64 [A], the catalog item whose text is most like each."""
        return self._nearest(self.encoder.encode(texts), 1)[:, 0]

    def _nearest(self, rows_AE: Rows, count: int) -> NDArray[np.int64]:
        import faiss

        index = faiss.IndexFlatIP(self.text_NE.shape[1])
        index.add(_unit(self.text_NE))
        found: NDArray[np.int64] = index.search(_unit(rows_AE), min(count, len(self.text_NE)))[1]
        return found

    def codes(self, texts: Sequence[str], taken: SidTable) -> NDArray[np.int32]:
        """int32 [A, L], IDs that ``taken`` does not hold.

        Args:
            texts: of the new items.
            taken: the catalog's table extended by the assets before them.

        Raises:
            SettingsError: no free ID is left.
        """
        rows_AE = self.encoder.encode(texts)
        if self.tokenizer is None:
            return _beside(taken, self._nearest(rows_AE, 1)[:, 0])
        extended = self.tokenizer.assign(self._space(rows_AE), taken)
        return extended.codes_NL[taken.n_items :]

    def _space(self, rows_AE: Rows) -> Rows:
        """The assets' rows in the space that the codebook quantizes."""
        assert self.tokenizer is not None
        space = self.tokenizer.settings.embeddings
        if space == "text" or self.vectors_NC is None:
            return item_space("text", rows_AE, None)
        known = np.flatnonzero(~np.isnan(self.vectors_NC).any(axis=1))
        catalog = Placement(self.table, self.encoder, self.text_NE[known], None, None, self.neighbours)
        near_AK = catalog._nearest(rows_AE, self.neighbours)
        return item_space(space, rows_AE, self.vectors_NC[known[near_AK]].mean(axis=1))


def _unit(rows: Rows) -> Rows:
    return np.ascontiguousarray(rows / np.linalg.norm(rows, axis=1, keepdims=True).clip(min=1e-12), dtype=np.float32)


def _beside(taken: SidTable, nearest_A: NDArray[np.int64]) -> NDArray[np.int32]:
    """IDs that share the longest possible prefix with those of the nearest items."""
    held_NL = taken.codes_NL
    first = len(held_NL)
    for item in nearest_A:
        found = _free(taken.level_sizes, held_NL[item], held_NL)
        if found is None:
            raise SettingsError("tokenizer.level_sizes: no semantic ID is free for a made item; use larger levels")
        held_NL = np.concatenate([held_NL, found[None]])
    return held_NL[first:]


def _free(sizes: Sequence[int], like_L: NDArray[np.int32], held_NL: NDArray[np.int32]) -> NDArray[np.int32] | None:
    """An ID that nobody holds, as far as possible like ``like_L``; None: all are held."""
    for kept in reversed(range(len(sizes))):
        below_ML = held_NL[(held_NL[:, :kept] == like_L[:kept]).all(axis=1), kept:]
        if len(below_ML) == math.prod(sizes[kept:]):
            continue
        taken = {tuple(row) for row in below_ML.tolist()}
        for steps in itertools.product(*(range(size) for size in sizes[kept:])):
            rest = tuple(
                (int(c) + step) % size for c, step, size in zip(like_L[kept:], steps, sizes[kept:], strict=True)
            )
            if rest not in taken:
                return np.asarray([*like_L[:kept], *rest], dtype=np.int32)
    return None
