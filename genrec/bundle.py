"""The bundle: the versioned directory that `serve` and `recommend` load, and nothing else is needed.

    weights.safetensors    the model's best weights; the metadata names the semantic IDs they speak
    sid_text.safetensors   the SidTable
    neighbours/            gate, models that vote and user vectors, if neighbours vote (plugin.retrieval) or the decoder
                           attends to them (plugin.memory)
    prepared/              catalog and sequences, so that a known user's history is at hand
    tokenizer/             frozen codebook, text encoder and embeddings: made items get semantic IDs from them
    settings.yaml          the settings that made the model; no paths of the machine that made it
    model_card.json        what was measured (rows of metrics.json), sizes, limits of use
    manifest.json          SHA-256 of all of these; nothing is read before they agree

The version is a hash of the files' hashes, so equal bundles have equal versions wherever they were made.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from safetensors import safe_open

from genrec.artifacts import (
    ArtifactStore,
    Manifest,
    canonical_json,
    digest,
    is_uri,
    local_root,
    read_manifest,
    store_at,
)
from genrec.config import Settings, load_settings
from genrec.data.interactions import Interactions
from genrec.data.load import Catalog, load_catalog, load_interactions
from genrec.errors import ArtifactError
from genrec.tokenizer.sid_table import SidTable

if TYPE_CHECKING:
    import torch

    from genrec.genplugin.augmented import AugmentedGenerator
    from genrec.models.contracts import Backbone

WEIGHTS = "weights.safetensors"
PREPARED = "prepared"
NEIGHBOURS = "neighbours"
TOKENIZER = "tokenizer"
AUGMENTED = "+neighbours"
"""Added to the host's name in the results of the host with neighbours."""
MEMORY = "+memory"
"""Added to it where the decoder was fine-tuned with a memory of retrieved users."""
SETTINGS = "settings.yaml"
CARD = "model_card.json"
LEFT_OUT = (WEIGHTS, "metrics.jsonl", "tensorboard", "mlflow_run.txt")
"""Of the artifact of `finetune`: the weights are the bundle's own, its curves are of no use to serving."""
STAGE, ARTIFACTS = "bundle", "/artifacts"
LINKS = "bundles"
"""Folder below run.directory with a link to the newest bundle of each name."""


@dataclass(frozen=True, eq=False)
class Bundle:
    """A verified bundle in memory; the weights are read when the model is built.

    Attributes:
        path: the directory, links resolved, so that a newer bundle published meanwhile is not mixed in.
        version: hash (16 hex digits) of the content.
        settings: what made the model; keys that do not matter for serving have their defaults.
        sid_table: the semantic IDs.
        catalog: ids, titles and texts of the items, by index.
        interactions: what the known users did.
        card: the model card.
    """

    path: Path
    version: str
    settings: Settings
    sid_table: SidTable
    catalog: Catalog
    interactions: Interactions
    card: Mapping[str, Any]

    def backbone(self) -> torch.nn.Module:
        """The model with its weights, in evaluation mode.

        Raises:
            ArtifactError: the weights do not fit the model of the settings.
        """
        from safetensors.torch import load_file

        from genrec.models import build_backbone

        model: torch.nn.Module = build_backbone(self.settings.model, self.sid_table)
        try:
            model.load_state_dict(load_file(self.path / WEIGHTS))
        except RuntimeError as error:
            raise ArtifactError(f"{self.path / WEIGHTS}: does not fit the model of {SETTINGS}: {error}") from error
        from genrec.genplugin.memory import load_reader

        return load_reader(model.eval(), self.settings, self.path / NEIGHBOURS)

    def augmented(self, backbone: Backbone) -> AugmentedGenerator | None:
        """What neighbours add to :meth:`backbone`; None if they have no vote in this bundle.

        Raises:
            ArtifactError: its parts do not fit the settings.
        """
        if not (self.path / NEIGHBOURS).is_dir():
            return None
        from genrec.genplugin.augmented import load_augmented

        return load_augmented(backbone, self.interactions, self.catalog.texts, self.settings, self.path / NEIGHBOURS)


def published_path(settings: Settings) -> Path:
    """Where the newest bundle of these settings' name is linked, for `serve`."""
    return local_root(settings.run.directory, settings.run.mirror) / LINKS / settings.bundle.name


def served_model(host: str, names: Container[str]) -> str:
    """Of the names of a table, that of the model that is served: the host with the most beside it."""
    return next(host + added for added in (MEMORY + AUGMENTED, MEMORY, AUGMENTED, "") if host + added in names)


def require_floor(rows: Sequence[Mapping[str, Any]], settings: Settings) -> None:
    """The gate before a bundle: refuse a model that loses to popularity, if the settings ask for it.

    Args:
        rows: of metrics.json.
        settings: bundle.floor, and the host's name in model.backbone.

    Raises:
        ArtifactError: the model is not above the floor.
    """
    if settings.bundle.floor == "none":
        return
    metric = f"ndcg@{max(settings.evaluation.cutoffs)}"
    values = {row["model"]: row["value"] for row in rows if (row["segment"], row["metric"]) == ("all", metric)}
    model, floor = served_model(settings.model.backbone, values), settings.bundle.floor
    if not values[model] > values[floor]:
        raise ArtifactError(
            f"bundle.floor: {metric} of {model} is {values[model]:.4f}, of {floor} {values[floor]:.4f}. "
            "Train longer, or bundle it nevertheless: --set bundle.floor=none"
        )


