"""Workers that each read the prepared Parquet share an epoch out: every training pair once, by one, two or three."""

from collections import Counter
from pathlib import Path

import pytest

from genrec.config import Settings
from genrec.data.load import load_interactions
from genrec.data.prepare import prepare
from genrec.training.batching import EpochBatches, prefix_rows, window_rows
from tests.serving import raw_data

MAX_HISTORY = 6


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("shards")
    settings = Settings.model_validate({"data": {"reader": "table", "path": str(raw_data(folder / "raw"))}})
    (folder / "prepared").mkdir()
    prepare(settings.data, folder / "prepared", use_ray=False)
    return folder / "prepared"


def seen_by(prepared: Path, rank: int, world: int, make_rows, epoch: int) -> Counter:
    """(user, items known, next item) of every target that this worker trains on."""
    data = load_interactions(prepared, training=True)  # each worker reads for itself
    batches = EpochBatches(data, make_rows(data, MAX_HISTORY), 32, seed=3)
    seen: Counter = Counter()
    for part in batches.batches(epoch, rank, world):
        if part.share == 0:  # a worker without a row computes one that counts for nothing
            continue
        batch = part.batch
        for row, user in enumerate(batch.users_B.tolist()):
            for slot, target in enumerate(batch.targets_BP[row].tolist()):
                if target >= 0:
                    known = batch.history_BT[row, : int(batch.visible_BP[row, slot])]
                    seen[user, tuple(known.tolist()), target] += 1
    return seen


@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize("make_rows", [prefix_rows, window_rows])
def test_no_pair_is_dropped_or_doubled(prepared, make_rows, world):
    data = load_interactions(prepared, training=True)
    together = sum((seen_by(prepared, rank, world, make_rows, epoch=1) for rank in range(world)), Counter())
    targets = Counter((user, target) for (user, _, target), count in together.items() for _ in range(count))
    assert targets == Counter(
        (user, int(item)) for user in range(data.n_users) for item in data.train_sequence(user)[1:]
    )
    assert together == seen_by(prepared, 0, 1, make_rows, epoch=1)
