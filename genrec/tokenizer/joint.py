"""Several tables of semantic IDs in one vocabulary (contract 1: text, image, ...).

The first table comes first in the vocabulary, so its tokens are what they would be alone, and whoever asks the joint
table as if it were a single one gets the first. The tokens of the further tables follow; each of them is there as a
table of its own whose tokens begin where the one before ends (``members``), so its trie, ``generate`` and ``score``
need to know nothing of the others. One version covers them all.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from typing_extensions import override

from genrec.config.sections import FIRST_TABLE
from genrec.errors import ArtifactError, VersionMismatchError
from genrec.tokenizer.sid_table import SidTable

TABLES = "tables.json"
"""Beside the tables in a directory that holds several: their names in order, and their joint version."""


@dataclass(frozen=True, eq=False)
class PlacedTable(SidTable):
    """A table whose tokens are some of a larger vocabulary.

    Attributes:
        first_token: token of its first level's code 0.
        vocabulary: number of tokens of the whole vocabulary.
    """

    first_token: int = 1
    vocabulary: int = 0

    @cached_property
    @override
    def level_offsets(self) -> NDArray[np.int64]:
        """[L], token id of code 0 of each level."""
        return self.first_token + np.concatenate([[0], np.cumsum(self.level_sizes)[:-1]]).astype(np.int64)

    @property
    @override
    def vocab_size(self) -> int:
        """Number of tokens of the vocabulary that it is a part of."""
        return self.vocabulary


@dataclass(frozen=True, eq=False)
class JointTable(SidTable):
    """The first table, and further ones of the same items in one vocabulary with it.

    Attributes:
        further: the other tables, each for itself.
    """

    further: tuple[SidTable, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        names = [self.name, *(table.name for table in self.further)]
        if len(set(names)) != len(names):
            raise ArtifactError(f"SidTable: two tables have one name: {names}")
        for table in self.further:
            if table.n_items != self.n_items:
                raise ArtifactError(
                    f"SidTable: table {table.name!r} holds {table.n_items} items, {self.name!r} {self.n_items}; "
                    "tokenize them together"
                )

    @classmethod
    def of(cls, first: SidTable, further: Sequence[SidTable]) -> JointTable:
        """Join tables of one catalog."""
        return cls(first.codes_NL, first.level_sizes, first.collision_level, first.name, tuple(further))

    @property
    def first(self) -> SidTable:
        """The first table by itself, without the others' tokens."""
        return SidTable(self.codes_NL, self.level_sizes, self.collision_level, self.name)

    @property
    @override
    def vocab_size(self) -> int:
        """Number of tokens: padding/start, and every level's codes of every table."""
        return 1 + sum(self.level_sizes) + sum(sum(table.level_sizes) for table in self.further)

    @cached_property
    @override
    def version(self) -> str:
        """Hash (16 hex digits) of all tables in their order."""
        return joint_version([self.first, *self.further])

    @cached_property
    def members(self) -> tuple[SidTable, ...]:
        """Each table with its tokens in the joint vocabulary; the first is this very object."""
        placed, begin = [], 1 + sum(self.level_sizes)
        for table in self.further:
            shape = (table.codes_NL, table.level_sizes, table.collision_level, table.name)
            placed.append(PlacedTable(*shape, begin, self.vocab_size))
            begin += sum(table.level_sizes)
        return (self, *placed)

    @override
    def extended(self, new_codes_NL: NDArray[np.integer]) -> SidTable:
        """Not for joint tables: a new item needs a code in each.

        Raises:
            ArtifactError: always.
        """
        raise ArtifactError("SidTable: extend each of the joint tables by itself, then join them again")

    @override
    def save(self, directory: Path) -> None:
        """Write every table and what joins them."""
        for table in (self.first, *self.further):
            table.save(directory)
        names = [self.name, *(table.name for table in self.further)]
        told = json.dumps({"tables": names, "version": self.version}, indent=1) + "\n"
        (directory / TABLES).write_text(told, encoding="utf-8")


def joint_version(tables: Sequence[SidTable]) -> str:
    """The version of these tables in this order."""
    return hashlib.sha256(json.dumps([table.version for table in tables]).encode()).hexdigest()[:16]


def members_of(table: SidTable) -> tuple[SidTable, ...]:
    """The tables that a catalog has, the first one first."""
    return table.members if isinstance(table, JointTable) else (table,)


def load_tables(directory: Path) -> SidTable:
    """The table of a directory, or the joint one where there are several.

    Raises:
        ArtifactError: a table is absent or damaged.
    """
    path = directory / TABLES
    if not path.is_file():
        return SidTable.load(directory, FIRST_TABLE)
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        names, version = [str(name) for name in told["tables"]], str(told["version"])
    except (ValueError, KeyError, TypeError) as error:
        raise ArtifactError(f"{path}: not a list of tables ({error}). Run `tokenize` again.") from error
    if not names:
        raise ArtifactError(f"{path}: it names no table. Run `tokenize` again.")
    first, *further = (SidTable.load(directory, name) for name in names)
    joint = JointTable.of(first, further)
    if joint.version != version:
        raise VersionMismatchError(
            f"{path}: it joins semantic IDs to version {version}, the tables there give {joint.version}. "
            "Run `tokenize` again."
        )
    return joint
