"""The endpoint's feedback read after a data set: what counts, in which order, and that equal logs give equal files."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from genrec.cli import main
from genrec.config import DataSettings
from genrec.data.load import load_catalog, load_interactions
from genrec.data.prepare import prepare
from genrec.data.readers.feedback import export_feedback
from genrec.errors import DataError
from serve.store import Event, FeedbackStore, sqlite_url


def event(name: str, user: str, item: str, kind: str, time: float) -> Event:
    return Event(name, user, item, kind, None, None, time, time)  # type: ignore[arg-type]


def stored(path: Path, events: list[Event]) -> str:
    url = sqlite_url(path)
    store = FeedbackStore(url)
    store.write([events])
    store.close()
    return url


LOG = [
    event("1", "a", "3", "like", 50.5),
    event("2", "a", "4", "skip", 51.0),
    event("3", "new", "1", "consume", 52.0),
    event("4", "new", "2", "like", 53.0),
    event("5", "a", "3", "consume", 60.0),
    event("6", "a", "asset:0123456789", "like", 61.0),
    event("7", "a", "5", "like", 55.0),
]


def test_what_was_taken_up_follows_on_the_data_in_time(tmp_path: Path) -> None:
    raw = tmp_path / "raw.csv"
    raw.write_text("user,item,time\na,1,1\na,2,2\nb,2,3\nb,1,4\n")
    feedback, count = export_feedback(stored(tmp_path / "store", LOG), tmp_path / "out")
    assert count == 4
    settings = DataSettings(
        reader="table", path=str(raw), feedback=str(feedback), min_user_interactions=1, min_item_interactions=1
    )
    out = tmp_path / "prepared"
    out.mkdir()
    prepare(settings, out, use_ray=False)
    data, ids = load_interactions(out), load_catalog(out).item_ids
    histories = {user: [ids[i] for i in data.sequence(n)] for n, user in enumerate(data.user_ids)}
    assert histories == {"a": ["1", "2", "5", "3"], "b": ["2", "1"], "new": ["1", "2"]}
    times = pq.read_table(out / "sequences.parquet")["times"].to_pylist()
    assert times[list(data.user_ids).index("a")] == [1, 2, 55, 60]


def test_the_file_is_named_by_what_it_holds(tmp_path: Path) -> None:
    first, _ = export_feedback(stored(tmp_path / "one", LOG), tmp_path / "out")
    other_order = [LOG[i] for i in (3, 0, 1, 4, 2, 6)]
    second, _ = export_feedback(stored(tmp_path / "two", other_order), tmp_path / "out")
    more, _ = export_feedback(stored(tmp_path / "three", [*LOG, event("8", "b", "9", "like", 70)]), tmp_path / "out")
    assert first == second != more


def test_a_store_without_anything_to_learn_from_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nothing that was liked"):
        export_feedback(stored(tmp_path / "store", LOG[1:2]), tmp_path)
    with pytest.raises(DataError, match="no feedback store there"):
        export_feedback(sqlite_url(tmp_path / "none"), tmp_path)
    assert not (tmp_path / "none").exists()


def test_the_command_line_adds_the_runs_own_feedback_and_makes_the_same_from_the_same_log(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    raw = tmp_path / "raw.csv"
    raw.write_text("user,item,time\na,1,1\na,2,2\nb,2,3\nb,1,4\n")
    stored(tmp_path / "runs" / "shop" / "feedback" / "feedback.sqlite3", LOG)
    settings = {
        "run.directory": tmp_path / "runs",
        "run.name": "shop",
        "data.reader": "table",
        "data.path": raw,
        "data.min_user_interactions": 1,
        "data.min_item_interactions": 1,
    }
    options = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]

    def prepared(*more: str) -> Path:
        assert main(["prepare", "--strategy", "single", *options, *more]) == 0
        return Path(capsys.readouterr().out.strip())

    without, first, again = prepared(), prepared("--from-feedback"), prepared("--from-feedback")
    assert without != first == again
    assert len(load_interactions(without).items) == 4
    assert len(load_interactions(first).items) == 8
