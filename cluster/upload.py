"""What a job's upload would hold, looked at before anything is sent.

Ray packs the working directory, less what .gitignore and .rayignore files name, and a head refuses
packages that its control plane cannot hold. Told only then, it costs the whole upload and names no file.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from ray._private.ray_constants import RAY_RUNTIME_ENV_IGNORE_GITIGNORE

# Ray's own reading of the two files; another reading of their patterns would sooner or later differ from it.
from ray._private.runtime_env.packaging import get_excludes_from_ignore_files

from cluster.errors import ClusterError

MAX_MIB = 100
_NAMED_FILES = 5


def check_upload(directory: Path) -> int:
    """Refuse what is too large, or is no checkout.

    Args:
        directory: of ``cluster.job.working_dir``.

    Returns:
        Bytes to be uploaded, before they are compressed.

    Raises:
        ClusterError: naming the largest files.
    """
    if not (directory / "genrec" / "__init__.py").is_file():
        raise ClusterError(
            f"cluster.job.working_dir: {directory} holds no genrec/; run this in a checkout, or name one"
        )
    sizes = [(path.stat().st_size, path.relative_to(directory).as_posix()) for path in uploaded_files(directory)]
    total = sum(size for size, _ in sizes)
    if total >= MAX_MIB * 2**20:
        largest = sorted(sizes, reverse=True)[:_NAMED_FILES]
        told = ", ".join(f"{name} ({_mib(size)})" for size, name in largest)
        raise ClusterError(
            f"the upload of {directory} is too large: {_mib(total)} of at most {MAX_MIB} MiB; "
            f"name in .rayignore what the job does not need; the largest files: {told}"
        )
    return total


def uploaded_files(directory: Path) -> Iterator[Path]:
    """The files that Ray would pack: an ignored folder is not entered, a linked one is."""
    return _unignored(directory, [], with_gitignore=os.environ.get(RAY_RUNTIME_ENV_IGNORE_GITIGNORE, "0") != "1")


def _unignored(path: Path, ignored: Sequence[Callable[[Path], bool]], *, with_gitignore: bool) -> Iterator[Path]:
    folder = path.is_dir()
    if folder:  # its own files speak of it and of what is below
        ignored = [*ignored, *get_excludes_from_ignore_files(path, include_gitignore=with_gitignore)]
    if any(match(path) for match in ignored):
        return
    if folder:
        for below in sorted(path.iterdir()):
            yield from _unignored(below, ignored, with_gitignore=with_gitignore)
    elif path.is_file():
        yield path


def _mib(size: int) -> str:
    return f"{size / 2**20:.1f} MiB"
