"""API keys: read from where the settings point, asked for on every route but health, compared in constant time."""

import hmac
import io
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.routing import APIRoute
from fastapi.testclient import TestClient
from rich.console import Console
from starlette.routing import Route
from starlette.testclient import WebSocketDenialResponse

from genrec.config import ServeSettings, load_settings
from genrec.content.contracts import Decision
from genrec.errors import SettingsError
from genrec.recommender import RecommendRequest
from serve.__main__ import _announce
from serve.api import create_api
from serve.content import Decided, InstructionCall, Made, Making, MediaFile, Progress
from serve.journal import Journal
from serve.keys import MIN_KEY_LENGTH, OPEN_PATH, ApiKeysError, load_digests
from serve.process import Running
from serve.recommender import Answer, Refusal
from serve.store import FeedbackStore, sqlite_url

FIRST, SECOND = "first-key-0123456789", "second-key-0123456789"


class Counting:
    """A backend that answers without a model and counts how often it was reached."""

    calls = 0

    async def recommend(self, request: RecommendRequest, catalog: str | None = None) -> Answer | Refusal:
        Counting.calls += 1
        return Answer([], "b", "s")

    async def item(self, item_id: str, catalog: str | None = None) -> dict[str, Any] | Refusal:
        Counting.calls += 1
        return Refusal(404, "unknown_item", None, "no such item")

    async def explain(
        self, request: RecommendRequest, item_id: str, catalog: str | None = None
    ) -> dict[str, Any] | Refusal:
        Counting.calls += 1
        return Refusal(404, "unknown_item", None, "no such item")

    async def find_items(self, query: str, limit: int, catalog: str | None = None) -> list[dict[str, Any]]:
        Counting.calls += 1
        return []

    async def find_users(self, query: str, limit: int, catalog: str | None = None) -> list[dict[str, Any]]:
        Counting.calls += 1
        return []

    async def ready(self, timeout_s: float) -> None:
        return None

    async def decide(self, call: InstructionCall) -> Decided | Refusal:
        Counting.calls += 1
        probabilities = {"retrieve": 0.0, "edit": 0.0, "create": 0.0, "clarify": 1.0}
        decision = {"action": "clarify", "probabilities": probabilities, "slots": {}, "sufficiency": 0.5}
        return Decided(Decision.model_validate(decision))

    async def make(self, making: Making) -> AsyncIterator[Progress | Made]:
        Counting.calls += 1
        yield Progress(1.0, "done")

    async def media(self, asset_id: str) -> MediaFile | None:
        Counting.calls += 1
        return None

    async def provenance(self, asset_id: str) -> dict[str, Any] | None:
        Counting.calls += 1
        return None

    async def card(self, catalog: str | None = None) -> dict[str, Any]:
        Counting.calls += 1
        sizes = {"items": 1, "users": 1, "levels": [1], "max_history": 1, "card": {}}
        return {"bundle_version": "b", "sid_version": "s", **sizes}

    async def versions(self, timeout_s: float) -> tuple[str, str]:
        return "b", "s"


@pytest.fixture
def api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FastAPI]:
    monkeypatch.setenv("GENREC_KEYS", f"{FIRST}\n{SECOND}\n")
    Counting.calls = 0
    store = FeedbackStore(sqlite_url(tmp_path / "feedback.sqlite3"))
    keys = load_digests(("env:GENREC_KEYS",))
    yield create_api(ServeSettings(), Counting(), Journal(store), keys, content=Counting())
    store.close()


@pytest.fixture
def client(api: FastAPI) -> Iterator[TestClient]:
    with TestClient(api, raise_server_exceptions=False) as client:
        yield client


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def calls_of(api: FastAPI) -> list[tuple[str, str]]:
    """Method and a path for each route of the table; a route of another kind fails the test."""
    table = []
    for route in api.routes:
        assert isinstance(route, APIRoute | Route), route
        for method in route.methods or ():
            table.append((method, route.path.replace("{item_id}", "50").replace("{asset_id}", "asset:0123456789")))
    return table


