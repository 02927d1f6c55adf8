"""Semantic IDs that others published, as JSON: {"0": ["<a_55>", "<b_4>", ...], ...}.

Codes come without their codebook, so one is made: a code's centroid is the mean of what the levels
before left over of its items' embeddings. New items are encoded with that, and colliding items moved.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from genrec.errors import DataError, SettingsError
from genrec.tokenizer.quantizer import Codes, FloatRows, ResidualQuantizer

TOKEN = re.compile(r"<([A-Za-z])_(\d{1,6})>")


def read_published(
    path: str | Path, n_items: int, item_ids: Sequence[str] | None = None, first_id: int | None = None
) -> Codes:
    """Read published codes.

    Args:
        path: the JSON file.
        n_items: N, size of the catalog.
        item_ids: raw ids by item index, used where the file's keys are ids and not the numbers 0 .. N-1.
        first_id: the raw id that key "0" stands for, where keys are raw ids less this number.

    Returns:
        int32 [N, L] in the catalog's order, not necessarily unique.

    Raises:
        DataError: not such a file, or it lacks an item.
    """
    try:
        loaded = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"tokenizer.published: {path}: {error.strerror}") from error
    except ValueError as error:
        raise DataError(f"tokenizer.published: {path}: not JSON ({error})") from error
    if not isinstance(loaded, dict) or not loaded:
        raise DataError(f'tokenizer.published: {path}: expected an object {{"0": ["<a_55>", ...], ...}}')
    ids = item_ids if first_id is None else _shifted(path, item_ids or (), first_id)
    keys = _keys(path, loaded, n_items, ids) if first_id is None else _present(path, loaded, ids or ())
    rows = [_codes(path, key, loaded[key]) for key in keys]
    if len({len(row) for row in rows}) != 1:
        raise DataError(f"tokenizer.published: {path}: its items have different numbers of codes")
    return np.asarray(rows, dtype=np.int32)


def _keys(path: str | Path, loaded: dict[str, Any], n_items: int, item_ids: Sequence[str] | None) -> list[str]:
    ids = list(item_ids or ())
    if ids and set(ids) == set(loaded):
        return ids
    dense = [str(item) for item in range(len(loaded))]
    if set(dense) == set(loaded):
        if len(loaded) != n_items:
            raise DataError(
                f"tokenizer.published: {path} has {len(loaded)} items by number, the catalog {n_items}; "
                "switch the k-core filter off, say how numbers follow from raw ids (tokenizer.published_first_id), or "
                "publish codes for this catalog"
            )
        return dense
    return _present(path, loaded, ids)


def _present(path: str | Path, loaded: dict[str, Any], ids: Sequence[str]) -> list[str]:
    missing = next((item for item in ids if item not in loaded), None)
    if not ids or missing is not None:
        raise DataError(f"tokenizer.published: {path} holds no codes of item {missing or 0!r}")
    return list(ids)


def _shifted(path: str | Path, item_ids: Sequence[str], first_id: int) -> list[str]:
    odd = next((item for item in item_ids if not (item.isascii() and item.isdigit())), None)
    if odd is not None:
        raise DataError(
            f"tokenizer.published_first_id: {first_id} needs raw ids that are numbers, got {odd!r} ({path})"
        )
    return [str(int(item) - first_id) for item in item_ids]


def _codes(path: str | Path, key: str, value: Any) -> list[int]:
    tokens = value if isinstance(value, list) else []
    matches = [TOKEN.fullmatch(token) if isinstance(token, str) else None for token in tokens]
    letters = [match[1].lower() if match else "" for match in matches]
    if not matches or letters != [chr(ord("a") + level) for level in range(len(matches))]:
        raise DataError(f'tokenizer.published: {path}: item {key!r}: expected ["<a_55>", "<b_4>", ...], got {value!r}')
    return [int(match[2]) for match in matches if match]


class PublishedCodes(ResidualQuantizer):
    """Residual centroids of given codes, so that further items can be encoded.

    Args:
        level_sizes: V of each level, larger than any published code.
    """

    kind = "published"

    def fit(self, embeddings_NE: FloatRows) -> dict[str, float]:
        """Not for this kind: the codes are given, see :meth:`fit_codes`."""
        raise SettingsError("tokenizer.kind: published codes are read, not fitted")

    def fit_codes(self, embeddings_NE: FloatRows, codes_NL: NDArray[np.integer]) -> None:
        """Mean residual of the items of every code, level by level.

        Raises:
            SettingsError: the published codes do not fit ``level_sizes``.
        """
        largest = codes_NL.max(axis=0).tolist()
        if len(largest) != self.n_levels or any(c >= v for c, v in zip(largest, self.level_sizes, strict=True)):
            raise SettingsError(
                f"tokenizer.level_sizes: {list(self.level_sizes)} does not fit the published codes: they have "
                f"{len(largest)} levels with largest codes {largest}"
            )
        residual_NE = torch.from_numpy(np.array(embeddings_NE, dtype=np.float32))
        self.codebooks = []
        for level, size in enumerate(self.level_sizes):
            code_N = torch.as_tensor(np.asarray(codes_NL[:, level], dtype=np.int64))
            count_V = torch.bincount(code_N, minlength=size)
            total_VE = torch.zeros(size, residual_NE.shape[1]).index_add_(0, code_N, residual_NE)
            book_VE = total_VE / count_V[:, None]  # 0 / 0 = NaN: no such centroid
            residual_NE -= book_VE[code_N]
            self.codebooks.append(book_VE)
