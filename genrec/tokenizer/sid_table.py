"""The SidTable (contract 1): which semantic ID each item has.

Codes <-> items is a bijection. The version is a hash of codes, level sizes and name; every
checkpoint, cache, bundle and served reply carries it, and a mismatch is an error.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from genrec.errors import ArtifactError, VersionMismatchError
from genrec.tokenizer.trie import Trie, row_keys

PAD_TOKEN = 0
"""Token id of padding and of the decoder's start; code tokens begin at 1."""


@dataclass(frozen=True, eq=False)
class SidTable:
    """Semantic IDs of N items with L levels.

    Attributes:
        codes_NL: int32 [N, L], ``0 <= codes_NL[:, l] < level_sizes[l]``, rows distinct.
        level_sizes: number of codes of each level.
        collision_level: True if the last level only tells colliding items apart.
        name: "text", "image", ...: a catalog may have several tables.
    """

    codes_NL: NDArray[np.int32]
    level_sizes: tuple[int, ...]
    collision_level: bool = False
    name: str = "text"

    def __post_init__(self) -> None:
        # safetensors writes an array's memory as it lies, so it has to lie row by row.
        codes = np.ascontiguousarray(self.codes_NL, dtype=np.int32)
        object.__setattr__(self, "codes_NL", codes)
        if codes.ndim != 2 or codes.shape[1] != len(self.level_sizes) or codes.shape[0] == 0:
            raise ArtifactError(f"SidTable: codes of shape {codes.shape} do not fit level sizes {self.level_sizes}")
        too_large = codes.max(axis=0) >= np.asarray(self.level_sizes)
        if codes.min() < 0 or too_large.any():
            raise ArtifactError(f"SidTable: a code is outside its level's range {self.level_sizes}")
        keys = np.sort(row_keys(codes))
        if (keys[1:] == keys[:-1]).any():
            raise ArtifactError("SidTable: two items share a semantic ID; assign unique IDs first")

    @property
    def n_items(self) -> int:
        """N, the number of items."""
        return int(self.codes_NL.shape[0])

    @property
    def n_levels(self) -> int:
        """L, the number of codes of an ID."""
        return len(self.level_sizes)

    @cached_property
    def version(self) -> str:
        """Hash (16 hex digits) of all that defines the table."""
        head = json.dumps([list(self.level_sizes), self.collision_level, self.name, list(self.codes_NL.shape)])
        body = np.ascontiguousarray(self.codes_NL, dtype="<i4").tobytes()
        return hashlib.sha256(head.encode() + body).hexdigest()[:16]

    @cached_property
    def trie(self) -> Trie:
        """The prefix tree of all IDs."""
        return Trie.build(self.codes_NL)

    @cached_property
    def level_offsets(self) -> NDArray[np.int64]:
        """[L], token id of code 0 of each level (token = code + offset)."""
        return 1 + np.concatenate([[0], np.cumsum(self.level_sizes)[:-1]]).astype(np.int64)

    @property
    def vocab_size(self) -> int:
        """Number of tokens: padding/start and every level's codes."""
        return 1 + sum(self.level_sizes)

    @cached_property
    def tokens_NL(self) -> NDArray[np.int64]:
        """int64 [N, L], the codes as token ids of one shared vocabulary."""
        return self.codes_NL.astype(np.int64) + self.level_offsets

    def require(self, version: str, what: str) -> None:
        """Raise VersionMismatchError unless ``version`` is this table's."""
        if version != self.version:
            raise VersionMismatchError(
                f"{what} was made with semantic IDs {version}, the catalog here has {self.version}. "
                "Make it again with this table, or load the table it was made with."
            )

    def extended(self, new_codes_NL: NDArray[np.integer]) -> SidTable:
        """A table with further items after the old ones, whose IDs stay as they are.

        A new code past a level's size is an error: the frozen codebook has no such entry.
        """
        codes = np.concatenate([self.codes_NL, np.asarray(new_codes_NL, dtype=np.int32)])
        return SidTable(codes, self.level_sizes, self.collision_level, self.name)

    def save(self, directory: Path) -> None:
        """Write ``<directory>/sid_<name>.safetensors``."""
        # One entry: safetensors writes several in an order that changes from run to run.
        meta = {"genrec": json.dumps([self.collision_level, self.name, self.version])}
        sizes = np.asarray(self.level_sizes, dtype=np.int64)
        save_file({"codes": self.codes_NL, "level_sizes": sizes}, directory / f"sid_{self.name}.safetensors", meta)

    @classmethod
    def load(cls, directory: Path, name: str | None = None) -> SidTable:
        """Read what :meth:`save` wrote.

        Args:
            directory: of the table or tables.
            name: of one table; None: the catalog's, all of them in one vocabulary where it has several.

        Raises:
            ArtifactError: no such file, or its content does not give the version it claims.
        """
        if name is None:
            from genrec.tokenizer.joint import load_tables

            return load_tables(directory)
        from safetensors import safe_open

        path = directory / f"sid_{name}.safetensors"
        if not path.is_file():
            raise ArtifactError(f"{path}: no semantic IDs named {name!r} there. Run `tokenize` first.")
        try:
            with safe_open(path, framework="numpy") as stream:
                collision_level, stored_name, version = json.loads(stream.metadata()["genrec"])
            tensors = load_file(path)
            sizes = tuple(int(size) for size in tensors["level_sizes"])
            codes_NL = tensors["codes"]
        except (SafetensorError, KeyError, TypeError, ValueError) as error:
            raise ArtifactError(f"{path}: not a table of semantic IDs ({error}). Run `tokenize` again.") from error
        table = cls(codes_NL, sizes, collision_level, stored_name)
        table.require(version, str(path))
        return table
