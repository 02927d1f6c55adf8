"""Artifacts: what a stage leaves behind, addressed by what it was made from.

An artifact is a directory ``<store>/<stage>/<key>/`` holding files and a ``manifest.json``. The key is
a hash of the stage's settings and of the keys of its inputs, so a finished artifact is up to date by
its very name, runs with equal settings share it, and a sweep never repeats a common stage.

Files are written in a hidden working directory, the manifest last, then one atomic rename. The
manifest is canonical JSON that carries its own digest and the SHA-256 of every file, so a reader
finds any altered byte. A killed stage leaves only its working directory, which the next attempt empties,
and, if it is resumable, a scratch directory with its checkpoints, which outlives the attempt and goes
only after the commit.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import platform
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genrec import __version__
from genrec.errors import ArtifactError

if TYPE_CHECKING:
    from genrec.remote import Place

MANIFEST = "manifest.json"
SCHEMA = 1


def canonical_json(value: Any) -> bytes:
    """Serialise ``value`` so that equal values give equal bytes."""
    return (json.dumps(value, sort_keys=True, indent=1, ensure_ascii=False) + "\n").encode()


def digest(value: Any) -> str:
    """SHA-256 (hex) of the canonical JSON of ``value``."""
    return hashlib.sha256(canonical_json(value)).hexdigest()


def file_digest(path: Path) -> str:
    """SHA-256 (hex) of a file's bytes, read in blocks."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@dataclass(frozen=True)
class Manifest:
    """What an artifact says of itself.

    Attributes:
        stage: name of the stage that made it.
        key: its address in the store.
        inputs: input name -> key of the artifact (or digest of the raw file) it was made from.
        settings: the part of the settings that the stage depends on.
        files: relative path -> {"sha256", "bytes"}.
        metrics: what the stage measured of its own work (counts, losses, seconds).
        sid_version: version of the SidTable it holds or was made with; None before tokenize.
        versions: versions of genrec and Python that wrote it.
    """

    stage: str
    key: str
    inputs: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    files: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    metrics: Mapping[str, Any] = field(default_factory=dict)
    sid_version: str | None = None
    versions: Mapping[str, str] = field(default_factory=dict)

    def body(self) -> dict[str, Any]:
        """The manifest as plain JSON values, without its digest."""
        return {"schema": SCHEMA, **{name: _plain(getattr(self, name)) for name in self.__annotations__}}


def _plain(value: Any) -> Any:
    return {k: _plain(v) for k, v in value.items()} if isinstance(value, Mapping) else value


def _files_below(directory: Path) -> list[Path]:
    # Only the artifact's own manifest is left out: a manifest.json in a folder below is a file like any other.
    return sorted(p for p in directory.rglob("*") if p.is_file() and p != directory / MANIFEST)


def write_manifest(directory: Path, manifest: Manifest) -> Manifest:
    """Hash every file below ``directory`` and write its manifest, last and durably."""
    files = {
        p.relative_to(directory).as_posix(): {"sha256": file_digest(p), "bytes": p.stat().st_size}
        for p in _files_below(directory)
    }
    complete = Manifest(
        **{
            **{name: getattr(manifest, name) for name in Manifest.__annotations__},
            "files": files,
            "versions": {"genrec": __version__, "python": platform.python_version()},
        }
    )
    body = complete.body()
    path = directory / MANIFEST
    with path.open("wb") as stream:
        stream.write(canonical_json({**body, "digest": digest(body)}))
        stream.flush()
        os.fsync(stream.fileno())
    return complete


def read_manifest(directory: Path, *, verify_files: bool = True) -> Manifest:
    """Read and verify the manifest of an artifact directory.

    Args:
        directory: the artifact.
        verify_files: also hash every file (leave on for everything that will be loaded).

    Raises:
        ArtifactError: no manifest, an altered manifest, or a missing, altered or unlisted file.
    """
    path = directory / MANIFEST
    if not path.is_file():
        raise ArtifactError(f"{directory}: no {MANIFEST}; the artifact was never finished. Run its stage again.")
    manifest = parse_manifest(path.read_bytes(), str(path))
    if verify_files:
        _verify_files(directory, manifest)
    return manifest


def parse_manifest(raw: bytes, path: str) -> Manifest:
    """The manifest in a file's bytes, its own digest verified.

    Args:
        raw: the file.
        path: where it is, for errors.

    Raises:
        ArtifactError: it is none, or was altered.
    """
    try:
        loaded = json.loads(raw)
        claimed = loaded.pop("digest")
        schema = loaded.pop("schema")
        manifest = Manifest(**loaded)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ArtifactError(f"{path}: not a genrec manifest ({error}). Delete the directory and run again.") from error
    if schema != SCHEMA:
        raise ArtifactError(f"{path}: manifest schema {schema}, this genrec reads {SCHEMA}. Run its stage again.")
    body = manifest.body()
    if digest(body) != claimed or canonical_json({**body, "digest": claimed}) != raw:
        raise ArtifactError(f"{path}: the manifest was altered. Delete the directory and run its stage again.")
    return manifest


