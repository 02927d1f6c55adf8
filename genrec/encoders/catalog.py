"""Encoding a whole catalog: only what the cache lacks, by Ray Data actors where Ray runs.

Texts are sorted by length and cut into batches first; a batch is a row of the Ray dataset. So the batches
are the same with and without Ray, and so are the numbers. Every group of batches is cached as soon as it
is done: a killed run repeats at most one group.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genrec.config.sections import EncoderSettings
from genrec.encoders.cache import EmbeddingCache, Encoded
from genrec.encoders.protocol import TextEncoder
from genrec.encoders.registry import fit_encoder

GROUP_TEXTS = 16_384


def encode_catalog(
    texts: Sequence[str], settings: EncoderSettings, cache_dir: Path, *, encoder: TextEncoder | None = None
) -> NDArray[np.float32]:
    """Embed the texts of a catalog.

    Args:
        texts: N item texts.
        settings: which encoder and how many texts a batch.
        cache_dir: holds embeddings by content hash; texts found there are not encoded again.
        encoder: an encoder at hand (new items must go through the one fitted on the catalog); None: made
            by the settings, tfidf-svd fitted on ``texts``.

    Returns:
        float32 [N, E], rows of length 1.
    """
    encoder = fit_encoder(texts, settings) if encoder is None else encoder
    cache = EmbeddingCache(cache_dir / encoder.identity, encoder.dimension)
    return cache.embed(texts, lambda missing: _grouped(_encoded_batches(missing, encoder, settings.batch_size)))


def _encoded_batches(texts: Sequence[str], encoder: TextEncoder, batch_size: int) -> Iterator[Encoded]:
    order = np.argsort([len(text) for text in texts], kind="stable")
    batches = [order[begin : begin + batch_size] for begin in range(0, len(order), batch_size)]
    ray = sys.modules.get("ray")  # who initialised it has imported it; importing costs seconds
    if ray is not None and ray.is_initialized() and len(batches) > 1:
        yield from _by_actors(texts, batches, encoder)
        return
    for rows in batches:
        yield rows, encoder.encode([texts[row] for row in rows])


class _EncodeBatch:
    """The actor: holds one encoder, whose weights it loads once."""

    def __init__(self, encoder: TextEncoder) -> None:
        import torch

        torch.set_num_threads(1)  # its CPU share; two threads on a busy core are many times slower than one
        self.encoder = encoder

    def __call__(self, block: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        texts = list(block["texts"][0])
        return {"batch": block["batch"], "embeddings": self.encoder.encode(texts)[None]}


def _by_actors(texts: Sequence[str], batches: Sequence[NDArray[np.int64]], encoder: TextEncoder) -> Iterator[Encoded]:
    import ray

    # One CPU stays free of actors: Ray Data's own read tasks need it.
    resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    actors = max(1, min(int(resources.get("CPU", 1)) - 1, len(batches)))
    rows = [{"batch": at, "texts": [texts[row] for row in batch]} for at, batch in enumerate(batches)]
    dataset = ray.data.from_items(rows, override_num_blocks=min(len(batches), 4 * actors))
    encoded = dataset.map_batches(
        _EncodeBatch, fn_constructor_args=(encoder,), batch_size=1, concurrency=actors, num_cpus=1
    )
    for block in encoded.iter_batches(batch_size=1):
        yield batches[int(block["batch"][0])], np.asarray(block["embeddings"][0], dtype=np.float32)


def _grouped(batches: Iterator[Encoded]) -> Iterator[Encoded]:
    rows: list[NDArray[np.int64]] = []
    embeddings: list[NDArray[np.float32]] = []
    for batch_rows, batch_embeddings in batches:
        rows.append(batch_rows)
        embeddings.append(batch_embeddings)
        if sum(map(len, rows)) >= GROUP_TEXTS:
            yield np.concatenate(rows), np.concatenate(embeddings)
            rows, embeddings = [], []
    if rows:
        yield np.concatenate(rows), np.concatenate(embeddings)
