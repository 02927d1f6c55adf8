"""Artifacts: keys, commits, and that no altered byte is ever read as sound."""

from __future__ import annotations

import json
import os
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest

from genrec.artifacts import MANIFEST, ArtifactStore, Manifest, read_manifest, write_manifest
from genrec.errors import ArtifactError

KEY = "0123456789abcdef"


def made(store: ArtifactStore, key: str = KEY, stage: str = "toy") -> Path:
    work = store.begin(stage, key)
    (work / "table.bin").write_bytes(bytes(range(256)) * 4)
    (work / "deep").mkdir()
    (work / "deep" / "note.json").write_text(json.dumps({"hello": "wörld"}))
    (work / "deep" / MANIFEST).write_text("a file like any other")
    (work / "empty").write_bytes(b"")
    return store.commit(Manifest(stage=stage, key=key, settings={"a.b": 1}, inputs={"x": "y"}, metrics={"loss": 0.5}))


def test_commit_and_open(tmp_path):
    store = ArtifactStore(tmp_path)
    assert not store.has("toy", KEY)
    path = made(store)
    assert store.has("toy", KEY)
    opened, manifest = store.open("toy", KEY)
    assert opened == path == store.path("toy", KEY)
    assert set(manifest.files) == {"table.bin", "deep/note.json", f"deep/{MANIFEST}", "empty"}
    assert manifest.metrics == {"loss": 0.5}
    assert not store.work_path("toy", KEY).exists()


def test_begin_empties_what_a_killed_attempt_left(tmp_path):
    store = ArtifactStore(tmp_path)
    (store.begin("toy", KEY) / "half").write_text("...")
    assert not store.has("toy", KEY)
    assert list(store.begin("toy", KEY).iterdir()) == []


def test_scratch_outlives_attempts_and_goes_with_the_commit(tmp_path):
    store = ArtifactStore(tmp_path)
    scratch = store.scratch_path("toy", KEY)
    scratch.mkdir(parents=True)
    (scratch / "checkpoint").write_text("...")
    store.begin("toy", KEY)
    assert (scratch / "checkpoint").exists()
    made(store)
    assert not scratch.exists()


def test_equal_content_gives_equal_manifests(tmp_path):
    first, second = made(ArtifactStore(tmp_path / "a")), made(ArtifactStore(tmp_path / "b"))
    assert (first / MANIFEST).read_bytes() == (second / MANIFEST).read_bytes()


def test_key_depends_on_stage_settings_and_inputs_and_not_on_their_order():
    key = ArtifactStore.key("s", {"a": 1, "b": 2}, {"x": "1", "y": "2"})
    assert key == ArtifactStore.key("s", {"b": 2, "a": 1}, {"y": "2", "x": "1"})
    others = {
        ArtifactStore.key("t", {"a": 1, "b": 2}, {"x": "1", "y": "2"}),
        ArtifactStore.key("s", {"a": 1, "b": 3}, {"x": "1", "y": "2"}),
        ArtifactStore.key("s", {"a": 1, "b": "2"}, {"x": "1", "y": "2"}),
        ArtifactStore.key("s", {"a": 1, "b": 2}, {"x": "1", "y": "3"}),
        ArtifactStore.key("s", {"a": 1, "b": 2}, {"x": "1"}),
    }
    assert len(others | {key}) == 6


def test_two_hundred_byte_flips_are_each_refused(tmp_path):
    """Every byte of every file counts, the manifest's own bytes too."""
    path = made(ArtifactStore(tmp_path))
    files = sorted(p for p in path.rglob("*") if p.is_file() and p.stat().st_size)
    rng = np.random.default_rng(0)
    manifest_bytes = (path / MANIFEST).stat().st_size
    # Every byte of the manifest once, and 400 random bytes of the other files.
    flips = [(path / MANIFEST, at) for at in range(manifest_bytes)]
    others = [p for p in files if p != path / MANIFEST]
    for _ in range(400):
        file = others[rng.integers(len(others))]
        flips.append((file, int(rng.integers(file.stat().st_size))))
    assert len(flips) > 200
    for file, at in flips:
        sound = file.read_bytes()
        broken = bytearray(sound)
        broken[at] ^= int(rng.integers(1, 256))
        file.write_bytes(broken)
        with pytest.raises(ArtifactError, match=r"[Dd]elete|[Rr]un"):
            read_manifest(path)
        file.write_bytes(sound)
    read_manifest(path)


@pytest.mark.parametrize(
    "alter",
    [
        lambda path: (path / "table.bin").unlink(),
        lambda path: (path / "table.bin").write_bytes(b""),
        lambda path: (path / "stray").write_bytes(b""),
        lambda path: (path / "table.bin").rename(path / "chair.bin"),
        lambda path: (path / MANIFEST).unlink(),
        lambda path: (path / MANIFEST).write_text("[]"),
        lambda path: (path / MANIFEST).write_text("{}"),
        lambda path: (path / MANIFEST).write_text(""),
        lambda path: (path / MANIFEST).write_bytes((path / MANIFEST).read_bytes() + b"\n"),
        lambda path: shutil.rmtree(path / "deep"),
    ],
)
def test_other_alterations_are_refused(tmp_path, alter):
    store = ArtifactStore(tmp_path)
    path = made(store)
    alter(path)
    with pytest.raises(ArtifactError):
        store.open("toy", KEY)


def test_artifact_under_another_name_is_refused(tmp_path):
    store = ArtifactStore(tmp_path)
    made(store).rename(store.path("toy", "f" * 16))
    with pytest.raises(ArtifactError, match="its manifest is of toy/0123"):
        store.open("toy", "f" * 16)


def test_newer_schema_is_named(tmp_path, monkeypatch):
    path = made(ArtifactStore(tmp_path))
    monkeypatch.setattr("genrec.artifacts.SCHEMA", 2)
    with pytest.raises(ArtifactError, match="manifest schema 1, this genrec reads 2"):
        read_manifest(path)


def test_manifest_without_files_is_verified_too(tmp_path):
    write_manifest(tmp_path, Manifest(stage="s", key="k"))
    assert read_manifest(tmp_path).files == {}
    (tmp_path / "new").write_text("")
    with pytest.raises(ArtifactError, match="is not in the manifest"):
        read_manifest(tmp_path)
    assert read_manifest(tmp_path, verify_files=False).stage == "s"


def test_lock_admits_one_at_a_time(tmp_path):
    store, inside, most = ArtifactStore(tmp_path), [], []

    def work() -> None:
        with store.locked("toy", KEY):
            inside.append(os.getpid())
            most.append(len(inside))
            threading.Event().wait(0.01)
            inside.pop()

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1] * 8