def _verify_files(directory: Path, manifest: Manifest) -> None:
    present = {p.relative_to(directory).as_posix() for p in _files_below(directory)}
    for name in sorted(present ^ set(manifest.files)):
        state = "is missing" if name in manifest.files else "is not in the manifest"
        raise ArtifactError(f"{directory / name}: {state}. Delete the directory and run its stage again.")
    for name, entry in manifest.files.items():
        if file_digest(directory / name) != entry["sha256"]:
            raise ArtifactError(
                f"{directory / name}: its bytes differ from the manifest. Delete the directory and run its stage again."
            )


class ArtifactStore:
    """Artifacts below one directory, by stage and key; the runs' folders lie beside it.

    Attributes:
        root: local folder of the artifacts.
        shared: every node reads what another wrote at the same path.
        uploads: URI to which trainings copy their checkpoints; None: their folder is safe enough.
    """

    shared = True
    uploads: str | None = None

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)

    @staticmethod
    def key(stage: str, settings: Mapping[str, Any], inputs: Mapping[str, str]) -> str:
        """The address (16 hex digits) of what ``stage`` makes from these settings and inputs."""
        return digest({"stage": stage, "schema": SCHEMA, "settings": settings, "inputs": dict(inputs)})[:16]

    def path(self, stage: str, key: str) -> Path:
        """Where that artifact is or would be."""
        return self.root / stage / key

    def work_path(self, stage: str, key: str) -> Path:
        """Where that artifact is made."""
        return self.root / stage / f".{key}.partial"

    def scratch_path(self, stage: str, key: str) -> Path:
        """Where a resumable stage keeps what its next attempt continues from; never part of the artifact."""
        return self.root / stage / f".{key}.scratch"

    def has(self, stage: str, key: str) -> bool:
        """True if the artifact is finished (the rename is the commit)."""
        return (self.path(stage, key) / MANIFEST).is_file()

    def open(self, stage: str, key: str) -> tuple[Path, Manifest]:
        """Path and manifest of a finished artifact, every file verified.

        Raises:
            ArtifactError: absent, incomplete or altered.
        """
        path = self.path(stage, key)
        manifest = read_manifest(path)
        if (manifest.stage, manifest.key) != (stage, key):
            raise ArtifactError(f"{path}: its manifest is of {manifest.stage}/{manifest.key}. Run {stage} again.")
        return path, manifest

    def manifest(self, stage: str, key: str) -> Manifest:
        """Manifest of a finished artifact, its files not looked at.

        Raises:
            ArtifactError: absent or altered.
        """
        return read_manifest(self.path(stage, key), verify_files=False)

    def share(self, path: Path) -> None:
        """Let others see a file beside the artifacts; in a directory they do."""

    def record(self, name: str) -> bytes | None:
        """A small file beside the artifacts, as others see it; None if there is none."""
        path = self.root.parent / name
        return path.read_bytes() if path.is_file() else None

    def where(self, path: Path) -> str:
        """How people call a place below the runs' directory."""
        return str(path)

    def place_of(self, path: Path) -> Place | None:
        """Where other nodes find a folder beside the artifacts; None: at the same path."""
        return None

    @contextmanager
    def locked(self, stage: str, key: str) -> Iterator[None]:
        """Hold the artifact's lock, so that two processes never make the same one at once."""
        folder = self.root / stage
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / f".{key}.lock").open("w") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX)
            yield

    def begin(self, stage: str, key: str) -> Path:
        """The emptied working directory for that artifact."""
        work = self.work_path(stage, key)
        if work.exists():
            shutil.rmtree(work)
        work.mkdir(parents=True)
        return work

    def commit(self, manifest: Manifest) -> Path:
        """Finish the artifact in its working directory: manifest, fsync, one rename."""
        work, final = self.work_path(manifest.stage, manifest.key), self.path(manifest.stage, manifest.key)
        write_manifest(work, manifest)
        for path in _files_below(work):
            fsync(path)
        fsync(work)
        if final.exists():
            shutil.rmtree(final)
        os.rename(work, final)
        fsync(final.parent)
        self.tidy(manifest.stage, manifest.key)
        return final

    def tidy(self, stage: str, key: str) -> None:
        """Remove the scratch directory of a finished artifact (a kill may have come between commit and this)."""
        scratch = self.scratch_path(stage, key)
        if scratch.exists():
            shutil.rmtree(scratch)


def is_uri(directory: str | Path) -> bool:
    """True if it names no directory of this machine."""
    return "://" in str(directory)


def local_root(directory: str | Path, mirror: str | None = None) -> Path:
    """The runs' directory itself, or the folder of this machine that mirrors a URI.

    Args:
        directory: ``run.directory``.
        mirror: ``run.mirror``; None: ``~/.cache/genrec``.
    """
    if not is_uri(directory):
        return Path(directory)
    uri = str(directory).rstrip("/")
    return Path(mirror or "~/.cache/genrec").expanduser() / hashlib.sha256(uri.encode()).hexdigest()[:16]


def store_at(directory: str | Path, mirror: str | None = None) -> ArtifactStore:
    """The artifacts of a runs' directory; arguments as for :func:`local_root`."""
    root = local_root(directory, mirror)
    if not is_uri(directory):
        return ArtifactStore(root / "artifacts")
    from genrec.remote import RemoteStore  # pyarrow only where it is needed

    return RemoteStore(str(directory), root)


def fsync(path: Path) -> None:
    """Make a file or a directory's entries durable."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
