"""The stage functions: each reads the artifacts of its inputs and writes its own files.

They only connect rooms; what is done stands in the rooms. Heavy libraries are imported where they are
needed, so that `--help`, `config` and `status` answer at once.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from genrec.stages.stage import Context, Outcome, nested
from genrec.stages.training import WEIGHTS, build_sasrec

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from genrec.tokenizer.sid_table import SidTable


def prepare(context: Context) -> Outcome:
    """Raw files to catalog, sequences and split."""
    from genrec.data.prepare import prepare as prepare_data

    return Outcome(metrics=prepare_data(context.settings.data, context.out))


def tokenize(context: Context) -> Outcome:
    """Item texts to embeddings, embeddings to semantic IDs."""
    from genrec.data.load import load_catalog, load_texts
    from genrec.encoders import encode_catalog, fit_encoder, save_encoder
    from genrec.tokenizer.fit import fit_tokenizer
    from genrec.tokenizer.spaces import item_space, save_vectors

    settings, prepared = context.settings, context.inputs["prepare"]
    texts = load_texts(prepared)
    encoder = fit_encoder(texts, settings.encoder)
    embeddings_NE = encode_catalog(texts, settings.encoder, context.cache / "embeddings", encoder=encoder)
    del texts  # the tokenizer needs the room
    save_encoder(encoder, context.out / "encoder")  # new items go through the same one
    vectors_NC = collaborative_vectors(context)
    save_vectors(context.out, embeddings_NE, vectors_NC)
    table, metrics = fit_tokenizer(
        item_space(settings.tokenizer.embeddings, embeddings_NE, vectors_NC),
        settings.tokenizer,
        context.out,
        item_ids=load_catalog(prepared).item_ids if settings.tokenizer.kind == "published" else None,
        collaborative_NC=vectors_NC,
    )
    if settings.tokenizer.tables:
        table, metrics["tables"] = further_tables(context, table, embeddings_NE, vectors_NC)
    return Outcome(metrics=metrics, sid_version=table.version)


def further_tables(
    context: Context, first: SidTable, text_NE: NDArray[np.float32], vectors_NC: NDArray[np.float32] | None
) -> tuple[SidTable, dict[str, Any]]:
    """Make the further tables that the settings name, and join them with the first; metrics by name."""
    from genrec.data.load import load_catalog
    from genrec.tokenizer.fit import fit_tokenizer
    from genrec.tokenizer.joint import JointTable
    from genrec.tokenizer.spaces import item_space

    item_ids = load_catalog(context.inputs["prepare"]).item_ids
    tables, told = [], {}
    for name, wanted in context.settings.tokenizer.tables.items():
        rows_NE = item_space(wanted.embeddings, text_NE, vectors_NC)
        table, told[name] = fit_tokenizer(
            rows_NE, wanted.codes(), context.out, item_ids=item_ids, collaborative_NC=vectors_NC, name=name
        )
        tables.append(table)
    joint = JointTable.of(first, tables)
    joint.save(context.out)
    return joint, told


def collaborative_vectors(context: Context) -> NDArray[np.float32] | None:
    """float32 [N, C], SASRec's item vectors, NaN for items that nobody consumed in training; None: kind needs none."""
    if "sasrec" not in context.inputs:
        return None
    from genrec.data.load import load_interactions
    from genrec.training.checkpoint import restore_weights

    interactions = load_interactions(context.inputs["prepare"])
    model = build_sasrec(context.settings, interactions)
    restore_weights(model, context.inputs["sasrec"] / WEIGHTS)
    vectors_NC = model.item_vectors().detach().numpy().copy()
    vectors_NC[interactions.train_counts == 0] = float("nan")
    return vectors_NC


def bundle(context: Context) -> Outcome:
    """What serving needs, in one directory."""
    from genrec.bundle import require_floor, write_bundle
    from genrec.genplugin.augmented import GATE
    from genrec.genplugin.memory import reads_users
    from genrec.tokenizer.sid_table import SidTable

    rows = json.loads((context.inputs["evaluate"] / "metrics.json").read_bytes())
    require_floor(rows, context.settings)
    table = SidTable.load(context.inputs["tokenize"])
    finetuned = context.inputs["finetune"]
    tuned = finetuned / WEIGHTS
    has_neighbours = (finetuned / GATE).is_file() or reads_users(context.settings)
    made_with: dict[str, object] = {}
    for manifest in context.manifests.values():
        made_with |= manifest.settings
    # How the raw files were read is of no use to serving, and the reader could not be validated without its path;
    # the same holds for the kind of published codes.
    made_with = {
        leaf: value
        for leaf, value in made_with.items()
        if leaf != "data.reader" and not (leaf.startswith("tokenizer.") and value == "published")
    }
    write_bundle(
        context.out,
        weights=tuned if tuned.is_file() else context.inputs["pretrain"] / WEIGHTS,
        prepared=context.inputs["prepare"],
        neighbours=finetuned if has_neighbours else None,
        tokenizer=None if context.settings.tokenizer.tables else context.inputs["tokenize"],
        sid_table=table,
        settings=nested(made_with),
        metrics=rows,
        facts={
            "data_reader": context.settings.data.reader,
            "made_from": {n: m.key for n, m in context.manifests.items()},
        },
    )
    return Outcome(sid_version=table.version)