def bundle_version(manifest: Manifest) -> str:
    """Hash (16 hex digits) of the content that a manifest lists."""
    return digest({name: entry["sha256"] for name, entry in manifest.files.items()})[:16]


def write_bundle(
    out: Path,
    *,
    weights: Path,
    prepared: Path,
    sid_table: SidTable,
    settings: Mapping[str, Any],
    neighbours: Path | None = None,
    tokenizer: Path | None = None,
    metrics: Sequence[Mapping[str, Any]] = (),
    facts: Mapping[str, Any] | None = None,
) -> None:
    """Gather a bundle's files in ``out``; the stage's runner adds the manifest and commits.

    Args:
        out: an empty directory.
        weights: safetensors file of the model.
        prepared: the prepared data set.
        sid_table: the semantic IDs that the model was trained with.
        settings: nested tree of the keys that made the model.
        neighbours: artifact of `finetune`, if neighbours have a vote or the decoder attends to them.
        tokenizer: artifact of `tokenize`, so that made items get IDs from its codebook; None: they stand beside others.
        metrics: rows of metrics.json.
        facts: further entries of the model card.

    Raises:
        VersionMismatchError: the weights were trained with another table.
    """
    _require_table(weights, sid_table)
    shutil.copyfile(weights, out / WEIGHTS)
    shutil.copytree(prepared, out / PREPARED, ignore=shutil.ignore_patterns("manifest.json"))
    if neighbours is not None:
        shutil.copytree(neighbours, out / NEIGHBOURS, ignore=shutil.ignore_patterns("manifest.json", *LEFT_OUT))
    if tokenizer is not None:
        shutil.copytree(tokenizer, out / TOKENIZER, ignore=shutil.ignore_patterns("manifest.json"))
    sid_table.save(out)
    (out / SETTINGS).write_text(yaml.safe_dump(dict(settings), sort_keys=True), encoding="utf-8")
    card = {
        **(facts or {}),
        "sid_version": sid_table.version,
        "items": sid_table.n_items,
        "levels": list(sid_table.level_sizes),
        "metrics": [dict(row) for row in metrics],
        "use": "Ranks the items of this catalog for a history of its items. It knows no other items and no users' "
        "attributes; figures hold for the data set they were measured on.",
    }
    (out / CARD).write_bytes(canonical_json(card))


def bundle_place(place: str | Path) -> str:
    """A place that goes on meaning this very bundle: a directory with its links resolved, or an artifact's URI.

    Args:
        place: a directory; ``<run.directory>/<run.name>/bundle`` as a URI; or an artifact's URI, which stays as it is.

    Raises:
        ArtifactError: there is no such run, or its bundle is not finished.
    """
    if not is_uri(place):
        return str(Path(place).resolve())
    runs, name, last = str(place).rstrip("/").rsplit("/", 2)
    if name == STAGE and runs.endswith(ARTIFACTS):
        return str(place).rstrip("/")
    if last != STAGE:
        raise ArtifactError(f"{place}: no bundle's URI; write <run.directory>/<run.name>/{STAGE}")
    return f"{runs}{ARTIFACTS}/{STAGE}/{_key_of(store_at(runs), name, str(place))}"


def local_bundle(place: str | Path) -> Path:
    """The directory of a bundle; one at a URI is fetched into this machine's mirror and verified.

    Args:
        place: as for :func:`bundle_place`.

    Raises:
        ArtifactError: there is none, or its files differ from its manifest.
    """
    if not is_uri(place):
        return Path(place)
    runs, _, key = bundle_place(place).rsplit("/", 2)
    return store_at(runs.removesuffix(ARTIFACTS)).open(STAGE, key)[0]


def _key_of(store: ArtifactStore, run: str, place: str) -> str:
    try:
        entry = json.loads(store.record(f"{run}/run.json") or b"{}")["stages"][STAGE]
        key, finished = str(entry["key"]), bool(entry["finished"])
    except (ValueError, KeyError, TypeError):
        key, finished = "", False
    if not finished:
        raise ArtifactError(f"{place}: no bundle there. Make one: python -m genrec bundle")
    return key


def load_bundle(path: str | Path) -> Bundle:
    """Verify every byte of the bundle at ``path``, a directory or a URI, and read it.

    Raises:
        ArtifactError: absent, incomplete, altered, or its parts do not fit each other.
    """
    path = local_bundle(path)
    if not path.is_dir():
        raise ArtifactError(f"{path}: no bundle there. Make one: python -m genrec bundle")
    path = path.resolve()
    manifest = read_manifest(path)
    if manifest.stage != STAGE:
        raise ArtifactError(f"{path}: an artifact of stage {manifest.stage!r}, not a bundle")
    table = SidTable.load(path)
    _require_table(path / WEIGHTS, table)
    bundle = Bundle(
        path=path,
        version=bundle_version(manifest),
        settings=load_settings(path / SETTINGS),
        sid_table=table,
        catalog=load_catalog(path / PREPARED),
        interactions=load_interactions(path / PREPARED),
        card=json.loads((path / CARD).read_bytes()),
    )
    if len(bundle.catalog.item_ids) != table.n_items:
        raise ArtifactError(f"{path}: a catalog of {len(bundle.catalog.item_ids)} items, {table.n_items} semantic IDs")
    return bundle


def _require_table(weights: Path, table: SidTable) -> None:
    if not weights.is_file():
        raise ArtifactError(f"{weights}: no weights there. Run `pretrain` first.")
    with safe_open(weights, framework="numpy") as stream:
        metadata = stream.metadata() or {}
    table.require(metadata.get("sid_version", "unknown"), str(weights))
