"""Embeddings by content hash, in append-only files that name their own digest.

One directory per encoder identity; each file holds the keys (128 bits of SHA-256 of the text) and rows
of one group. A file is written aside and renamed, so readers never see half of one; a file whose bytes
no longer give its name is passed over and its texts are encoded again.
"""

from __future__ import annotations

import hashlib
import logging
import os
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save

from genrec.artifacts import file_digest

log = logging.getLogger(__name__)
KEY_BYTES = 16
Encoded = tuple[NDArray[np.int64], NDArray[np.float32]]


def text_keys(texts: Sequence[str]) -> NDArray[np.void]:
    """[N] keys of 16 bytes, the truncated SHA-256 of each text."""
    digests = [hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:KEY_BYTES] for text in texts]
    return np.frombuffer(b"".join(digests), dtype=f"V{KEY_BYTES}")


class EmbeddingCache:
    """The cached embeddings of one encoder."""

    def __init__(self, directory: Path, dimension: int) -> None:
        self.directory = directory
        self.dimension = dimension

    def embed(self, texts: Sequence[str], encode: Callable[[Sequence[str]], Iterable[Encoded]]) -> NDArray[np.float32]:
        """Embeddings of all texts; what is not there is encoded and kept.

        Args:
            texts: N texts.
            encode: gives embeddings of texts, in groups of (rows of its argument, float32 rows); each group is kept
                as soon as it comes.

        Returns:
            float32 [N, E].
        """
        embeddings_NE = np.empty((len(texts), self.dimension), dtype=np.float32)
        unique_keys, first, inverse = np.unique(text_keys(texts), return_index=True, return_inverse=True)
        # One buffer: a text's embedding goes to the first item that has it, and is copied to the others at the end.
        missing = self.read(unique_keys, embeddings_NE, first)
        log.info("encoding %d of %d texts, %d are cached", len(missing), len(texts), len(unique_keys) - len(missing))
        if len(missing):
            for rows, encoded in encode([texts[at] for at in first[missing]]):
                embeddings_NE[first[missing[rows]]] = encoded
                self.write(unique_keys[missing[rows]], encoded)
        source = first[inverse.reshape(-1)]
        repeated = np.flatnonzero(source != np.arange(len(texts)))
        embeddings_NE[repeated] = embeddings_NE[source[repeated]]
        return embeddings_NE

    def read(self, keys: NDArray[np.void], into_NE: NDArray[np.float32], rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Look up sorted, distinct keys, file by file, so no more than one file is held beside the result.

        Args:
            keys: [U].
            into_NE: float32 [N, E], written at ``rows``.
            rows: int64 [U], where the embedding of each key goes.

        Returns:
            The positions among ``keys`` of those not found.
        """
        found = np.zeros(len(keys), dtype=bool)
        for path in sorted(self.directory.glob("*.safetensors")) if len(keys) else ():
            if file_digest(path) != path.stem:
                log.warning("%s: altered bytes; its texts are encoded again", path)
                continue
            tensors = load_file(path)
            stored = np.ascontiguousarray(tensors["keys"]).view(f"V{KEY_BYTES}").reshape(-1)
            # A search in the sorted keys: sorting both together for every file would be quadratic in the catalog.
            at = np.minimum(np.searchsorted(keys, stored), len(keys) - 1)
            known = keys[at] == stored
            into_NE[rows[at[known]]] = tensors["embeddings"][known]
            found[at[known]] = True
        return np.flatnonzero(~found)

    def write(self, keys: NDArray[np.void], rows_UE: NDArray[np.float32]) -> None:
        """Add rows under their keys."""
        self.directory.mkdir(parents=True, exist_ok=True)
        key_bytes = np.frombuffer(keys.tobytes(), dtype=np.uint8).reshape(len(keys), KEY_BYTES)
        content = save({"keys": key_bytes, "embeddings": np.ascontiguousarray(rows_UE)})
        handle, name = tempfile.mkstemp(dir=self.directory, prefix=".", suffix=".partial")
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)
        os.replace(name, self.directory / f"{hashlib.sha256(content).hexdigest()}.safetensors")
