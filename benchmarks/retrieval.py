"""Users like this user: BM25 search against bm25s's own loop and rank_bm25, and how good the users found are.

Three sides answer the same queries (the histories of test users) from the same documents (training items): our
search over the weights that bm25s computed, bm25s itself, and rank_bm25 for a few of the queries. Rankings are
compared first. Then the precision of the retrieved users against chance is measured: of the text path, and,
with ``--sasrec`` weights of a trained SASRec, of the collaborative path and of their merge. There its mean-pooled
item embeddings stand for the host's representations.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import bm25s
import numpy as np
from numpy.typing import NDArray
from rank_bm25 import BM25Okapi

from benchmarks.common import interleaved, say
from benchmarks.shapes import BEAUTY
from genrec.config import DataSettings, ItemKNNSettings, RetrievalSettings, SasRecSettings
from genrec.data.interactions import Interactions
from genrec.data.load import load_catalog, load_interactions
from genrec.data.prepare import prepare
from genrec.models.item_knn import ItemKNN
from genrec.models.sasrec import SasRec
from genrec.retrieval.bm25_path import Bm25Users
from genrec.retrieval.collaborative_path import CollaborativeUsers
from genrec.retrieval.documents import known_histories, training_histories
from genrec.retrieval.merge import CentredSpace, merge_paths
from genrec.retrieval.neighbours import Neighbours, top_positive
from genrec.retrieval.quality import retrieval_precision, vote_quality
from genrec.retrieval.representations import SasRecEncoder
from genrec.retrieval.votes import NeighbourVotes, scorer_votes

SETTINGS = RetrievalSettings()
Z = SETTINGS.candidates


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument("--path", default=str(BEAUTY), help="data set directory (reader `research`)")
    parser.add_argument("--users", type=int, default=2000, help="test users asked about")
    parser.add_argument("--timed", type=int, default=200, help="queries timed on both sides")
    parser.add_argument("--reference", type=int, default=5, help="queries that rank_bm25 answers too")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--sasrec", type=Path, help="safetensors of a trained SASRec (2 heads)")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Compare, time, measure."""
    with tempfile.TemporaryDirectory() as folder:
        prepare(DataSettings(reader="research", path=args.path), Path(folder), use_ray=False)
        data, texts = load_interactions(Path(folder)), list(load_catalog(Path(folder)).texts)
    count = min(args.users, len(data.users_with("test")))
    users = np.sort(np.random.default_rng(0).choice(data.users_with("test"), count, replace=False))
    histories = known_histories(data, users, data.test_at[users], SETTINGS.max_history)
    index = Bm25Users.fit(data, texts, SETTINGS)
    speed = _speed(args, index, data, users, histories)
    return {"name": "retrieval", **speed, "quality": _quality(args, index, data, users, histories)}


def _speed(
    args: argparse.Namespace,
    index: Bm25Users,
    data: Interactions,
    users: NDArray[np.int64],
    histories: NDArray[np.int64],
) -> dict[str, Any]:
    documents = _tokens(index, training_histories(data, np.arange(data.n_users), SETTINGS.max_history))
    queries = _tokens(index, histories[: args.timed])
    theirs = bm25s.BM25(method="robertson", k1=SETTINGS.bm25_k1, b=SETTINGS.bm25_b, dtype="float64")
    words = {str(word): word for word in range(index.bags.counts_NW.shape[1])}
    theirs.index((documents, words), create_empty_token=False, show_progress=False)
    asked = users[: args.timed]

    def bm25s_search() -> Neighbours:
        scores = np.stack([theirs.get_scores_from_ids(query) for query in queries]).astype(np.float32)
        scores[np.arange(len(asked)), asked] = 0
        return top_positive(scores, Z)

    ours, other = index.search(histories[: args.timed], asked, Z), bm25s_search()
    reference = BM25Okapi(documents, k1=SETTINGS.bm25_k1, b=SETTINGS.bm25_b, epsilon=0.0)
    scores = np.stack([reference.get_scores(query) for query in queries[: args.reference]]) / (SETTINGS.bm25_k1 + 1)
    slow = scores.astype(np.float32)
    slow[np.arange(args.reference), asked[: args.reference]] = 0
    equal = _same(ours, other) and _same(ours, top_positive(slow, Z))
    say(f"rankings equal: {equal}")
    seconds = interleaved(
        {"ours": lambda: index.search(histories[: args.timed], asked, Z), "bm25s": bm25s_search}, args.repeats
    )
    rank = interleaved({"rank_bm25": lambda: reference.get_scores(queries[0])}, 1)["rank_bm25"]["median"]
    per_query = {side: 1000 * spread["median"] / args.timed for side, spread in seconds.items()}
    return {
        "ours": per_query["ours"],
        "theirs": per_query["bm25s"],
        "rank_bm25": 1000 * rank,
        "unit": "ms a query",
        "ratio": per_query["bm25s"] / per_query["ours"],
        "equal": equal,
    }


