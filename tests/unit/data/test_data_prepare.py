"""Prepared files: policies, round trip, refusals on reading."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from genrec.config import DataSettings
from genrec.data import prepare as prepare_module
from genrec.data.load import load_catalog, load_interactions, load_texts
from genrec.data.prepare import prepare
from genrec.data.schema import CATALOG, SEQUENCES, SPLITS, read_list_values
from genrec.errors import DataError
from tests.unit.data import raw_samples as raw


def write_log(folder, rows):
    folder.mkdir(exist_ok=True)
    user, item, time = zip(*rows, strict=True)
    pq.write_table(pa.table({"user": user, "item": item, "time": time}), folder / "log.parquet")
    return str(folder)


def settings_for(path, **other):
    return DataSettings(
        **{"reader": "table", "path": path, "min_user_interactions": 1, "min_item_interactions": 1} | other
    )


@pytest.fixture
def out(tmp_path):
    folder = tmp_path / "out"
    folder.mkdir()
    return folder


def test_declared_schemas(tmp_path, out):
    prepare(raw.sample("csv", tmp_path / "raw"), out)
    for name, schema in (("catalog", CATALOG), ("sequences", SEQUENCES), ("splits", SPLITS)):
        assert pq.read_schema(out / f"{name}.parquet").equals(schema)
    assert len(list(out.iterdir())) == 3


def test_repetitions_and_ties(tmp_path, out):
    rows = [("a", "x", 5), ("a", "y", 5), ("a", "x", 5), ("a", "w", 1), ("a", "x", 9), ("b", "x", 5)]
    metrics = prepare(settings_for(write_log(tmp_path / "raw", rows)), out)
    log, catalog = load_interactions(out), load_catalog(out)
    assert metrics["repetitions_dropped"] == 1
    assert [catalog.item_ids[i] for i in log.sequence(0)] == ["w", "x", "y", "x"]
    assert catalog.item_ids == ["x", "y", "w"]  # first appearance in the file
    assert log.user_ids == ["a", "b"]
    assert catalog.titles == catalog.item_ids


def test_users_in_several_groups(tmp_path, out, monkeypatch):
    monkeypatch.setattr(prepare_module, "USERS_A_GROUP", 3)
    rng = np.random.default_rng(0)
    rows = [(f"u{u}", f"i{rng.integers(9)}", int(t)) for u in range(10) for t in rng.permutation(5)]
    prepare(settings_for(write_log(tmp_path / "raw", rows)), out)
    log, catalog = load_interactions(out), load_catalog(out)
    for index, user in enumerate(log.user_ids):
        own = [item for _, item in sorted((t, i) for u, i, t in rows if u == user)]
        assert [catalog.item_ids[i] for i in log.sequence(index)] == own
    assert np.diff(log.times.reshape(10, 5)).min() > 0


def test_head_by_training_counts_and_by_the_literature(tmp_path, out):
    # "z" is the most frequent item, but only as a target.
    rows = [(f"u{u}", item, t) for u in range(3) for t, item in enumerate(["a", f"b{u}", "z", "z"])]
    path = write_log(tmp_path / "raw", rows)
    for rule, expected in (("training-counts", ["a"]), ("literature", ["z"])):
        metrics = prepare(settings_for(path, head_rule=rule), out)
        log, catalog = load_interactions(out), load_catalog(out)
        assert [catalog.item_ids[i] for i in np.flatnonzero(log.head_items)] == expected
        assert metrics["head_items"] == 1
        assert metrics["cold_items"] == 1
        assert np.array_equal(catalog.train_counts, log.train_counts)
        assert np.array_equal(catalog.head_items, log.head_items)


def test_temporal_split(tmp_path, out):
    rows = [(f"u{u}", f"i{t}", 10 * t + u) for u in range(4) for t in range(10)]
    metrics = prepare(settings_for(write_log(tmp_path / "raw", rows), split="temporal", valid_share=0.2), out)
    log = load_interactions(out)
    assert log.train_end.tolist() == [7, 7, 7, 7]
    assert log.valid_at.tolist() == [7, 7, 7, 7]
    assert log.test_at.tolist() == [9, 9, 9, 9]
    assert (metrics["valid_from"], metrics["test_from"]) == (70, 90)
    assert metrics["cold_items"] == 3


def test_temporal_split_needs_times(tmp_path, out):
    with pytest.raises(DataError, match="needs a time for every interaction; 12 of 12"):
        prepare(raw.sample("research-json", tmp_path / "raw", split="temporal"), out)


def test_failure_keeps_an_earlier_result(tmp_path, out, monkeypatch):
    path = write_log(tmp_path / "raw", [("a", "x", 1), ("a", "y", 2)])
    prepare(settings_for(path), out)
    before = {p.name: p.read_bytes() for p in out.iterdir()}

    def broken(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(prepare_module, "_write_sequences", broken)
    write_log(tmp_path / "raw", [("b", "x", 1)])
    with pytest.raises(OSError, match="No space"):
        prepare(settings_for(path), out)
    assert {p.name: p.read_bytes() for p in out.iterdir()} == before


def rewrite(path, **columns):
    table = pq.read_table(path, partitioning=None)
    for name, values in columns.items():
        position = table.schema.get_field_index(name)
        field = table.schema.field(name)
        table = table.set_column(position, field, pa.array(values, field.type))
    pq.write_table(table, path)


@pytest.mark.parametrize(
    ("file", "columns", "message"),
    [
        ("splits", {"valid_at": [4, 4, 4]}, "row 1: positions contradict"),
        ("splits", {"test_at": [2, 3, 3]}, "row 1: positions contradict"),
        ("splits", {"train_end": [2, 9, 2]}, "row 2: positions contradict"),
        ("sequences", {"items": [[0, 1, 2, 3], [0, 1, 2, 4], [0, 1, 2, 3]]}, "outside the catalog"),
        ("sequences", {"items": [[0, 1, 2, 3], [0, 1, 2, -1], [0, 1, 2, 3]]}, "outside the catalog"),
        ("sequences", {"items": [[0, 1, 2], [0, 1, 2, 1], [0, 1, 2, 3]]}, "differ in length"),
    ],
)
def test_contradictions_are_refused(file, columns, message, tmp_path, out):
    prepare(raw.sample("csv", tmp_path / "raw"), out)
    rewrite(out / f"{file}.parquet", **columns)
    with pytest.raises(DataError, match=message):
        load_interactions(out)


def test_foreign_or_absent_files_are_refused(tmp_path, out):
    prepare(raw.sample("csv", tmp_path / "raw"), out)
    rewrite(out / "catalog.parquet", item_id=["B1", "B1", "B2", "B3"])
    with pytest.raises(DataError, match="occurs twice"):
        load_catalog(out)
    pq.write_table(pa.table({"x": [1]}), out / "catalog.parquet")
    with pytest.raises(DataError, match="columns x: int64, expected item_id"):
        load_catalog(out)
    (out / "catalog.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataError, match="not a readable Parquet file"):
        load_interactions(out)
    (out / "catalog.parquet").unlink()
    with pytest.raises(DataError, match="no such file"):
        load_catalog(out)


def test_training_reads_the_same_sequences_without_times_and_ids(tmp_path, out, monkeypatch):
    monkeypatch.setattr("genrec.data.schema.LIST_ROWS", 2)  # so that several pieces are read into one array
    prepare(raw.sample("csv", tmp_path / "raw"), out)
    whole, lean = load_interactions(out), load_interactions(out, training=True)
    assert whole.n_users > 2
    for name in ("items", "offsets", "train_end", "valid_at", "test_at", "head_items", "train_counts"):
        assert np.array_equal(getattr(whole, name), getattr(lean, name)), name
    assert lean.items.dtype == np.int32
    assert (lean.times, len(lean.user_ids)) == (None, 0)
    assert len(whole.user_ids) == whole.n_users
    assert load_texts(out) == load_catalog(out).texts


def test_list_values_of_empty_and_null_lists(tmp_path):
    schema = pa.schema([pa.field("before", pa.int64()), pa.field("items", pa.list_(pa.int32()), nullable=False)])
    path = tmp_path / "lists.parquet"
    rows = [[], [4, 5], [], [6], []]
    pq.write_table(pa.table({"before": range(5), "items": rows}, schema=schema), path, row_group_size=2)
    values, offsets = read_list_values(path, schema, "items")
    assert values.tolist() == [4, 5, 6]
    assert offsets.tolist() == [0, 0, 2, 2, 3, 3]
    loose = pa.schema([pa.field("before", pa.int64()), pa.field("items", pa.list_(pa.int32()))])
    for bad in ([[1], None], [[1, None]]):
        pq.write_table(pa.table({"before": range(len(bad)), "items": bad}, schema=loose), path)
        with pytest.raises(DataError, match="null; prepare again"):
            read_list_values(path, loose, "items")
