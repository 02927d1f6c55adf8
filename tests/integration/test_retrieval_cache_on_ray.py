"""Caches by Ray Data: equal to the single process, no work twice, going on after a kill."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from genrec.retrieval.cache_table import RetrievalCache
from genrec.retrieval.cache_work import build_cache_local

pytestmark = pytest.mark.integration
SCRIPT = Path(__file__).with_name("retrieval_build.py")
USERS = 3000


def load_script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("retrieval_build", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["retrieval_build"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def script() -> Iterator[ModuleType]:
    import ray
    from ray import cloudpickle

    module = load_script()
    cloudpickle.register_pickle_by_value(module)
    module.start_ray()
    yield module
    ray.shutdown()


@pytest.fixture(scope="module")
def reference(script: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("reference")
    inputs = script.inputs_of(USERS)
    report = build_cache_local(directory, inputs, inputs.key(**script.NAMES))
    assert report.done["text"] == 0  # one index, unsharded
    return directory


def assert_equal(script: ModuleType, one: Path, other: Path) -> None:
    key = script.inputs_of(USERS).key(**script.NAMES)
    first, second = RetrievalCache.open(one, key), RetrievalCache.open(other, key)
    for split in ("train", "valid", "test"):
        assert first.table(split).num_rows > 0.9 * USERS
        assert first.table(split).equals(second.table(split))
    np.testing.assert_array_equal(first.representations(), second.representations())


def test_ray_data_equals_the_single_process_and_does_no_work_twice(script, reference, tmp_path):
    from genrec.retrieval.cache import build_cache

    inputs = script.inputs_of(USERS)
    key = inputs.key(**script.NAMES)
    report = build_cache(tmp_path, inputs, key)
    blocks = len(list(tmp_path.glob("split=*/*.parquet")))
    shards = -(-USERS // inputs.settings.shard_users)
    assert shards == 3
    assert report.done == {"vectors": 2 * 6, "text": shards * blocks, "rows": blocks}
    assert_equal(script, tmp_path, reference)
    again = build_cache(tmp_path, inputs, key)
    assert sum(again.done.values()) == 0
    assert again.kept == {"rows": blocks}


def test_a_killed_build_goes_on(script, reference, tmp_path):
    from genrec.retrieval.cache import build_cache

    inputs = script.inputs_of(USERS)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(SCRIPT.parents[2])}
    victim = subprocess.Popen(
        [sys.executable, str(SCRIPT), str(tmp_path), str(USERS)], env=environment, start_new_session=True
    )
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline and len(list(tmp_path.glob("split=*/*.parquet"))) < 4:
        assert victim.poll() is None, "it ended before it could be killed"
        time.sleep(0.02)
    os.kill(victim.pid, signal.SIGKILL)
    victim.wait()
    survivors = _settled(tmp_path)
    blocks = len(list(reference.glob("split=*/*.parquet")))
    assert 4 <= survivors < blocks
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("split=*/*.parquet")}
    report = build_cache(tmp_path, inputs, inputs.key(**script.NAMES))
    assert report.kept["rows"] == survivors
    assert report.done["rows"] == blocks - survivors
    assert report.done["vectors"] == 0
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert_equal(script, tmp_path, reference)


def _settled(directory: Path) -> int:
    """Number of blocks once the killed build's own actors, which outlive it for a moment, have ended."""
    count = -1
    for _ in range(30):
        found = len(list(directory.glob("split=*/*.parquet")))
        if found == count:
            return found
        count = found
        time.sleep(3)
    raise AssertionError("blocks kept coming after the kill")
