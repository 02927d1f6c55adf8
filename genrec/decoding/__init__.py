"""Trie-constrained decoding: ``generate`` lists, ``score`` given items; one distribution (contract 5)."""

from genrec.decoding.ensemble import generate_ensemble, recommend
from genrec.decoding.mixture import ItemMixture
from genrec.decoding.scoring import score
from genrec.decoding.search import Ranked, generate
from genrec.decoding.trie_tensors import Children, TrieTensors, child_log_probs

__all__ = [
    "Children",
    "ItemMixture",
    "Ranked",
    "TrieTensors",
    "child_log_probs",
    "generate",
    "generate_ensemble",
    "recommend",
    "score",
]
