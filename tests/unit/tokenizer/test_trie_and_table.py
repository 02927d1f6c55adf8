"""Invariants of the SidTable and its trie on arbitrary catalogs."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from genrec.errors import ArtifactError, VersionMismatchError
from genrec.tokenizer.sid_table import SidTable
from genrec.tokenizer.trie import Trie


@st.composite
def tables(draw):
    sizes = tuple(draw(st.lists(st.integers(1, 6), min_size=1, max_size=4)))
    row = st.tuples(*[st.integers(0, size - 1) for size in sizes])
    rows = draw(st.lists(row, min_size=1, max_size=40, unique=True))
    return SidTable(np.asarray(rows, dtype=np.int32), sizes)


@given(tables())
@settings(max_examples=150, deadline=None)
def test_trie_holds_exactly_the_prefixes_of_the_table(table):
    trie, codes = table.trie, table.codes_NL
    for depth in range(table.n_levels + 1):
        prefixes = {tuple(row[:depth]) for row in codes.tolist()}
        assert trie.depth_begin[depth + 1] - trie.depth_begin[depth] == len(prefixes)
    nodes = [(0, ())]
    seen = set()
    for node, prefix in nodes:
        below = {i for i, row in enumerate(codes.tolist()) if tuple(row[: len(prefix)]) == prefix}
        assert set(trie.leaf_item[trie.leaf_begin[node] : trie.leaf_end[node]].tolist()) == below
        children = trie.children(node) if len(prefix) < table.n_levels else range(0)
        found = [int(trie.code[child]) for child in children]
        assert found == sorted({row[len(prefix)] for row in codes[list(below)].tolist()} if len(children) else set())
        if len(prefix) < table.n_levels:
            assert len(children) <= trie.max_children[len(prefix)]
        seen.add(prefix)
        nodes += [(child, (*prefix, int(trie.code[child]))) for child in children]
    assert {tuple(row) for row in codes.tolist()} <= seen


@given(tables())
@settings(max_examples=100, deadline=None)
def test_walking_a_code_ends_at_its_item(table):
    trie = table.trie
    for item, row in enumerate(table.codes_NL.tolist()):
        node = 0
        for level, code in enumerate(row):
            children = trie.children(node)
            node = children[[int(trie.code[child]) for child in children].index(code)]
            assert trie.path_NL[item, level] == node
        assert trie.leaf_item[trie.leaf_begin[node]] == item
        assert trie.leaf_end[node] == trie.leaf_begin[node] + 1


@given(tables())
@settings(max_examples=50, deadline=None)
def test_tokens_and_codes_are_a_bijection(table):
    tokens = table.tokens_NL
    assert tokens.min() >= 1
    assert tokens.max() < table.vocab_size
    begin = table.level_offsets
    assert ((tokens >= begin) & (tokens < begin + np.asarray(table.level_sizes))).all()
    assert np.array_equal(tokens - begin, table.codes_NL)


@pytest.fixture(scope="module")
def sid_directory(tmp_path_factory):
    return tmp_path_factory.mktemp("sid")


@given(tables(), st.integers(0, 10**6))
@settings(max_examples=50, deadline=None)
def test_saved_table_comes_back_whatever_its_memory_order(sid_directory, table, seed):
    directory = sid_directory
    order = np.random.default_rng(seed).permutation(table.n_items)
    fortran = SidTable(np.asfortranarray(table.codes_NL[order]), table.level_sizes, name="image")
    fortran.save(directory)
    loaded = SidTable.load(directory, "image")
    assert np.array_equal(loaded.codes_NL, table.codes_NL[order])
    assert loaded.version == fortran.version
    if not np.array_equal(order, np.arange(table.n_items)):
        assert loaded.version != SidTable(table.codes_NL, table.level_sizes, name="image").version


def test_a_table_refuses_shared_ids_codes_out_of_range_and_foreign_versions(tmp_path):
    with pytest.raises(ArtifactError, match="share a semantic ID"):
        SidTable(np.array([[0, 1], [0, 1]], dtype=np.int32), (2, 2))
    with pytest.raises(ArtifactError, match="outside"):
        SidTable(np.array([[0, 2]], dtype=np.int32), (2, 2))
    with pytest.raises(ValueError, match="make them unique"):
        Trie.build(np.array([[0, 1], [0, 1]]))
    table = SidTable(np.array([[0, 1]], dtype=np.int32), (2, 2))
    with pytest.raises(VersionMismatchError, match="a checkpoint"):
        table.require("0" * 16, "a checkpoint")


def test_a_file_that_is_no_table_is_refused(tmp_path):
    with pytest.raises(ArtifactError, match="Run `tokenize`"):
        SidTable.load(tmp_path)
    (tmp_path / "sid_text.safetensors").write_bytes(b"\x00" * 64)
    with pytest.raises(ArtifactError, match="not a table"):
        SidTable.load(tmp_path)
    save_file({"codes": np.zeros((1, 2), dtype=np.int32)}, tmp_path / "sid_text.safetensors")
    with pytest.raises(ArtifactError, match="not a table"):
        SidTable.load(tmp_path)


def test_extension_keeps_old_ids():
    table = SidTable(np.array([[0, 1], [1, 0]], dtype=np.int32), (2, 2))
    longer = table.extended(np.array([[1, 1]]))
    assert np.array_equal(longer.codes_NL[:2], table.codes_NL)
    assert longer.version != table.version
    with pytest.raises(ArtifactError):
        table.extended(np.array([[0, 1]]))
