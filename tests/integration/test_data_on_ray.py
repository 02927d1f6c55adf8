"""Ray Data reads the same bytes into the same files, and a worker's DataError keeps its words."""

import pytest
import ray

from genrec.data import prepare as prepare_module
from genrec.data.prepare import prepare
from genrec.data.readers import table, text
from genrec.errors import DataError
from tests.unit.data import raw_samples as raw

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module", autouse=True)
def local_ray():
    ray.init(address="local", num_cpus=2, include_dashboard=False, object_store_memory=200_000_000)
    yield
    ray.shutdown()


@pytest.fixture
def many_pieces(monkeypatch):
    monkeypatch.setattr(text, "PIECE_BYTES", 60)
    monkeypatch.setattr(table, "GROUPS_A_PIECE_ROWS", 4)


@pytest.mark.parametrize("form", ["ml-100k", "amazon-2014", "amazon-2018", "research", "csv", "parquet"])
def test_same_bytes_as_without_ray(form, tmp_path, many_pieces):
    settings = raw.sample(form, tmp_path / "raw")
    results = []
    for use_ray in (False, True):
        out = tmp_path / str(use_ray)
        out.mkdir()
        metrics = prepare(settings, out, use_ray=use_ray)
        results.append((metrics, {path.name: path.read_bytes() for path in out.iterdir()}))
    assert results[0] == results[1]
    assert len(results[0][1]) == 3


def test_ray_is_used_where_it_runs_and_the_files_are_large(tmp_path, monkeypatch):
    settings = raw.sample("csv", tmp_path / "raw")
    asked = []
    original = prepare_module.blocks

    def watched(*args, use_ray):
        asked.append(use_ray)
        return original(*args, use_ray=use_ray)

    monkeypatch.setattr(prepare_module, "blocks", watched)
    (tmp_path / "out").mkdir()
    for limit in (1 << 20, 1):
        monkeypatch.setattr(prepare_module, "RAY_FROM_BYTES", limit)
        prepare(settings, tmp_path / "out")
    assert asked == [False, False, True, True]


def test_error_of_a_worker_names_file_and_line(tmp_path, many_pieces):
    settings = raw.sample("csv", tmp_path / "raw")
    path = tmp_path / "raw" / "log.csv"
    lines = path.read_text().split("\n")
    path.write_text("\n".join([*lines[:9], "oops", *lines[9:]]))
    out = tmp_path / "out"
    out.mkdir()
    with pytest.raises(DataError) as caught:
        prepare(settings, out, use_ray=True)
    assert str(caught.value) == f"{path}:10: 1 fields, expected 5"
    assert list(out.iterdir()) == []
