"""The npm packages the drawings and words come from: fetched by ``npm pack``, or found as ready tarballs.

Nothing is installed and no package's code is run: a tarball is read member by member.
"""

from __future__ import annotations

import logging
import shutil
import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path

from genrec.errors import DataError

logger = logging.getLogger(__name__)
LARGEST_MEMBER = 64 * 1024 * 1024


@dataclass(frozen=True)
class Package:
    """An npm package at one version, and what its pictures may be used for."""

    name: str
    version: str
    licence: str
    holder: str
    source: str

    @property
    def tarball(self) -> str:
        """File name that ``npm pack`` gives it."""
        return f"{self.name.lstrip('@').replace('/', '-')}-{self.version}.tgz"


TWITTER = Package(
    "emoji-datasource-twitter",
    "16.0.0",
    "CC-BY-4.0 (graphics), MIT (package)",
    "Twitter, Inc. and other contributors; Twemoji",
    "https://github.com/jdecked/twemoji",
)
GOOGLE = Package(
    "emoji-datasource-google",
    "16.0.0",
    "Apache-2.0 (graphics), MIT (package)",
    "Google LLC; Noto Emoji",
    "https://github.com/googlefonts/noto-emoji",
)
FLUENT_3D = Package(
    "@lobehub/fluent-emoji-3d",
    "1.1.0",
    "MIT",
    "Microsoft Corporation; Fluent Emoji",
    "https://github.com/microsoft/fluentui-emoji",
)
FLUENT_FLAT = Package(
    "@iconify-json/fluent-emoji-flat",
    "1.2.6",
    "MIT",
    "Microsoft Corporation; Fluent Emoji",
    "https://github.com/microsoft/fluentui-emoji",
)
KEYWORDS = Package("emojilib", "4.0.3", "MIT", "Mu-An Chiou and contributors", "https://github.com/muan/emojilib")
PACKAGES = (TWITTER, GOOGLE, FLUENT_3D, FLUENT_FLAT, KEYWORDS)


def fetch(directory: Path) -> None:
    """Put every tarball that ``directory`` lacks there by ``npm pack``.

    Raises:
        DataError: a tarball is missing and npm is not installed, or npm cannot get it.
    """
    missing = [package for package in PACKAGES if not (directory / package.tarball).is_file()]
    if not missing:
        return
    names = ", ".join(f"{package.name}@{package.version}" for package in missing)
    npm = shutil.which("npm")
    if npm is None:
        raise DataError(
            f"--packages {directory}: lacks {', '.join(p.tarball for p in missing)} and npm is not installed; install "
            f"npm, or run `npm pack {names.replace(',', '')}` elsewhere and put the tarballs there"
        )
    directory.mkdir(parents=True, exist_ok=True)
    for package in missing:
        logger.info("npm pack %s@%s", package.name, package.version)
        done = subprocess.run(
            [npm, "pack", "--silent", f"{package.name}@{package.version}"],
            cwd=directory,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode or not (directory / package.tarball).is_file():
            said = done.stderr.strip().splitlines()[-1:] or ["nothing was said"]
            raise DataError(f"npm pack {package.name}@{package.version} failed: {said[0]}; put {package.tarball} there")


def members(directory: Path, package: Package, prefix: str) -> dict[str, bytes]:
    """The files of a package below ``prefix``, by the rest of their name.

    Raises:
        DataError: the tarball is missing, broken, or holds an implausibly large file.
    """
    path = directory / package.tarball
    if not path.is_file():
        raise DataError(f"--packages {directory}: {package.tarball} is missing; run `npm pack {package.name}` there")
    begin = f"package/{prefix}"
    found: dict[str, bytes] = {}
    try:
        with tarfile.open(path, "r:gz") as archive:
            for member in archive:
                if not (member.isfile() and member.name.startswith(begin)):
                    continue
                if member.size > LARGEST_MEMBER:
                    raise DataError(f"{path}: {member.name} has {member.size} bytes; this is not {package.name}")
                stream = archive.extractfile(member)
                assert stream is not None, "a regular file has a stream"
                found[member.name[len(begin) :]] = stream.read()
    except (tarfile.TarError, EOFError, OSError) as error:
        raise DataError(f"{path}: not a readable npm tarball ({error}); fetch it again") from error
    if not found:
        raise DataError(f"{path}: holds nothing below {prefix}; this genrec reads {package.name}@{package.version}")
    return found
