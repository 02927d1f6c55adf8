"""From item embeddings to a saved tokenizer: quantizer, unique IDs, SidTable; and IDs for new items.

The codebook is frozen once fitted. Items that come later, or that were held out of the fit on purpose,
are encoded with it and take free places: no old ID ever changes.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from genrec.config.sections import TokenizerSettings
from genrec.errors import ArtifactError, DataError
from genrec.tokenizer.letter import LetterQuantizer
from genrec.tokenizer.metrics import code_metrics, reconstruction_error, similarity_by_depth
from genrec.tokenizer.published import PublishedCodes, read_published
from genrec.tokenizer.quantizer import CHUNK, Codes, FloatRows, Quantizer, quantizer_meta
from genrec.tokenizer.random_codes import RandomCodes
from genrec.tokenizer.residual_kmeans import ResidualKMeans
from genrec.tokenizer.rqvae import RQVAE
from genrec.tokenizer.sid_table import SidTable
from genrec.tokenizer.unique import collision_capacity, place, with_collision_code

log = logging.getLogger(__name__)


def make_quantizer(settings: TokenizerSettings) -> Quantizer:
    """The unfitted quantizer that the settings name."""
    sizes, seed = settings.level_sizes, settings.seed
    if settings.kind == "random":
        return RandomCodes(sizes, seed=seed)
    if settings.kind == "published":
        return PublishedCodes(sizes)
    if settings.kind == "residual-kmeans":
        return ResidualKMeans(sizes, latent=settings.latent, iterations=settings.kmeans_iterations, seed=seed)
    names = ("hidden", "latent", "commitment", "epochs", "batch_size", "learning_rate", "sinkhorn", "kmeans_iterations")
    options: dict[str, Any] = {name: getattr(settings, name) for name in names}
    if settings.kind == "letter":
        own = {name: getattr(settings, name) for name in ("alignment", "diversity", "clusters")}
        return LetterQuantizer(sizes, **own, **options, seed=seed)
    return RQVAE(sizes, **options, seed=seed)


def fit_tokenizer(
    embeddings_NE: FloatRows,
    settings: TokenizerSettings,
    out: Path,
    *,
    item_ids: Sequence[str] | None = None,
    exclude_NM: NDArray[Any] | None = None,
    collaborative_NC: FloatRows | None = None,
    name: str = "text",
) -> tuple[SidTable, dict[str, Any]]:
    """Fit a quantizer, give every item a unique ID, save both.

    Args:
        embeddings_NE: float32 [N, E], in memory or memory-mapped.
        settings: kind, levels and how IDs become unique.
        out: directory for ``quantizer_<name>.safetensors``, ``sid_<name>.safetensors`` and
            ``tokenizer_<name>.json``.
        item_ids: raw ids by item index; only for published codes keyed by id.
        exclude_NM: bool mask [N] or int indices [M] of items held out of the fit; they get their IDs
            afterwards, as new items do.
        collaborative_NC: float32 [N, C], vectors that kind `letter` aligns the codes with; a row of NaN
            for an item without.
        name: of the table ("text", "image", ...).

    Returns:
        The table in the catalog's order, and metrics of the codes before they were made unique.

    Raises:
        DataError: embeddings that are not finite, or no item left to fit on.
        SettingsError: the level sizes do not fit the items.
    """
    held_out = _mask(exclude_NM, len(embeddings_NE))
    fitted, late = np.flatnonzero(~held_out), np.flatnonzero(held_out)
    _require_finite(embeddings_NE)
    if not len(fitted):
        raise DataError("tokenize: no item is left to fit the codebook on")
    quantizer = make_quantizer(settings)
    training_rows = embeddings_NE if not len(late) else embeddings_NE[fitted]
    metrics: dict[str, Any] = {"items": len(embeddings_NE), "held_out": len(late)}
    if isinstance(quantizer, PublishedCodes):
        assert settings.published is not None
        codes_NL = read_published(settings.published, len(embeddings_NE), item_ids, settings.published_first_id)
        quantizer.fit_codes(training_rows, codes_NL[fitted])
        codes_NL[late] = quantizer.encode(embeddings_NE[late])
    elif isinstance(quantizer, LetterQuantizer):
        metrics |= quantizer.fit(training_rows, None if collaborative_NC is None else collaborative_NC[fitted])
        codes_NL = quantizer.encode(embeddings_NE)
    else:
        metrics |= quantizer.fit(training_rows)
        codes_NL = quantizer.encode(embeddings_NE)
    metrics |= code_metrics(codes_NL, settings.level_sizes)
    metrics["reconstruction_error"] = reconstruction_error(quantizer, embeddings_NE, codes_NL)
    metrics["similarity_by_depth"] = similarity_by_depth(embeddings_NE, codes_NL, seed=settings.seed)
    out.mkdir(parents=True, exist_ok=True)
    order = np.concatenate([fitted, late])
    tokenizer = Tokenizer(quantizer, settings, _empty_table(settings, codes_NL[fitted], name))
    table = tokenizer._unique(None, codes_NL[fitted], embeddings_NE, fitted)
    table = tokenizer._unique(table, codes_NL[late], embeddings_NE, late) if len(late) else table
    ordered_NL = np.empty_like(table.codes_NL)
    ordered_NL[order] = table.codes_NL
    table = SidTable(ordered_NL, table.level_sizes, table.collision_level, name)
    moved = (ordered_NL[:, : codes_NL.shape[1]] != codes_NL).any(axis=1)
    metrics |= {"moved": int(moved.sum()), "level_sizes": list(table.level_sizes), "sid_version": table.version}
    Tokenizer(quantizer, settings, table).save(out)
    log.info(
        "semantic IDs %s: perplexity %s, %d collisions", table.version, metrics["perplexity"], metrics["collisions"]
    )
    return table, metrics


@dataclass(frozen=True, eq=False)
class Tokenizer:
    """A fitted quantizer and the IDs that it gave.

    Attributes:
        quantizer: frozen.
        settings: that it was made with.
        table: the IDs of the catalog.
    """

    quantizer: Quantizer
    settings: TokenizerSettings
    table: SidTable

    def assign(self, new_embeddings_ME: FloatRows, table: SidTable | None = None) -> SidTable:
        """IDs for M further items from the frozen codebook.

        Args:
            new_embeddings_ME: float32 [M, E].
            table: what to extend; None: the catalog's own table.

        Returns:
            A table with the new items after the old ones, whose IDs stay as they are; all unique.

        Raises:
            DataError: embeddings that are not finite.
            SettingsError: no free ID is left.
        """
        table = self.table if table is None else table
        if not len(new_embeddings_ME):
            return table
        _require_finite(new_embeddings_ME)
        codes_ML = self.quantizer.encode(new_embeddings_ME)
        return self._unique(table, codes_ML, new_embeddings_ME, np.arange(len(new_embeddings_ME)))

    def _unique(
        self, old: SidTable | None, codes_ML: Codes, embeddings_NE: FloatRows, rows_M: NDArray[np.int64]
    ) -> SidTable:
        """Extend ``old`` (None: start a table) by items whose embeddings are ``embeddings_NE[rows_M]``."""
        plan, n_old = self.table, 0 if old is None else old.n_items
        n_levels = self.quantizer.n_levels
        old_NL = np.empty((0, plan.n_levels), dtype=np.int32) if old is None else old.codes_NL
        wanted = np.concatenate([old_NL[:, :n_levels], codes_ML])
        capacity = plan.level_sizes[-1] if plan.collision_level else 1

        def distances(at: NDArray[np.int64], codes: NDArray[np.integer], level: int) -> NDArray[np.float32]:
            result = np.empty((len(at), self.quantizer.level_sizes[level]), dtype=np.float32)
            for begin in range(0, len(at), CHUNK):
                part = slice(begin, begin + CHUNK)
                rows = np.asarray(embeddings_NE[rows_M[at[part] - n_old]])
                result[part] = self.quantizer.distances(rows, codes[part], level)
            return result

        placed = place(wanted, self.quantizer.level_sizes, capacity, distances, n_old=n_old)
        if plan.collision_level:
            placed = with_collision_code(placed, n_old, old_NL[:, -1])
        return SidTable(placed, plan.level_sizes, plan.collision_level, plan.name)

    def save(self, directory: Path) -> None:
        """Write quantizer, table and settings."""
        self.quantizer.save(directory, self.table.name)
        self.table.save(directory)
        state = {"settings": self.settings.model_dump(mode="json"), "sid_version": self.table.version}
        path = directory / f"tokenizer_{self.table.name}.json"
        path.write_text(json.dumps(state, indent=1, sort_keys=True) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, directory: Path, name: str = "text") -> Tokenizer:
        """Read what :meth:`save` or :func:`fit_tokenizer` wrote.

        Raises:
            ArtifactError: absent, unreadable, or its parts do not belong together.
        """
        path = directory / f"tokenizer_{name}.json"
        if not path.is_file():
            raise ArtifactError(f"{path}: no tokenizer there. Run `tokenize` first.")
        try:
            state = json.loads(path.read_text(encoding="utf-8"))
            settings = TokenizerSettings.model_validate(state["settings"])
            version = state["sid_version"]
        except (ValueError, KeyError, TypeError, ValidationError) as error:
            raise ArtifactError(f"{path}: not a tokenizer of genrec ({error}). Run `tokenize` again.") from error
        table = SidTable.load(directory, name)
        table.require(version, str(path))
        kind, _ = quantizer_meta(directory, name)
        kinds = (RQVAE, LetterQuantizer, ResidualKMeans, RandomCodes, PublishedCodes)
        classes: dict[str, type[Quantizer]] = {c.kind: c for c in kinds}
        if kind != settings.kind:
            raise ArtifactError(f"{directory}: a {kind!r} quantizer beside {settings.kind!r} settings. Tokenize again.")
        return cls(classes[kind].load(directory, name), settings, table)


def _empty_table(settings: TokenizerSettings, codes_NL: Codes, name: str) -> SidTable:
    """The shape of the table to be made: level sizes and whether a collision level comes last."""
    if settings.unique == "reallocate":
        return SidTable(np.zeros((1, codes_NL.shape[1]), dtype=np.int32), settings.level_sizes, False, name)
    sizes = (*settings.level_sizes, collision_capacity(codes_NL))
    return SidTable(np.zeros((1, len(sizes)), dtype=np.int32), sizes, True, name)


def _mask(exclude: NDArray[Any] | None, n_items: int) -> NDArray[np.bool_]:
    mask = np.zeros(n_items, dtype=bool)
    if exclude is not None:
        mask[np.asarray(exclude)] = True
    return mask


def _require_finite(embeddings_NE: FloatRows) -> None:
    for begin in range(0, len(embeddings_NE), CHUNK):
        bad = np.flatnonzero(~np.isfinite(embeddings_NE[begin : begin + CHUNK]).all(axis=1))
        if len(bad):
            raise DataError(f"tokenize: the embedding of item {begin + int(bad[0])} is not finite; encode it again")
