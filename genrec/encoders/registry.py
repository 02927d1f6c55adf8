"""Encoders by their name in the settings, and reading a saved one back."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from genrec.config.sections import EncoderSettings
from genrec.encoders import minilm, tfidf
from genrec.encoders.minilm import MiniLMEncoder
from genrec.encoders.protocol import TextEncoder
from genrec.encoders.tfidf import TfidfSvdEncoder
from genrec.errors import ArtifactError


def fit_encoder(texts: Sequence[str], settings: EncoderSettings) -> TextEncoder:
    """The encoder that the settings name; tfidf-svd is fitted on ``texts``, minilm is frozen already."""
    if settings.text == "tfidf-svd":
        return TfidfSvdEncoder.fit(texts, dimension=settings.dimension)
    return MiniLMEncoder(settings.path, max_tokens=settings.max_tokens, batch_size=settings.batch_size)


def save_encoder(encoder: TextEncoder, directory: Path) -> None:
    """Write the encoder's state into ``directory`` (made if absent)."""
    directory.mkdir(parents=True, exist_ok=True)
    encoder.save(directory)


def load_encoder(directory: Path) -> TextEncoder:
    """Read the encoder whose state lies in ``directory``.

    Raises:
        ArtifactError: none lies there.
    """
    if (directory / minilm.STATE).is_file():
        return MiniLMEncoder.load(directory)
    if (directory / tfidf.WEIGHTS).is_file():
        return TfidfSvdEncoder.load(directory)
    raise ArtifactError(f"{directory}: holds no encoder ({minilm.STATE} or {tfidf.WEIGHTS}). Run `tokenize` again.")
