"""What is quantized: texts, collaborative vectors or both; and where items without a vector go."""

import numpy as np
import pytest

from genrec.errors import DataError
from genrec.tokenizer.spaces import filled, item_space

RNG = np.random.default_rng(0)
TEXT = RNG.normal(size=(40, 6)).astype(np.float32)
TAKEN = RNG.normal(size=(40, 3)).astype(np.float32)


def test_text_is_handed_on_as_it_is() -> None:
    assert item_space("text", TEXT, None) is TEXT


def test_both_give_each_part_the_same_say() -> None:
    both = item_space("both", TEXT * 100, TAKEN)
    assert both.shape == (40, 9)
    np.testing.assert_allclose(np.linalg.norm(both[:, :6], axis=1), 1, rtol=1e-5)
    np.testing.assert_array_equal(both[:, 6:], item_space("collaborative", TEXT, TAKEN))
    cosines = item_space("collaborative", TEXT, TAKEN) @ item_space("collaborative", TEXT, TAKEN).T
    wanted = TAKEN @ TAKEN.T / np.outer(np.linalg.norm(TAKEN, axis=1), np.linalg.norm(TAKEN, axis=1))
    np.testing.assert_allclose(cosines, wanted, atol=1e-5)


def test_an_item_that_nobody_took_stands_where_its_nearest_by_text_stand() -> None:
    taken = TAKEN.copy()
    taken[[3, 17]] = np.nan
    found = filled(taken, TEXT, near=2)
    known = np.setdiff1d(np.arange(40), [3, 17])
    np.testing.assert_array_equal(found[known], TAKEN[known])
    for item in (3, 17):
        cosine = TEXT[known] @ TEXT[item] / np.linalg.norm(TEXT[known], axis=1)
        nearest = known[np.argsort(-cosine)[:2]]
        np.testing.assert_allclose(found[item], TAKEN[nearest].mean(axis=0), rtol=1e-5)
    assert np.isfinite(item_space("both", TEXT, taken)).all()


def test_no_vector_at_all_is_an_error() -> None:
    with pytest.raises(DataError, match=r"tokenizer\.embeddings: no item has a collaborative vector"):
        item_space("collaborative", TEXT, np.full_like(TAKEN, np.nan))
