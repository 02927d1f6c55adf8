"""What a code stands for: means of what is left, level by level; and hosts that begin there."""

import numpy as np
import pytest
import torch

from genrec.config import ModelSettings
from genrec.models.registry import build_backbone
from genrec.tokenizer.centroids import code_centroids
from genrec.tokenizer.joint import JointTable
from genrec.tokenizer.sid_table import SidTable

SHAPE = {"d_model": 6, "d_ff": 8, "heads": 1, "d_head": 4, "encoder_layers": 1, "decoder_layers": 1}


def _items(width: int = 6, n: int = 24) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(n, width)).astype(np.float32)


def _table(name: str = "text", sizes: tuple[int, ...] = (3, 4, 3), *, collision: bool = True) -> SidTable:
    """24 items over two levels of 3 and 4 codes, of which the last is unused, and a collision level."""
    grid = [(a, b, c) for a in range(3) for b in range(3) for c in range(3)][:24]
    return SidTable(np.array(grid, dtype=np.int32), sizes, collision, name)


def test_each_level_is_the_mean_of_what_is_left() -> None:
    table, rows = _table(), _items()
    found = code_centroids(table, {"text": rows}, 6)
    left = rows - rows.mean(0)
    for level in (0, 1):
        codes = table.codes_NL[:, level]
        means = np.stack([left[codes == code].mean(0) for code in range(3)])
        left -= means[codes]
        begin = table.level_offsets[level]
        np.testing.assert_allclose(found[begin : begin + 3], means / np.sqrt((means**2).mean()), rtol=1e-4, atol=1e-5)
    meaningless = [0, table.level_offsets[1] + 3, *range(table.level_offsets[2], table.vocab_size)]
    assert np.isnan(found[meaningless]).all(), "padding, a code without items, and collision codes"


def test_a_wider_space_keeps_what_varies_most_and_a_narrower_one_leaves_axes_open() -> None:
    table = _table()
    rows = _items(9) * np.array([9, 8, 7, 6, 5, 4, 1e-3, 1e-3, 1e-3], dtype=np.float32)
    wide, own = code_centroids(table, {"text": rows}, 6), code_centroids(table, {"text": rows[:, :6]}, 6)
    real = ~np.isnan(own).any(1)
    np.testing.assert_allclose(wide[real] @ wide[real].T, own[real] @ own[real].T, atol=0.02)
    narrow = code_centroids(table, {"text": rows[:, :2]}, 6)
    assert np.isfinite(narrow[1, :2]).all()
    assert np.isnan(narrow[:, 2:]).all()


def test_every_table_of_a_joint_vocabulary_has_its_own_space() -> None:
    rows, other = _items(), _items(5)[::-1].copy()
    joint = JointTable.of(_table(), [_table("image")])
    found = code_centroids(joint, {"text": rows, "image": other}, 6)
    np.testing.assert_array_equal(found[: _table().vocab_size], code_centroids(_table(), {"text": rows}, 6))
    alone = code_centroids(_table("image"), {"image": other}, 6)
    np.testing.assert_array_equal(found[_table().vocab_size :], alone[1:])


@pytest.mark.parametrize("backbone", ["tiger", "letter", "decoder-only"])
def test_a_host_begins_there_at_its_own_scale(backbone: str) -> None:
    table = _table()
    torch.manual_seed(0)
    host = build_backbone(ModelSettings(**SHAPE, backbone=backbone, encoder_attention="causal"), table)
    drawn = host.token_embedding.weight.detach().clone()
    vectors = torch.from_numpy(code_centroids(table, {"text": _items()}, 6))
    host.begin_at(vectors)
    begun, open_V = host.token_embedding.weight.detach(), vectors.isnan()
    assert torch.equal(begun[open_V], drawn[open_V])
    torch.testing.assert_close(begun[~open_V], (vectors * host.embedding_std)[~open_V])
    assert 0.5 < begun[~open_V].std() / host.embedding_std < 1.5
