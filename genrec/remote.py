"""Artifacts at a URI: made and read in a local mirror, shared through any file system that pyarrow knows.

Object stores have no rename, so the commit is another: the files of an artifact are sent first, below a folder that is
named by the manifest's digest, and ``manifest.json`` last, as one object. Whoever finds a manifest finds the very
files that it names, even where two machines made the same artifact at once (the first to commit is kept). What is read
is fetched into the mirror, verified by the manifest's hashes, and fetched again where the mirror's copy was altered.

    <uri>/artifacts/<stage>/<key>/manifest.json
    <uri>/artifacts/<stage>/<key>/<digest>/...      the files
    <uri>/<run>/run.json, report.html, ...          copies of what people look for
    <uri>/uploads/<stage>/<key>/...                 checkpoints of a training that is under way (training.upload)
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

from pyarrow import ArrowException
from pyarrow.fs import FileSelector, FileSystem, FileType

from genrec.artifacts import MANIFEST, ArtifactStore, Manifest, parse_manifest, read_manifest, write_manifest
from genrec.errors import ArtifactError, SettingsError

logger = logging.getLogger(__name__)

ARTIFACTS, UPLOADS = "artifacts", "uploads"


class Place:
    """A folder at a URI.

    Args:
        uri: ``s3://``, ``gs://``, ``file://`` or another scheme of pyarrow; credentials come from the environment.
    """

    def __init__(self, uri: str) -> None:
        self.uri = uri.rstrip("/")

    def __reduce__(self) -> tuple[type[Place], tuple[str]]:
        return Place, (self.uri,)  # every process opens its own connection, with its own credentials

    @cached_property
    def _opened(self) -> tuple[Any, str]:
        try:
            files, root = FileSystem.from_uri(self.uri)
        except (ArrowException, OSError) as error:
            raise SettingsError(f"run.directory: {self.uri!r} cannot be opened ({error})") from error
        return files, root.rstrip("/")

    def has(self, name: str) -> bool:
        """True if there is a file of that name."""
        with self._told(name):
            files, root = self._opened
            return bool(files.get_file_info(f"{root}/{name}").type == FileType.File)

    def read(self, name: str) -> bytes | None:
        """A small file's bytes; None if there is none."""
        if not self.has(name):
            return None
        with self._told(name):
            files, root = self._opened
            with files.open_input_stream(f"{root}/{name}") as stream:
                return bytes(stream.read())

    def names(self) -> list[str]:
        """All files below, by their names."""
        with self._told(""):
            files, root = self._opened
            found = files.get_file_info(FileSelector(root, allow_not_found=True, recursive=True))
            return sorted(info.path.removeprefix(f"{root}/") for info in found if info.type == FileType.File)

    def send(self, path: Path, name: str) -> None:
        """Copy a local file there; it appears whole."""
        with self._told(name), path.open("rb") as source:
            files, root = self._opened
            place = f"{root}/{name}"
            if files.type_name == "local":  # the others make no folders, and show nothing before it is whole
                Path(place).parent.mkdir(parents=True, exist_ok=True)
                place += f".{os.getpid()}"
            with files.open_output_stream(place) as sink:
                shutil.copyfileobj(source, sink, 2**20)
            if files.type_name == "local":
                os.replace(place, f"{root}/{name}")

    def fetch(self, name: str, path: Path) -> None:
        """Copy a file from there."""
        path.parent.mkdir(parents=True, exist_ok=True)
        with self._told(name):
            files, root = self._opened
            with files.open_input_stream(f"{root}/{name}") as source, path.open("wb") as sink:
                shutil.copyfileobj(source, sink, 2**20)

    def delete(self, name: str) -> None:
        """Delete a folder, if there is one."""
        with self._told(name):
            files, root = self._opened
            if files.get_file_info(f"{root}/{name}").type != FileType.NotFound:
                files.delete_dir(f"{root}/{name}")

    @contextmanager
    def _told(self, name: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise ArtifactError(f"{self.uri}/{name}: {first}") from error


class RemoteStore(ArtifactStore):
    """Artifacts below a URI, through a local mirror.

    Locks are of one machine: two machines may make the same artifact at once, and the first to commit is kept.

    Args:
        uri: of ``run.directory``.
        mirror: local folder for what is made and fetched; everything in it may be deleted while nothing runs.
    """

    shared = False

    def __init__(self, uri: str, mirror: Path) -> None:
        super().__init__(mirror / ARTIFACTS)
        self.place = Place(uri)
        self.uploads = f"{self.place.uri}/{UPLOADS}"

    def __reduce__(self) -> tuple[type[RemoteStore], tuple[str, Path]]:
        return RemoteStore, (self.place.uri, self.root.parent)

    def has(self, stage: str, key: str) -> bool:
        """True if the artifact is finished (its manifest is the commit)."""
        return self.place.has(self._manifest(stage, key))

    def manifest(self, stage: str, key: str) -> Manifest:
        """See :meth:`ArtifactStore.manifest`."""
        return parse_manifest(self._raw(stage, key), f"{self.place.uri}/{self._manifest(stage, key)}")

    def open(self, stage: str, key: str) -> tuple[Path, Manifest]:
        """See :meth:`ArtifactStore.open`; fetched if the mirror has no true copy."""
        raw = self._raw(stage, key)
        folder = self.root / stage
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / f".{key}.fetch.lock").open("w") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX)
            if not self._mirrored(stage, key, raw):
                self._fetch(stage, key, raw)
        return super().open(stage, key)

    def commit(self, manifest: Manifest) -> Path:
        """Finish the artifact: files, then its manifest, then the mirror's copy."""
        stage, key = manifest.stage, manifest.key
        work, final = self.work_path(stage, key), self.path(stage, key)
        write_manifest(work, manifest)
        if self.has(stage, key):
            logger.info("%s %s: another machine was first; its artifact is kept", stage, key)
            shutil.rmtree(work)
        else:
            self._send(work, stage, key)
            shutil.rmtree(final, ignore_errors=True)
            os.rename(work, final)
        self.open(stage, key)
        self.tidy(stage, key)
        return final

    def tidy(self, stage: str, key: str) -> None:
        """Remove what a finished artifact was made with, here and there."""
        if self.scratch_path(stage, key).exists():
            self.place.delete(f"{UPLOADS}/{stage}/{key}")
        super().tidy(stage, key)

    def share(self, path: Path) -> None:
        """See :meth:`ArtifactStore.share`."""
        self.place.send(path, path.absolute().relative_to(self.root.parent.absolute()).as_posix())

    def record(self, name: str) -> bytes | None:
        """See :meth:`ArtifactStore.record`."""
        return self.place.read(name)

    def where(self, path: Path) -> str:
        """See :meth:`ArtifactStore.where`."""
        return f"{self.place.uri}/{path.absolute().relative_to(self.root.parent.absolute()).as_posix()}"

    def place_of(self, path: Path) -> Place:
        """See :meth:`ArtifactStore.place_of`."""
        return Place(self.where(path))

    @staticmethod
    def _manifest(stage: str, key: str) -> str:
        return f"{ARTIFACTS}/{stage}/{key}/{MANIFEST}"

    def _raw(self, stage: str, key: str) -> bytes:
        raw = self.place.read(self._manifest(stage, key))
        if raw is None:
            raise ArtifactError(f"{self.place.uri}/{ARTIFACTS}/{stage}/{key}: not there; run {stage} again")
        return raw

    def _mirrored(self, stage: str, key: str, raw: bytes) -> bool:
        path = self.path(stage, key)
        try:
            read_manifest(path)
        except ArtifactError:
            return False
        return (path / MANIFEST).read_bytes() == raw

    def _send(self, work: Path, stage: str, key: str) -> None:
        folder = f"{ARTIFACTS}/{stage}/{key}"
        files = f"{folder}/{_digest((work / MANIFEST).read_bytes())}"
        for name in read_manifest(work, verify_files=False).files:
            self.place.send(work / name, f"{files}/{name}")
        self.place.send(work / MANIFEST, f"{folder}/{MANIFEST}")

    def _fetch(self, stage: str, key: str, raw: bytes) -> None:
        """Bring it into the mirror; nothing of it is there before all of it is."""
        folder = f"{ARTIFACTS}/{stage}/{key}"
        final = self.path(stage, key)
        fresh = final.with_name(f".{key}.fetched")
        shutil.rmtree(fresh, ignore_errors=True)
        for name in parse_manifest(raw, f"{self.place.uri}/{folder}/{MANIFEST}").files:
            if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
                raise ArtifactError(f"{self.place.uri}/{folder}: its manifest names {name!r}, outside the artifact")
            self.place.fetch(f"{folder}/{_digest(raw)}/{name}", fresh / name)
        fresh.mkdir(parents=True, exist_ok=True)
        (fresh / MANIFEST).write_bytes(raw)
        try:
            read_manifest(fresh)
        except ArtifactError as error:
            raise ArtifactError(
                f"{self.place.uri}/{folder}: its files differ from its manifest ({error}); delete it there and run "
                f"{stage} again"
            ) from error
        shutil.rmtree(final, ignore_errors=True)
        os.rename(fresh, final)


def _digest(raw: bytes) -> str:
    return hashlib.sha256(raw).hexdigest()[:16]