def test_every_route_but_health_answers_401_without_a_key(api: FastAPI, client: TestClient) -> None:
    table = calls_of(api)
    assert {("POST", "/v1/recommendations"), ("POST", "/v1/feedback"), ("GET", "/v1/items/50")} <= set(table)
    assert {("GET", "/docs"), ("GET", "/openapi.json"), ("GET", OPEN_PATH)} <= set(table)
    assert {("POST", "/v1/instructions"), ("GET", "/v1/media/asset:0123456789")} <= set(table)
    bodies = {
        "/v1/explanations": {"user_id": "1", "item_id": "50"},
        "/v1/instructions": {"text": "something calmer"},
        "/v1/recommendations": {"user_id": "1"},
        "/v1/feedback": {"events": [{"event_id": "e", "user_id": "u", "item_id": "i", "kind": "like"}]},
    }
    for method, path in table:
        body = bodies.get(path) if method == "POST" else None
        without = client.request(method, path, json=body, follow_redirects=False)
        if path == OPEN_PATH:
            assert without.status_code == 200, (method, path)
            continue
        assert without.status_code == 401, (method, path)
        assert without.headers["www-authenticate"] == "Bearer"
        if method != "HEAD":
            assert without.json()["error"]["code"] == "unauthorized"
        assert Counting.calls == 0
        with_key = client.request(method, path, json=body, headers=bearer(SECOND), follow_redirects=False)
        missing = any(part in path for part in ("items/", "media/", "explanations"))
        assert with_key.status_code == (404 if missing else 200), (method, path, with_key.text)
        Counting.calls = 0


def test_the_page_and_its_files_need_no_key_and_lead_nowhere_else(client: TestClient) -> None:
    page = client.get("/")
    assert page.status_code == 200
    assert "script-src 'self'" in page.headers["content-security-policy"]
    assert client.get("/page/app.js").status_code == 200
    for path in ("/page/", "/page/__init__.py", "/page/../keys.py", "/page/%2e%2e/keys.py", "/page//app.js"):
        assert client.get(path).status_code == 401, path
    assert client.post("/").status_code == 401


@pytest.mark.parametrize(
    "headers",
    [
        {},
        bearer(""),
        bearer("wrong-key-0123456789"),
        bearer(FIRST[:-1]),
        bearer(FIRST + "0"),
        bearer(FIRST.upper()),
        bearer(f"{FIRST}\t{SECOND}"),
        {"Authorization": FIRST},
        {"Authorization": f"Basic {FIRST}"},
        {"X-API-Key": FIRST},
    ],
)
def test_what_is_not_a_key_is_refused(client: TestClient, headers: dict[str, str]) -> None:
    assert client.get("/v1/model", headers=headers).status_code == 401


def test_two_headers_are_refused_though_one_holds_a_key(client: TestClient) -> None:
    both = [("Authorization", f"Bearer {FIRST}"), ("Authorization", "Bearer other")]
    assert client.get("/v1/model", headers=both).status_code == 401


@pytest.mark.parametrize("key", [FIRST, SECOND])
def test_each_key_opens_and_the_scheme_is_of_any_case(client: TestClient, key: str) -> None:
    assert client.get("/v1/model", headers=bearer(key)).status_code == 200
    assert client.get("/v1/model", headers={"authorization": f"bEARER {key}"}).status_code == 200


@pytest.mark.parametrize(
    "path", ["/v1/none", "/v1/health/", "/v1/health/x", "/v1/Health", "//v1/health", "/v1/health%2f..%2fmodel"]
)
def test_a_path_that_only_looks_like_health_or_is_none_is_refused(client: TestClient, path: str) -> None:
    assert client.get(f"http://testserver{path}", follow_redirects=False).status_code == 401


