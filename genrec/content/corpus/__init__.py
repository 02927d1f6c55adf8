"""The default corpus of made content: about 1,600 concepts, each drawn in up to four styles, with words to them."""

from genrec.content.corpus.build import build_corpus, read_corpus
from genrec.content.corpus.concepts import COLOURS, STYLES, Concept

__all__ = ["COLOURS", "STYLES", "Concept", "build_corpus", "read_corpus"]
