"""The whole composition as people run it: instructor, creator, editor, fidelity and recommender behind one endpoint.

The shipped weights and every check are real; pictures are made in few steps, for it is the way that is tested here.
"""

import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from PIL import Image
from scipy.stats import binom

from genrec.config import Settings
from serve.content_parts import content_wanted
from serve.process import running
from serve.store import SQLITE_FILE, FeedbackStore, sqlite_url
from tests.serving import assembled_bundle, end_service

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(not content_wanted(Settings()), reason="the weights of the content models are not there"),
]
KEY = "composed-key-0123456789"


@dataclass
class Composed:
    """The running service."""

    process: subprocess.Popen[bytes]
    run: Path
    client: httpx.Client


@pytest.fixture(scope="module")
def composed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Composed]:
    folder = tmp_path_factory.mktemp("composed")
    settings = {
        "run.directory": folder / "runs",
        "run.name": "composed",
        "serve.port": 0,
        "serve.api_keys": '["env:GENREC_KEYS"]',
        "ray.num_cpus": 2,  # all six deployments must fit on two
        "ray.object_store_mib": 200,
        "ray.dashboard": "false",
        "content.pictures.steps": 3,
        "content.pictures.candidates": 1,
        "content.library.explore_share": 0.5,
        "content.library.retire_impressions": 8,
        "content.library.retire_floor": 0.6,
    }
    overrides = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
    log = folder / "log"
    with log.open("wb") as stream:
        process = subprocess.Popen(
            [sys.executable, "-m", "serve", "--bundle", str(assembled_bundle(folder)), *overrides],
            stdout=stream,
            stderr=subprocess.STDOUT,
            env={**os.environ, "OMP_NUM_THREADS": "1", "GENREC_KEYS": KEY},
            cwd=Path(__file__).parents[2],
        )
    try:
        while (state := running(folder / "runs" / "composed")) is None:
            assert process.poll() is None, log.read_text()
            time.sleep(0.1)
        with httpx.Client(base_url=state.url, timeout=180, headers={"Authorization": f"Bearer {KEY}"}) as client:
            yield Composed(process, folder / "runs" / "composed", client)
    finally:
        end_service(process)


@pytest.fixture
def client(composed: Composed) -> httpx.Client:
    return composed.client


def told(client: httpx.Client, **body: Any) -> dict[str, Any]:
    reply = client.post("/v1/instructions", json=body)
    assert reply.status_code == 200, reply.text
    answer: dict[str, Any] = reply.json()
    return answer


def streamed(client: httpx.Client, **body: Any) -> list[tuple[str, dict[str, Any]]]:
    events, name = [], ""
    with client.stream("POST", "/v1/instructions", json=body, headers={"Accept": "text/event-stream"}) as reply:
        assert reply.status_code == 200
        for line in reply.iter_lines():
            if line.startswith("event: "):
                name = line.removeprefix("event: ")
            elif line.startswith("data: "):
                events.append((name, json.loads(line.removeprefix("data: "))))
    return events


def test_a_picture_is_created_checked_kept_and_shown_with_its_origin(client: httpx.Client) -> None:
    events = streamed(client, text="draw me a red apple in 3D style", user_id="u1", k=4)
    names = [name for name, _ in events]
    assert names[-1] == "done", events[-1]
    reply = events[-1][1]
    assert dict(events)["decision"]["action"] == "create" == reply["decision"]["action"]
    assert any(data["what"] == "creating" for name, data in events if name == "progress")
    (media,) = reply["media"]
    first = reply["items"][0]
    assert (first["item_id"], first["source"]) == (media["asset_id"], "created")
    assert first["fidelity"]["verdicts"]
    assert all(verdict["passed"] for verdict in first["fidelity"]["verdicts"])
    file = client.get(media["url"])
    assert file.headers["content-type"] == "image/png"
    assert Image.open(io.BytesIO(file.content)).size[0] >= 64
    assert httpx.get(f"{client.base_url}{media['url']}").status_code == 401
    origin = client.get(media["provenance_url"]).json()
    assert origin["manifest"]["valid"], origin
    assert "apple" in origin["prompt"]
    liked = {
        "event_id": "a1",
        "user_id": "u1",
        "item_id": media["asset_id"],
        "kind": "like",
        "list_id": reply["list_id"],
    }
    assert client.post("/v1/feedback", json={"events": [liked]}).json()["stored"] == 1


def test_what_the_catalog_has_is_retrieved_and_a_session_goes_on(client: httpx.Client) -> None:
    reply = told(client, text="show me robot comedy", user_id="u1", k=5)
    assert reply["decision"]["action"] == "retrieve", reply["decision"]
    assert any("Robot Comedy" in entry["title"] for entry in reply["items"])
    again = told(client, text="more like the first one", user_id="u1", session_id=reply["session_id"], k=5)
    assert again["session_id"] == reply["session_id"]
    assert again["decision"]["action"] in {"retrieve", "edit", "create", "clarify"}


