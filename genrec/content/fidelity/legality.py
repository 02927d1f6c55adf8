"""Legality: nothing protected is copied, every ingredient may be used, no brand or character is shown.

A near-duplicate of a protected picture is found by perceptual hash, also mirrored, and by the encoder's vectors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from genrec.config.content import FidelitySettings
from genrec.content.contracts import FloatArray, ImageTextEncoder, Verdict
from genrec.content.fidelity.context import Subject
from genrec.content.fidelity.text import plain, readings, squeezed
from genrec.errors import SettingsError

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".gif")
HASH_SIZE = 8


@dataclass(frozen=True, eq=False)
class ProtectedPictures:
    """Pictures that nothing made may come near.

    Attributes:
        hashes_NB: bool [N, 64], perceptual hashes.
        vectors_ND: float32 [N, D], the encoder's; empty without one.
        names: of the pictures, for evidence.
    """

    hashes_NB: np.ndarray[Any, np.dtype[np.bool_]]
    vectors_ND: FloatArray
    names: tuple[str, ...]

    @classmethod
    def of(
        cls, pictures: Sequence[Image.Image], names: Sequence[str], encoder: ImageTextEncoder | None
    ) -> ProtectedPictures:
        """Hash and encode."""
        hashes = np.stack([perceptual_hash(picture) for picture in pictures]) if pictures else np.zeros((0, 64), bool)
        vectors = encoder.images(pictures) if encoder is not None and pictures else np.zeros((0, 0), np.float32)
        return cls(hashes, vectors, tuple(names))

    @classmethod
    def load(cls, directory: Path | None, encoder: ImageTextEncoder | None) -> ProtectedPictures:
        """All pictures below a directory.

        Raises:
            SettingsError: no such directory, or a file in it is no picture.
        """
        if directory is None:
            return cls.of([], [], encoder)
        if not directory.is_dir():
            raise SettingsError(f"content.fidelity.protected: no directory {str(directory)!r}")
        pictures, names = [], []
        for path in sorted(directory.rglob("*")):
            if path.suffix.lower() not in SUFFIXES:
                continue
            try:
                with Image.open(path) as picture:
                    pictures.append(picture.convert("RGB"))
            except OSError as error:
                raise SettingsError(f"content.fidelity.protected: {path.name} is no picture ({error})") from error
            names.append(path.relative_to(directory).as_posix())
        return cls.of(pictures, names, encoder)

    def nearest(self, picture: Image.Image, encoder: ImageTextEncoder | None) -> tuple[int, float, str]:
        """Least bits apart, greatest cosine, name of the nearest; 64, -1 and nothing where none is protected."""
        if not self.names:
            return 64, -1.0, ""
        mirrored = ImageOps.mirror(picture.convert("RGB"))
        apart_2N = np.stack([(self.hashes_NB != perceptual_hash(seen)).sum(axis=1) for seen in (picture, mirrored)])
        bits_N = apart_2N.min(axis=0)
        nearest, cosine = int(bits_N.argmin()), -1.0
        if encoder is not None and len(self.vectors_ND):
            likeness_N = (encoder.images([picture, mirrored]) @ self.vectors_ND.T).max(axis=0)
            cosine = float(likeness_N.max())
            if bits_N[nearest] > 12:
                nearest = int(likeness_N.argmax())
        return int(bits_N.min()), cosine, self.names[nearest]


def perceptual_hash(picture: Image.Image) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """bool [64], the signs of the picture's low frequencies against their median (ImageHash's phash)."""
    import imagehash

    bits: np.ndarray[Any, np.dtype[np.bool_]] = imagehash.phash(picture.convert("RGB"), hash_size=HASH_SIZE).hash
    return bits.reshape(-1)


@dataclass(eq=False)
class Legality:
    """The check.

    Attributes:
        settings: names, licences, thresholds.
        encoder: of pictures; None: hashes alone.
        protected: what must not be imitated.
    """

    settings: FidelitySettings
    encoder: ImageTextEncoder | None
    protected: ProtectedPictures
    name: str = "legality"

    @classmethod
    def load(cls, settings: FidelitySettings, encoder: ImageTextEncoder | None) -> Legality:
        """With the pictures of ``settings.protected``."""
        directory = None if settings.protected is None else Path(settings.protected)
        return cls(settings, encoder, ProtectedPictures.load(directory, encoder))

    @cached_property
    def _denied(self) -> list[tuple[str, str, str]]:
        return [(name, plain(name), squeezed(name)) for name in self.settings.denied_names]

    def __call__(self, subject: Subject) -> Verdict:
        """Names, then licences, then pictures."""
        name = self.denied_name(subject.words)
        if name:
            return self._failed(1.0, f"names {name}, which is on the list of denied brands and characters")
        draft = subject.draft
        if draft is None:
            return Verdict(check=self.name, passed=True, score=0.0, evidence="no denied name")
        licences = {part.digest: part.licence for part in subject.context.ingredients}
        refused = [digest for digest in draft.ingredients if licences.get(digest, "") not in self.settings.licences]
        if refused:
            return self._failed(float(len(refused)), f"{len(refused)} ingredients without a licence to change them")
        bits, cosine = 64, -1.0
        for frame in (draft.frames[0], draft.frames[-1]) if draft.frames else ():
            frame_bits, frame_cosine, near = self.protected.nearest(frame, self.encoder)
            bits, cosine = min(bits, frame_bits), max(cosine, frame_cosine)
            if bits < self.settings.near_duplicate_bits or cosine >= self.settings.near_duplicate_cosine:
                return self._failed(float(bits), f"near-duplicate of {near} ({bits} of 64 bits, cosine {cosine:.3f})")
        evidence = f"no denied name, licences in order, {bits} bits and cosine {cosine:.2f} from the nearest protected"
        return Verdict(check=self.name, passed=True, score=float(bits), evidence=evidence)

    def denied_name(self, words: str) -> str:
        """The first denied name in the words, however it is spelt; empty: none."""
        spelt = readings(words)
        tokens = [token for text in spelt for token in text.split(" ")]
        joined = {squeezed("".join(tokens[i : i + n])) for n in (1, 2, 3) for i in range(len(tokens) - n + 1)}
        for name, lower, letters in self._denied:
            if any(_holds(text, lower) for text in spelt) or (len(letters) > 4 and letters in joined):
                return name
        return ""

    def _failed(self, score: float, evidence: str) -> Verdict:
        return Verdict(check=self.name, passed=False, score=score, evidence=evidence)


def _holds(text: str, name: str) -> bool:
    begin = text.find(name)
    while begin >= 0:
        before = text[begin - 1] if begin else " "
        after = text[begin + len(name)] if begin + len(name) < len(text) else " "
        if not before.isalnum() and (not after.isalnum() or text[begin + len(name) :].startswith("s ")):
            return True
        begin = text.find(name, begin + 1)
    return False
