"""Instructions from words to reply: what is told when, sessions, drafts that do not pass, and who stops listening.

The recommender is real and in process; the content deployments' handles are stood for by a script, which says what
the parts would answer (the parts themselves are tested in their own rooms and together in tests/e2e).
"""

import asyncio
import base64
import io
import json
import struct
import zlib
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import schemathesis
from fastapi.testclient import TestClient
from PIL import Image

from genrec.config import ServeSettings
from genrec.content.contracts import Decision, FidelityReport, Slots, Verdict
from genrec.recommender import Recommender, RecommendRequest
from serve.api import create_api
from serve.content import Decided, InstructionCall, Made, Making, MediaFile, Progress
from serve.errors import ApiError
from serve.journal import Journal
from serve.recommender import Answer, RecommenderLogic, Refusal
from serve.store import FeedbackStore, sqlite_url
from tests.serving import assembled_bundle

LIMITS = ServeSettings(max_k=20, max_history=8, max_text=100, max_picture_bytes=20_000, max_picture_pixels=10_000)
ASSET = "asset:0123456789abcdef0123"


class Recommending:
    def __init__(self, logic: RecommenderLogic) -> None:
        self.logic = logic

    async def recommend(self, request: RecommendRequest, catalog: str | None = None) -> Answer | Refusal:
        return self.logic.check(request) or self.logic.answer([request])[0]


class Script:
    """Decides by the first word of the text: retrieve, create, edit, clarify; ``unsafe`` in it fails the checks."""

    def __init__(self) -> None:
        self.calls: list[InstructionCall] = []
        self.stopped = asyncio.Event()
        self.hang = False

    async def ready(self, timeout_s: float) -> None:
        return None

    async def decide(self, call: InstructionCall) -> Decided | Refusal:
        self.calls.append(call)
        first = [*call.text.split(), ""][0]
        action = first if first in {"retrieve", "edit", "create"} else "clarify"
        if first == "nonsense":
            return Refusal(422, "invalid_request", "text", "text: of nothing we know")
        probabilities = {name: float(name == action) for name in ("retrieve", "edit", "create", "clarify")}
        decision = Decision(
            action=action,  # type: ignore[arg-type]
            probabilities=probabilities,  # type: ignore[arg-type]
            slots=Slots(target="a boat", style="flat"),
            sufficiency=0.5,
            question="what do you mean?" if action == "clarify" else None,
            trace=("it was said",),
        )
        return Decided(decision, matches=("item é'9", "item é'2", "item é'5") if action == "retrieve" else ())

    async def make(self, making: Making) -> AsyncIterator[Progress | Made]:
        yield Progress(0.5, "creating")
        if self.hang:
            try:
                await asyncio.sleep(60)
            finally:
                self.stopped.set()
        if "pictureless" in making.call.text:
            raise ApiError(422, "cannot_edit", "the item has no picture to edit", field="text")
        passed = "unsafe" not in making.call.text
        verdict = Verdict(check="safety", passed=passed, score=0.1, evidence="nothing of the kind")
        report = FidelityReport(draft="d", policy="p", verdicts=(verdict,), time=1.0)
        yield Made(
            report, ASSET if passed else None, "A boat", "create", "image/png", 64, 64, {"prompt": making.prompt}
        )

    async def judge(self, retired: Mapping[str, str], proved: Sequence[str]) -> None:
        return None

    async def media(self, asset_id: str) -> MediaFile | None:
        return MediaFile(b"png", "image/png") if asset_id == ASSET else None

    async def provenance(self, asset_id: str) -> dict[str, Any] | None:
        return {"model": "m"} if asset_id == ASSET else None


@pytest.fixture(scope="module")
def logic(tmp_path_factory: pytest.TempPathFactory) -> RecommenderLogic:
    return RecommenderLogic(Recommender.load(assembled_bundle(tmp_path_factory.mktemp("bundle"))), LIMITS)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[FeedbackStore]:
    store = FeedbackStore(sqlite_url(tmp_path / "feedback.sqlite3"))
    yield store
    store.close()


@pytest.fixture
def script() -> Script:
    return Script()


@pytest.fixture
def client(logic: RecommenderLogic, store: FeedbackStore, script: Script) -> Iterator[TestClient]:
    api = create_api(LIMITS, Recommending(logic), Journal(store), content=script)  # type: ignore[arg-type]
    with TestClient(api, raise_server_exceptions=False) as client:
        yield client


def told(client: TestClient, **body: Any) -> dict[str, Any]:
    reply = client.post("/v1/instructions", json=body)
    assert reply.status_code == 200, reply.text
    answer: dict[str, Any] = reply.json()
    return answer


def test_what_satisfies_comes_first_and_the_rest_is_what_the_user_would_like(client: TestClient) -> None:
    reply = told(client, text="retrieve boats", user_id="u1", k=6)
    fitting = [entry["item_id"] for entry in reply["items"] if entry["evidence"].get("fits_instruction")]
    assert [entry["item_id"] for entry in reply["items"]][: len(fitting)] == fitting
    assert set(fitting) <= {"item é'9", "item é'2", "item é'5"}
    assert len(reply["items"]) == 6
    assert len({entry["item_id"] for entry in reply["items"]}) == 6
    assert (reply["decision"]["action"], reply["media"], reply["note"]) == ("retrieve", [], None)