def test_a_body_is_not_looked_at_before_the_key(client: TestClient) -> None:
    reply = client.post("/v1/feedback", content=b"x" * 2_000_000, headers={"content-type": "text/plain"})
    assert reply.status_code == 401


def test_a_web_socket_is_refused(client: TestClient) -> None:
    with pytest.raises(WebSocketDenialResponse) as caught, client.websocket_connect("/v1/model"):
        pass
    assert caught.value.status_code == 401


def test_every_key_is_compared_by_compare_digest(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[tuple[int, int]] = []
    real = hmac.compare_digest

    def seen(a: bytes, b: bytes) -> bool:
        compared.append((len(a), len(b)))
        return real(a, b)

    monkeypatch.setattr("serve.keys.hmac.compare_digest", seen)
    for key in (FIRST, SECOND, "x"):
        client.get("/v1/model", headers=bearer(key))
        assert compared == [(32, 32)] * 2, "the first match must not end the search, nor a length begin it"
        compared.clear()


def test_the_schema_says_where_a_key_is_asked_for(api: FastAPI) -> None:
    paths = api.openapi()["paths"]
    for path, methods in paths.items():
        for operation in methods.values():
            assert ("security" in operation, "401" in operation["responses"]) == ((path != OPEN_PATH,) * 2)


def test_without_keys_nothing_is_asked_for(tmp_path: Path) -> None:
    store = FeedbackStore(sqlite_url(tmp_path / "open.sqlite3"))
    api = create_api(ServeSettings(), Counting(), Journal(store))
    assert TestClient(api).get("/v1/model").status_code == 200
    assert "securitySchemes" not in api.openapi().get("components", {})
    store.close()


def test_keys_come_from_variables_and_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "keys").write_text(f"\n  {SECOND}\r\n\n")
    monkeypatch.setenv("GENREC_KEYS", FIRST)
    both = load_digests(("env:GENREC_KEYS", f"file:{tmp_path}/keys"))
    assert len(set(both)) == 2
    assert both[1:] == load_digests((f"file:{tmp_path}/keys",))
    assert FIRST.encode() not in b"".join(both)
    assert load_digests(()) == ()


def test_a_source_without_usable_keys_is_named_and_no_key_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    short = "x" * (MIN_KEY_LENGTH - 1)
    monkeypatch.setenv("GENREC_KEYS", f"{FIRST}\n{short}")
    monkeypatch.setenv("GENREC_EMPTY", " \n")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    for reference, words in [
        ("env:GENREC_NONE", "no such environment variable"),
        ("env:GENREC_EMPTY", "holds no key"),
        ("env:GENREC_KEYS", "key 2 must be of at least 16"),
        (f"file:{tmp_path}/none", "No such file"),
        (f"file:{tmp_path}/binary", "not a text file"),
    ]:
        with pytest.raises(ApiKeysError) as caught:
            load_digests((reference,))
        assert reference in str(caught.value)
        assert words in str(caught.value)
        assert FIRST not in str(caught.value)
        assert short not in str(caught.value)


def test_the_example_that_is_told_at_the_start_has_the_key_where_one_is_asked_for() -> None:
    for secured in (False, True):
        console = Console(file=io.StringIO(), soft_wrap=True)
        _announce(Running(1, "http://h:1", "bundle", "v", None, '{"k": 5}', secured), console)
        told = console.file.getvalue()  # type: ignore[attr-defined]
        assert ('-H "Authorization: Bearer $KEY"' in told) is secured


@pytest.mark.parametrize("value", [FIRST, "env:", "env:A B", "file:", "ENV:A"])
def test_settings_take_references_and_no_keys(value: str) -> None:
    with pytest.raises(SettingsError, match=r"^serve\.api_keys: entry 1 does not say where keys are") as caught:
        load_settings(overrides=[f"serve.api_keys={json.dumps([value])}"])
    assert FIRST not in str(caught.value)
