"""Which of many texts is spelled most like another: by the pairs and triples of letters that both have.

Shape letter: N texts.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.preprocessing import normalize

NEAR = 0.55
"""Cosine from which two spellings are alike."""


class Spelling:
    """Texts to be found by their spelling; searched by any number of threads.

    Args:
        texts: by index; an empty one is never found by a text with letters.
    """

    def __init__(self, texts: Sequence[str]) -> None:
        self.texts = texts
        self._vectorizer = CountVectorizer(analyzer="char_wb", ngram_range=(2, 3), dtype=np.float32)
        self._rows = normalize(self._vectorizer.fit_transform([text or "none" for text in texts or [""]]))

    def nearest(self, text: str, hidden: NDArray[np.bool_] | None = None) -> int | None:
        """Index of the text that is spelled most like this one; None: none is at :data:`NEAR` or above.

        Args:
            text: without upper case, as the texts are.
            hidden: bool [N], texts to pass over.
        """
        if not self.texts:
            return None
        cosines_N = (self._rows @ normalize(self._vectorizer.transform([text])).T).toarray().ravel()
        if hidden is not None:
            cosines_N = np.where(hidden, 0, cosines_N)
        best = int(cosines_N.argmax())
        return best if cosines_N[best] >= NEAR else None