def test_nobody_known_gets_what_fits_and_what_follows_on_it(client: TestClient) -> None:
    assert len(told(client, text="retrieve boats", k=4)["items"]) == 4
    assert told(client, text="create a boat", k=4)["items"][0]["item_id"] == ASSET


def test_what_is_made_leads_the_list_and_is_logged_with_it(client: TestClient, store: FeedbackStore) -> None:
    reply = told(client, text="create a boat", user_id="u1", k=5)
    first, *others = reply["items"]
    assert (first["item_id"], first["source"]) == (ASSET, "created")
    assert first["fidelity"]["verdicts"][0]["passed"]
    assert [entry["source"] for entry in others] == ["generated-id"] * 4
    (media,) = reply["media"]
    assert client.get(media["url"]).content == b"png"
    assert client.get(media["provenance_url"]).json() == {"model": "m"}
    (logged,) = store.lists()
    assert (logged.items[0].item_id, logged.items[0].propensity) == (ASSET, None)
    assert [item.propensity for item in logged.items[1:]] == [1.0] * 4


def test_a_draft_that_does_not_pass_is_told_of_and_not_shown(client: TestClient) -> None:
    reply = told(client, text="create an unsafe boat", user_id="u1", k=5)
    assert ASSET not in json.dumps(reply)
    assert reply["refused"][0]["verdicts"][0]["passed"] is False
    assert len(reply["items"]) == 5


def test_what_cannot_be_edited_is_said_beside_the_list(client: TestClient) -> None:
    reply = told(client, text="edit pictureless", user_id="u1", k=5)
    assert "no picture to edit" in reply["note"]
    assert len(reply["items"]) == 5


def test_a_question_comes_without_a_list(client: TestClient, store: FeedbackStore) -> None:
    reply = told(client, text="clarify", user_id="u1")
    assert (reply["items"], reply["list_id"], reply["decision"]["question"]) == ([], None, "what do you mean?")
    assert store.lists() == []


def test_a_session_remembers_turns_list_and_what_was_rejected(
    client: TestClient, script: Script, logic: RecommenderLogic, store: FeedbackStore
) -> None:
    first = told(client, text="retrieve boats", user_id="u1", k=3)
    shown = [entry["item_id"] for entry in first["items"]]
    events = [
        {"event_id": f"e{n}", "user_id": "u1", "item_id": item, "kind": kind, "list_id": first["list_id"]}
        for n, (item, kind) in enumerate(zip(shown, ("like", "skip", "dislike"), strict=True))
    ]
    assert client.post("/v1/feedback", json={"events": events}).status_code == 200
    # As after a restart: another app around the same store.
    again = TestClient(create_api(LIMITS, Recommending(logic), Journal(store), content=script))  # type: ignore[arg-type]
    second = told(again, text="create one", user_id="u1", session_id=first["session_id"])
    call = script.calls[-1]
    assert (call.turns, call.shown, call.rejected) == (("retrieve boats",), tuple(shown), 2)
    assert call.recent == (shown[0],)
    told(again, text="clarify", session_id=first["session_id"])
    assert script.calls[-1].turns == ("retrieve boats", "create one")
    assert script.calls[-1].shown[0] == ASSET == second["items"][0]["item_id"]
    told(again, text="clarify", session_id="another-session")
    assert script.calls[-1].turns == ()


def test_generated_instructions_never_meet_a_server_error(
    logic: RecommenderLogic, store: FeedbackStore, script: Script
) -> None:
    """From the published schema, valid and broken, with schemathesis' own checks; so for media and their origin."""
    api = create_api(LIMITS, Recommending(logic), Journal(store), content=script)  # type: ignore[arg-type]
    schema = schemathesis.openapi.from_asgi("/openapi.json", api)
    seen: Counter[int] = Counter()

    def send(case: schemathesis.Case) -> None:
        if isinstance(case.body, dict) and case.meta.generation.mode.is_positive:
            case.body["text"] = f"create {case.body.get('text', '')}"[:100]
            if case.body.get("picture") is not None:  # no schema can say which strings are pictures
                case.body["picture"] = encoded(saved("PNG"))
            if case.body.get("history") is not None:  # nor which items are known
                case.body["history"] = [f"item é'{len(item) % 60}" for item in case.body["history"]]
        reply = case.call()
        seen[reply.status_code] += 1
        assert reply.status_code < 500, reply.text
        case.validate_response(reply)

    for found in schema.get_all_operations():
        operation = found.ok()
        if not operation.path.startswith(("/v1/instructions", "/v1/media")):
            continue
        for mode in schemathesis.GenerationMode:
            run = hypothesis.given(case=operation.as_strategy(generation_mode=mode))(send)
            hypothesis.settings(
                max_examples=40,
                deadline=None,
                database=None,
                derandomize=True,
                suppress_health_check=list(hypothesis.HealthCheck),
            )(run)()
    assert {200, 422} <= set(seen), seen


