"""Small semantic-ID tables for the models' tests."""

import numpy as np
import pytest

from genrec.tokenizer.sid_table import SidTable


@pytest.fixture
def table() -> SidTable:
    """40 items, three levels of different sizes."""
    rng = np.random.default_rng(3)
    every = np.stack(np.meshgrid(np.arange(7), np.arange(5), np.arange(4), indexing="ij"), axis=-1).reshape(-1, 3)
    return SidTable(rng.permutation(every)[:40].astype(np.int32), (7, 5, 4))