def _same(one: Neighbours, other: Neighbours) -> bool:
    """Equal rankings; where scores differ by rounding only, users may have changed places."""
    n = len(other.users_BZ)
    close = np.allclose(one.scores_BZ[:n], other.scores_BZ, rtol=1e-6)
    return bool(close and (one.users_BZ[:n] == other.users_BZ).mean() > 0.999)


def _tokens(index: Bm25Users, histories: NDArray[np.int64]) -> list[list[int]]:
    counts = index.bags.documents(histories)
    rows = (slice(begin, end) for begin, end in zip(counts.indptr[:-1], counts.indptr[1:], strict=True))
    return [np.repeat(counts.indices[row], counts.data[row].astype(int)).tolist() for row in rows]


def _quality(
    args: argparse.Namespace,
    index: Bm25Users,
    data: Interactions,
    users: NDArray[np.int64],
    histories: NDArray[np.int64],
) -> dict[str, Any]:
    targets = data.targets("test")[users].astype(np.int64)
    seen = known_histories(data, users, data.test_at[users], int(data.test_at.max()))
    found = {"text": index.search(histories, users, Z)}
    if args.sasrec is not None:
        model = _sasrec(args.sasrec, data.n_items)
        own = training_histories(data, np.arange(data.n_users), SETTINGS.max_history)
        encode = SasRecEncoder(model)
        found["collaborative"] = CollaborativeUsers.fit(encode(own)).search(encode(histories), users, Z)
        items = model.item_vectors().detach().numpy()
        space = CentredSpace.of(_pooled(items, own))
        asked = space.place(_pooled(items, histories))
        for order in ("fused", "representation", "paths"):
            merged = merge_paths(
                dict(list(found.items())[:2]), 2 * Z, order=order, queries_BD=asked, vectors_UD=space.vectors_UD
            )
            found[f"union, {order}"] = merged
    voters = NeighbourVotes.fit(data, SETTINGS)
    knn = ItemKNN.fit(data, ItemKNNSettings())
    votes = {
        name: voters.vote(kept.best(SETTINGS.neighbours), SETTINGS.vote_items, seen) for name, kept in found.items()
    }
    votes["item-knn"] = scorer_votes(knn, histories, users, SETTINGS.vote_items, n_items=data.n_items, seen_BT=seen)
    everything = {k: {n: retrieval_precision(f, users, targets, data, k) for n, f in found.items()} for k in (10, 30)}
    return {
        "self_retrieved": int(sum((kept.users_BZ == users[:, None]).sum() for kept in found.values())),
        "precision": {
            f"{name}@{k}": {s: {"precision": p.precision, "lift": p.lift} for s, p in segments.items()}
            for k, names in everything.items()
            for name, segments in names.items()
        },
        "votes": {name: vars(vote_quality(vote, targets)) for name, vote in votes.items()},
    }


def _sasrec(path: Path, n_items: int) -> SasRec:
    from safetensors.torch import load_file

    weights = load_file(path)
    layers = 1 + max(int(name.split(".")[1]) for name in weights if name.startswith("blocks."))
    length, width = weights["positions.weight"].shape
    model = SasRec(SasRecSettings(d_model=width, layers=layers), n_items, length)
    model.load_state_dict(weights)
    return model


def _pooled(vectors: NDArray[np.float32], histories: NDArray[np.int64]) -> NDArray[np.float32]:
    given = (histories >= 0)[:, :, None]
    return (vectors[np.maximum(histories, 0)] * given).sum(axis=1) / np.maximum(given.sum(axis=1), 1)
