"""Artifacts at a URI: the commit is the manifest, readers trust nothing but its hashes; here over ``file://``."""

from __future__ import annotations

import json
import pickle
import shutil

import pytest

from genrec.artifacts import MANIFEST, ArtifactStore, Manifest, is_uri, local_root, store_at
from genrec.errors import ArtifactError, SettingsError
from genrec.remote import Place, RemoteStore

STAGE, KEY = "toy", "0123456789abcdef"


@pytest.fixture
def uri(tmp_path) -> str:
    (tmp_path / "there").mkdir()
    return (tmp_path / "there" / "runs").as_uri()


def on(uri: str, tmp_path, machine: str) -> RemoteStore:
    store = store_at(uri, str(tmp_path / machine))
    assert isinstance(store, RemoteStore)
    return store


def begin(store: ArtifactStore, text: str = "one") -> Manifest:
    work = store.begin(STAGE, KEY)
    (work / "folder").mkdir()
    (work / "folder" / "file.txt").write_text(text)
    return Manifest(stage=STAGE, key=KEY)


def test_another_machine_reads_what_was_committed(uri, tmp_path):
    here, there = on(uri, tmp_path, "a"), on(uri, tmp_path, "b")
    assert not there.has(STAGE, KEY)
    path = here.commit(begin(here))
    assert path == here.path(STAGE, KEY)
    assert there.has(STAGE, KEY)
    assert there.manifest(STAGE, KEY) == here.manifest(STAGE, KEY)
    fetched, manifest = there.open(STAGE, KEY)
    assert fetched != path
    assert (fetched / "folder" / "file.txt").read_text() == "one"
    assert manifest.key == KEY


def test_nothing_is_there_before_its_manifest_is(uri, tmp_path, monkeypatch):
    """A machine that dies while it sends leaves no artifact; the next one makes it anew."""
    here, there = on(uri, tmp_path, "a"), on(uri, tmp_path, "b")
    send = Place.send

    def dies_at_the_manifest(self, path, name):
        if name.endswith(MANIFEST):
            raise KeyboardInterrupt
        send(self, path, name)

    manifest = begin(here)
    with monkeypatch.context() as patch:
        patch.setattr(Place, "send", dies_at_the_manifest)
        with pytest.raises(KeyboardInterrupt):
            here.commit(manifest)
    for store in (here, there):
        assert not store.has(STAGE, KEY)
        with pytest.raises(ArtifactError, match="not there; run toy again"):
            store.open(STAGE, KEY)
    there.commit(begin(there, "two"))
    assert (here.open(STAGE, KEY)[0] / "folder" / "file.txt").read_text() == "two"


def test_the_first_of_two_makers_is_kept_by_both(uri, tmp_path):
    here, there = on(uri, tmp_path, "a"), on(uri, tmp_path, "b")
    mine, theirs = begin(here, "first"), begin(there, "second")
    here.commit(mine)
    there.commit(theirs)
    assert {(store.open(STAGE, KEY)[0] / "folder" / "file.txt").read_text() for store in (here, there)} == {"first"}


def test_an_altered_copy_is_fetched_again_and_an_altered_original_refused(uri, tmp_path):
    here, there = on(uri, tmp_path, "a"), on(uri, tmp_path, "b")
    here.commit(begin(here))
    path, _ = there.open(STAGE, KEY)
    (path / "folder" / "file.txt").write_text("altered")
    assert (there.open(STAGE, KEY)[0] / "folder" / "file.txt").read_text() == "one"
    shutil.rmtree(there.root)
    (original,) = (tmp_path / "there").rglob("file.txt")
    original.write_text("eno")
    with pytest.raises(ArtifactError, match="differ from its manifest"):
        there.open(STAGE, KEY)
    assert not there.path(STAGE, KEY).exists()
    manifest = tmp_path / "there" / "runs" / "artifacts" / STAGE / KEY / MANIFEST
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "stage": "other"}))
    with pytest.raises(ArtifactError, match="altered"):
        there.open(STAGE, KEY)


def test_a_manifest_cannot_write_outside_its_artifact(uri, tmp_path):
    here, there = on(uri, tmp_path, "a"), on(uri, tmp_path, "b")
    here.commit(begin(here))
    from genrec.artifacts import canonical_json, digest

    manifest = tmp_path / "there" / "runs" / "artifacts" / STAGE / KEY / MANIFEST
    body = json.loads(manifest.read_text())
    body.pop("digest")
    body["files"] = {"../../../escaped": {"sha256": "0" * 64, "bytes": 1}}
    manifest.write_bytes(canonical_json({**body, "digest": digest(body)}))
    with pytest.raises(ArtifactError, match="outside the artifact"):
        there.open(STAGE, KEY)


def test_small_files_beside_the_artifacts(uri, tmp_path):
    here, there = on(uri, tmp_path, "a"), on(uri, tmp_path, "b")
    assert there.record("demo/run.json") is None
    run = here.root.parent / "demo"
    run.mkdir(parents=True)
    (run / "run.json").write_text("{}")
    here.share(run / "run.json")
    assert there.record("demo/run.json") == b"{}"
    assert here.where(run / "run.json") == f"{uri}/demo/run.json"


def test_a_store_travels_to_other_processes_without_its_connection(uri, tmp_path):
    here = on(uri, tmp_path, "a")
    here.commit(begin(here))
    other = pickle.loads(pickle.dumps(here))
    assert (other.root, other.place.uri, other.uploads) == (here.root, here.place.uri, f"{uri}/uploads")
    assert other.has(STAGE, KEY)


def test_directories_are_as_they_were(tmp_path):
    store = store_at(tmp_path / "runs")
    assert type(store) is ArtifactStore
    assert store.root == tmp_path / "runs" / "artifacts"
    assert (store.shared, store.uploads) == (True, None)
    assert store.where(tmp_path / "x") == str(tmp_path / "x")
    assert not is_uri(tmp_path)
    assert local_root("s3://bucket/runs/", "/m") == local_root("s3://bucket/runs", "/m") != local_root("s3://b/r", "/m")


def test_a_uri_that_nobody_knows_is_told(tmp_path):
    with pytest.raises(SettingsError, match=r"run\.directory: 'nowhere://x'"):
        store_at("nowhere://x", str(tmp_path)).has(STAGE, KEY)