def test_what_must_not_be_made_is_not(client: httpx.Client) -> None:
    reply = told(client, text="draw me Mickey Mouse in 3D style", user_id="u1", k=3)
    assert reply["media"] == []
    if reply["decision"]["action"] == "create":
        assert any(not verdict["passed"] for report in reply["refused"] for verdict in report["verdicts"])


def test_an_unknown_asset_is_nowhere(client: httpx.Client) -> None:
    for asset in ("asset:00000000000000000000", "..%2f..%2fetc%2fpasswd"):
        assert client.get(f"/v1/media/{asset}").status_code in {404, 422}


def listed(client: httpx.Client, **body: Any) -> dict[str, Any]:
    for _ in range(2):  # a replica that was killed is away for a moment
        reply = client.post("/v1/recommendations", json={"k": 10, **body})
        if reply.status_code != 503:
            break
        time.sleep(float(reply.headers["retry-after"]))
    assert reply.status_code == 200, reply.text
    answer: dict[str, Any] = reply.json()
    return answer


def places(reply: dict[str, Any], asset_id: str) -> list[int]:
    return [place for place, entry in enumerate(reply["items"]) if entry["item_id"] == asset_id]


def until(found: Callable[[], Any], patience_s: float = 60) -> Any:
    deadline = time.monotonic() + patience_s
    while not (got := found()):
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.2)
    return got


def test_what_was_made_is_recommended_tried_with_others_survives_and_is_retired_for_ever(composed: Composed) -> None:
    client = composed.client
    reply = told(client, text="draw me a green pear in 3D style", user_id="u2", k=4)
    (media,) = reply["media"]
    asset, session = media["asset_id"], reply["session_id"]

    mine = until(lambda: (shown := listed(client, user_id="u2")) and places(shown, asset) and shown)
    assert places(mine, asset) == [4]
    entry = mine["items"][4]
    assert (entry["source"], entry["evidence"]["on_trial"], entry["evidence"]["url"]) == ("created", True, media["url"])
    assert entry["fidelity"]["verdicts"]
    assert entry["score"] < 0
    guest = listed(client, history=["item é'3"], session_id=session)
    assert places(guest, asset) == [4]
    semantic_id = client.get(f"/v1/items/{asset}").json()["semantic_id"]

    lists = [listed(client, user_id=f"u{user}") for user in range(20, 100)]
    tried = [shown for shown in lists if places(shown, asset)]
    assert tried
    assert all(places(shown, asset) == [4] for shown in tried)
    store = FeedbackStore(sqlite_url(composed.run / SQLITE_FILE))
    logged = {shown.list_id: shown for shown in store.lists()}
    for shown in tried:
        odds = [item.propensity for item in logged[shown["list_id"]].items]
        assert odds[:4] == [1.0] * 4
        assert 0 < odds[4] <= 0.5  # the half of the lists, and further made items, if there are any
    told_odds = {logged[shown["list_id"]].items[4].propensity for shown in tried}
    assert len(told_odds) == 1
    least, most = binom.ppf([1e-6, 1 - 1e-6], len(lists), told_odds.pop())
    assert least <= len(tried) <= most  # as often as the propensity says

    (replica,) = (
        child
        for child in psutil.Process(composed.process.pid).children(recursive=True)
        if "ServeReplica:genrec:recommender" in " ".join(child.cmdline())
    )
    replica.kill()
    replica.wait(30)
    again = until(lambda: (shown := listed(client, user_id="u2")) and places(shown, asset) and shown)
    assert client.get(f"/v1/items/{asset}").json()["semantic_id"] == semantic_id
    assert again["items"][4]["fidelity"] == entry["fidelity"]

    number = 0
    while number < 8:
        shown = listed(client, user_id=f"u{100 + number}")
        if not places(shown, asset):
            continue
        event = {"event_id": f"p{number}", "user_id": f"u{100 + number}", "item_id": asset, "kind": "skip"}
        assert client.post("/v1/feedback", json={"events": [{**event, "list_id": shown["list_id"]}]}).status_code == 200
        number += 1
    until(lambda: client.get(media["url"]).status_code == 404)
    until(lambda: client.get(f"/v1/items/{asset}").status_code == 404)
    for user in range(2, 42):
        assert not places(listed(client, user_id=f"u{user}"), asset)
    assert not places(told(client, text="show me a green pear", user_id="u2", session_id=session), asset)
    store.close()