def events_of(text: str) -> list[tuple[str, dict[str, Any]]]:
    blocks = [block.split("\n") for block in text.strip().split("\n\n")]
    return [(name.removeprefix("event: "), json.loads(data.removeprefix("data: "))) for name, data in blocks]


def test_the_stream_tells_the_way_and_ends_with_the_reply(client: TestClient) -> None:
    headers = {"Accept": "text/event-stream"}
    body = {"text": "create a boat", "user_id": "u1", "k": 3}
    reply = client.post("/v1/instructions", json=body, headers=headers)
    assert reply.headers["content-type"].startswith("text/event-stream")
    steps = events_of(reply.text)
    names = [name for name, _ in steps]
    assert names.index("decision") < names.index("item") < names.index("done") == len(names) - 1
    shares = [data["share"] for name, data in steps if name == "progress"]
    assert shares == sorted(shares)
    assert [data for name, data in steps if name == "item"] == steps[-1][1]["items"]
    assert dict(steps)["decision"]["action"] == "create"
    (failed,) = events_of(client.post("/v1/instructions", json={"text": "nonsense"}, headers=headers).text)[1:]
    assert failed == (
        "error",
        {"error": {"code": "invalid_request", "field": "text", "message": "text: of nothing we know"}},
    )


@pytest.mark.parametrize("accept", ["application/json", "text/event-stream"])
def test_who_goes_away_has_the_work_stopped(
    logic: RecommenderLogic, store: FeedbackStore, script: Script, accept: str
) -> None:
    script.hang = True
    api = create_api(LIMITS, Recommending(logic), Journal(store), content=script)  # type: ignore[arg-type]
    content = json.dumps({"text": "create a boat", "user_id": "u1"}).encode()
    headers = [(b"content-type", b"application/json"), (b"accept", accept.encode())]
    scope = {
        "type": "http", "method": "POST", "path": "/v1/instructions", "raw_path": b"/v1/instructions",
        "headers": headers, "query_string": b"", "http_version": "1.1", "scheme": "http", "client": ("c", 1),
        "server": ("s", 1), "root_path": "", "asgi": {"version": "3.0", "spec_version": "2.3"},
    }  # fmt: skip

    async def story() -> None:
        sent = [{"type": "http.request", "body": content, "more_body": False}]

        async def receive() -> dict[str, Any]:
            if sent:
                return sent.pop()
            while not script.calls:
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.3)
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            pass

        await asyncio.wait_for(api(scope, receive, send), 20)
        await asyncio.wait_for(script.stopped.wait(), 5)

    asyncio.run(story())


def png(width: int, height: int) -> bytes:
    """A PNG by hand: one colour, whatever the size, in a few bytes a row."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    rows = zlib.compress(b"\0" * ((width + 1) * min(height, 300)), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


def saved(kind: str) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (40, 30), "red").save(stream, kind)
    return stream.getvalue()


def test_a_picture_is_read_and_bombs_are_not(client: TestClient, script: Script) -> None:
    told(client, text="clarify", picture=encoded(saved("JPEG")))
    assert script.calls[-1].picture is not None
    assert script.calls[-1].picture.size == (40, 30)
    for bad, words in [
        (encoded(png(20_000, 20_000)), "400000000|20000 x 20000|larger|read"),
        (encoded(png(101, 100)), "101 x 100 pixels"),
        (encoded(saved("GIF")), "PNG or JPEG"),
        (encoded(saved("PNG")[:60]), "PNG or JPEG"),
        (encoded(b"<svg/>"), "PNG or JPEG"),
        ("!" * 8, "base64"),
        (encoded(b"\0" * 20_001), "20000"),
    ]:
        reply = client.post("/v1/instructions", json={"text": "clarify", "picture": bad})
        assert reply.status_code == 422, bad[:40]
        assert reply.json()["error"]["field"] == "picture"
        assert any(word in reply.json()["error"]["message"] for word in words.split("|")), reply.text


@pytest.mark.parametrize(
    "body",
    [
        {"text": "x" * 101},
        {"text": "a\x00b"},
        {"text": "clarify", "k": 10**6},
        {"text": "clarify", "session_id": "../../etc"},
        {"text": "clarify", "more": 1},
        {"text": 5},
    ],
)
def test_what_is_out_of_bounds_is_refused(client: TestClient, script: Script, body: dict[str, Any]) -> None:
    assert client.post("/v1/instructions", json=body).status_code == 422
    assert not script.calls


@pytest.mark.parametrize(
    "asset",
    ["..%2f..%2fetc%2fpasswd", "asset:..%2f..%2fkey", "asset:zzzzzzzz", "%2e%2e", "asset:0123456789abcdef0124", "a\\b"],
)
def test_media_ids_lead_nowhere_else(client: TestClient, asset: str) -> None:
    for path in (f"/v1/media/{asset}", f"/v1/media/{asset}/provenance"):
        reply = client.get(path)
        assert reply.status_code in {404, 422}, (path, reply.status_code)
        assert "root:" not in reply.text
