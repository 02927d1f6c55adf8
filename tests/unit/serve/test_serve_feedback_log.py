"""The log of lists shown: complete lines whoever writes, and contract 6's events out of it."""

import multiprocessing
from pathlib import Path

from serve.feedback_log import ShownItem, ShownList, ShownLog, read_shown


def shown(request_id: str, title: str = "50") -> ShownList:
    items = tuple(
        ShownItem(item_id=name, position=i, propensity=1.0, score=-0.5 * i, source="generated-id")
        for i, name in enumerate((title, "172", "181"))
    )
    return ShownList(
        time=1.5,
        request_id=request_id,
        user_id="196",
        history=None,
        k=3,
        bundle_version="b",
        sid_version="s",
        items=items,
    )


def test_what_is_appended_is_read_back(tmp_path: Path) -> None:
    log = ShownLog(tmp_path / "feedback" / "shown.jsonl")
    lists = [shown("first", "a\u2028b\nc"), shown("second", "été")]
    for one in lists:
        log.append(one)
    log.close()
    assert read_shown(log.path) == lists


def test_impressions_carry_list_position_and_propensity() -> None:
    events = shown("r1").impressions()
    assert [event.position for event in events] == [0, 1, 2]
    assert {event.shown for event in events} == {("50", "172", "181")}
    assert {event.propensity for event in events} == {1.0}
    assert len({event.event_id for event in events}) == 3
    assert {event.action for event in events} == {"impression"}


def _append_many(path: Path, writer: int) -> None:
    log = ShownLog(path)
    for i in range(200):
        log.append(shown(f"{writer}-{i}"))


def test_writers_of_several_processes_do_not_mix_their_lines(tmp_path: Path) -> None:
    path = tmp_path / "shown.jsonl"
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=_append_many, args=(path, w)) for w in range(3)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert {one.request_id for one in read_shown(path)} == {f"{w}-{i}" for w in range(3) for i in range(200)}


def test_a_lost_write_is_logged_and_does_not_stop_serving(tmp_path: Path, caplog) -> None:
    log = ShownLog(tmp_path / "shown.jsonl")
    log.close()
    log.append(shown("lost"))
    assert "request lost is not logged" in caplog.text
