"""The cache built in one process: what it holds, that it resumes, that a stale one is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from genrec.config import ItemKNNSettings, RetrievalSettings, SasRecSettings
from genrec.errors import ArtifactError, SettingsError
from genrec.models.item_knn import ItemKNN
from genrec.models.sasrec import SasRec
from genrec.remote import Place
from genrec.retrieval import cache_work
from genrec.retrieval.bm25_path import Bm25Users
from genrec.retrieval.cache_apart import CacheApart
from genrec.retrieval.cache_table import CACHE_FILE, RetrievalCache, queries_of
from genrec.retrieval.cache_units import CacheInputs, RowWorker, Unit
from genrec.retrieval.cache_work import build, build_cache_local
from genrec.retrieval.documents import known_histories
from genrec.retrieval.representations import SasRecEncoder, users_memory

SETTINGS = RetrievalSettings(
    candidates=15,
    neighbours=8,
    vote_items=6,
    block_queries=50,
    vote_sources=("neighbours", "text", "collaborative", "item-knn"),
)
NAMES = {"checkpoint": "c0", "sid_version": "s0", "data": "d0"}


@pytest.fixture(scope="module")
def inputs(tastes) -> CacheInputs:
    data, texts = tastes
    torch.manual_seed(0)
    model = SasRec(SasRecSettings(d_model=16, layers=1, heads=1, dropout=0.0), data.n_items, 20)
    loaders = {"collaborative": lambda: SasRecEncoder(model), "representation": lambda: SasRecEncoder(model)}
    return CacheInputs(data, SETTINGS, texts, loaders, {"item-knn": ItemKNN.fit(data, ItemKNNSettings())})


@pytest.fixture(scope="module")
def built(inputs: CacheInputs, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("cache")
    report = build_cache_local(directory, inputs, inputs.key(**NAMES))
    assert report.kept == {"vectors": 0, "text": 0, "rows": 0}
    return directory


def test_every_moment_has_its_row(built: Path, inputs: CacheInputs):
    data = inputs.interactions
    cache = RetrievalCache.open(built, inputs.key(**NAMES))
    for split in ("train", "valid", "test"):
        rows = cache.rows(split)
        expected = [
            (user, position)
            for user in range(data.n_users)
            for position in (range(1, data.train_end[user]) if split == "train" else [len(data.history(user, split))])
        ]
        assert list(zip(rows.users_B.tolist(), rows.positions_B.tolist(), strict=True)) == expected
        assert not (rows.neighbours.users_BZ == rows.users_B[:, None]).any()
        everything = known_histories(data, rows.users_B, rows.positions_B, 100)
        for votes in rows.votes.values():
            named = votes.items_BM >= 0
            seen = (votes.items_BM[:, :, None] == everything[:, None, :]) & named[:, :, None]
            assert not seen.any()
            sums = votes.weights_BM.sum(axis=1)
            np.testing.assert_allclose(sums[named.any(axis=1)], 1, rtol=1e-5)
    assert set(cache.rows("test").votes) == set(SETTINGS.vote_sources)


def test_only_the_latest_moments_are_cached_if_asked(tastes):
    data, _ = tastes
    users, positions = queries_of(data, "train", 2)
    for user in range(data.n_users):
        expected = [p for p in range(1, int(data.train_end[user]))][-2:]
        assert positions[users == user].tolist() == expected


def test_rows_are_found_by_user_and_position(built: Path, inputs: CacheInputs):
    rows = RetrievalCache.open(built, inputs.key(**NAMES)).rows("train")
    wanted = rows.rows_of(rows.users_B[::-1], rows.positions_B[::-1])
    np.testing.assert_array_equal(wanted, np.arange(len(rows.users_B))[::-1])
    missing = rows.rows_of(np.array([0, -1, 10_000]), np.array([9_999, 1, 1]))
    np.testing.assert_array_equal(missing, [-1, -1, -1])
    taken = rows.take(np.array([3, -1]))
    np.testing.assert_array_equal(taken.neighbours.users_BZ[0], rows.neighbours.users_BZ[3])
    assert (taken.neighbours.users_BZ[1] == -1).all()
    assert (taken.votes["item-knn"].weights_BM[1] == 0).all()


def test_representations_become_a_memory(built: Path, inputs: CacheInputs):
    cache = RetrievalCache.open(built, inputs.key(**NAMES))
    vectors = cache.representations()
    encoder = inputs.encoders["representation"]()
    data = inputs.interactions
    own = known_histories(data, np.arange(data.n_users), data.train_end.astype(np.int64), 20)
    np.testing.assert_allclose(vectors, encoder(own), atol=1e-6)
    rows = cache.rows("test").take(np.array([0, -1]))
    memory = users_memory(rows.neighbours, vectors)
    assert memory.kind == "users"
    np.testing.assert_array_equal(memory.states_BTD[0, 0].numpy(), vectors[rows.neighbours.users_BZ[0, 0]])
    assert not memory.mask_BT[1].any()
    assert not memory.states_BTD[1].any()


def test_a_finished_cache_is_left_alone(built: Path, inputs: CacheInputs):
    before = {path: path.stat().st_mtime_ns for path in built.rglob("*")}
    report = build_cache_local(built, inputs, inputs.key(**NAMES))
    assert sum(report.done.values()) == 0
    assert report.kept["rows"] == len(list(built.glob("split=*/*.parquet")))
    assert {path: path.stat().st_mtime_ns for path in built.rglob("*")} == before


class _KilledError(Exception):
    pass


def test_an_interrupted_build_goes_on_where_it_stopped(inputs, built, tmp_path, monkeypatch):
    key = inputs.key(**NAMES)
    done: list[Unit] = []

    class Mortal(RowWorker):
        def __call__(self, unit: Unit) -> None:
            if len(done) == 3:
                raise _KilledError
            super().__call__(unit)
            done.append(unit)

    with monkeypatch.context() as patch:
        patch.setattr(cache_work, "RowWorker", Mortal)
        with pytest.raises(_KilledError):
            build_cache_local(tmp_path, inputs, key)
    with pytest.raises(ArtifactError, match="no finished retrieval cache"):
        RetrievalCache.open(tmp_path, key)
    other = inputs.key(**{**NAMES, "checkpoint": "c1"})
    with pytest.raises(ArtifactError, match="stale: made with checkpoint 'c0', asked for 'c1'"):
        build_cache_local(tmp_path, inputs, other)
    report = build_cache_local(tmp_path, inputs, key)
    assert report.kept["rows"] == 3
    assert report.done["rows"] == len(list(built.glob("split=*/*.parquet"))) - 3
    assert report.done["vectors"] == 0
    for split in ("train", "valid", "test"):
        assert RetrievalCache.open(tmp_path, key).table(split).equals(RetrievalCache.open(built, key).table(split))
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(p.name for p in built.iterdir())


@pytest.mark.parametrize("field", ["checkpoint", "sid_version", "data"])
def test_a_stale_key_is_refused(built: Path, inputs: CacheInputs, field: str):
    with pytest.raises(ArtifactError, match=f"stale: made with {field}"):
        RetrievalCache.open(built, inputs.key(**{**NAMES, field: "other"}))


def test_settings_that_shape_the_content_change_the_key(inputs: CacheInputs):
    key = inputs.key(**NAMES)
    assert replace(inputs, settings=SETTINGS.model_copy(update={"shard_users": 7, "workers": 3})).key(**NAMES) == key
    assert replace(inputs, settings=SETTINGS.model_copy(update={"bm25_k1": 1.2})).key(**NAMES) != key
    assert replace(inputs, exclude_seen=False).key(**NAMES) != key


def test_a_missing_or_damaged_block_is_named(inputs: CacheInputs, tmp_path: Path):
    key = inputs.key(**NAMES)
    build_cache_local(tmp_path, inputs, key)
    block = tmp_path / "split=test" / "part-00001.parquet"
    content = block.read_bytes()
    block.write_bytes(content[: len(content) // 2])
    with pytest.raises(ArtifactError, match="damaged"):
        RetrievalCache.open(tmp_path, key).rows("test")
    block.unlink()
    with pytest.raises(ArtifactError, match="part-00001"):
        RetrievalCache.open(tmp_path, key)
    plan = tmp_path / CACHE_FILE
    plan.write_text(json.dumps(["no", "plan"]))
    with pytest.raises(ArtifactError, match="not a retrieval cache"):
        RetrievalCache.open(tmp_path, key)


def test_missing_parts_are_named_before_any_work(inputs: CacheInputs, tmp_path: Path):
    with pytest.raises(SettingsError, match="collaborative, representation"):
        build_cache_local(tmp_path, replace(inputs, encoders={}), inputs.key(**NAMES))
    with pytest.raises(SettingsError, match="'item-knn' needs a fitted item-kNN"):
        build_cache_local(tmp_path, replace(inputs, scorers={}), inputs.key(**NAMES))
    assert not list(tmp_path.iterdir())


def test_nodes_that_share_no_folder_make_the_same_cache(built: Path, inputs: CacheInputs, tmp_path: Path):
    """Each unit is done on a node of its own, which sees only what was sent; another node fetches the whole."""
    place, key = Place((tmp_path / "place").as_uri()), inputs.key(**NAMES)

    def cache_of(node: str) -> CacheApart:
        return CacheApart(place, tmp_path / node, fetch_inputs=lambda: None)

    def execute(units, make, given):
        interactions, _, *rest = given
        for unit in units:
            node = f"{make.__name__}-{unit.part}-{unit.shard}-{unit.block}"
            cache_of(node).around(make(interactions, tmp_path / node, *rest))(unit)
            yield

    driver = cache_of("driver")
    report = build(tmp_path / "driver", inputs, key, execute, share=share_shards, shard_users=100, bring=driver.bring)
    assert report.done["text"] > 0
    assert not sum(report.kept.values())
    driver.send_finished()
    assert not [name for name in place.names() if ".work" in name]
    trainer = cache_of("trainer")
    trainer.bring_finished()
    for directory in (tmp_path / "driver", tmp_path / "trainer"):
        for split in ("train", "valid", "test"):
            assert RetrievalCache.open(directory, key).table(split).equals(RetrievalCache.open(built, key).table(split))
    np.testing.assert_array_equal(
        RetrievalCache.open(tmp_path / "trainer", key).representations(),
        RetrievalCache.open(built, key).representations(),
    )


def share_shards(value: object) -> object:
    """As the object store does: a shard of the index is fetched when its turn comes."""
    return (lambda: value) if isinstance(value, Bm25Users) else value
