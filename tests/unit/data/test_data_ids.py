"""Ids to codes against a dictionary."""

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genrec.data import ids as ids_module
from genrec.data.ids import IdTable, index_order


@pytest.mark.parametrize("merge", [0, 3, 1 << 20])
@settings(deadline=None)
@given(blocks=st.lists(st.lists(st.text("abü", max_size=2), max_size=8), max_size=8))
def test_codes_follow_first_appearance(merge, blocks):
    before, ids_module.MERGE_IDS = ids_module.MERGE_IDS, merge
    try:
        table = IdTable()
        for block in blocks:
            table.add(pa.chunked_array([pa.array(block, pa.large_string())]))
        codes, values = table.finish()
    finally:
        ids_module.MERGE_IDS = before
    flat = [one for block in blocks for one in block]
    assert values.to_pylist() == list(dict.fromkeys(flat))
    assert [values[code].as_py() for code in codes.tolist()] == flat


def test_numbers_are_ordered_as_numbers():
    assert index_order(pa.array(["10", "9", "0"], pa.large_string())).tolist() == [2, 1, 0]


@pytest.mark.parametrize("ids", [["10", "9", "a"], ["10", "09"], ["2", "-1"], ["3", "1.0"]])
def test_other_ids_keep_first_appearance(ids):
    assert index_order(pa.array(ids, pa.large_string())).tolist() == list(range(len(ids)))
