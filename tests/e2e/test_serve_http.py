"""The endpoint as people run it: ``python -m serve`` in a process of its own, spoken to over HTTP.

It serves what the whole pipeline made of a tiny data set. One service for the module, with a small queue so
that a burst of clients meets its end.
"""

import asyncio
import itertools
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import psutil
import pytest
import torch

from genrec.bundle import Bundle, load_bundle
from genrec.decoding import generate
from genrec.models.contracts import PAD_ITEM, Batch
from genrec.recommender import Recommender
from serve.__main__ import main as serve_command
from serve.process import Running, owner, running
from serve.rollout import ROLLOUT_FILE, Rollouts
from serve.store import SQLITE_FILE, FeedbackStore, sqlite_url
from tests.serving import ITEMS, USERS, assembled_bundle, end_service, pipeline_bundle
from tests.serving_fuzz import fuzzed

pytestmark = pytest.mark.e2e

MAX_BODY, MAX_K, K = 20_000, 20, 10
LIMITS = {
    "serve.max_k": MAX_K,
    "serve.max_history": 10,
    "serve.max_exclude": 5,
    "serve.max_feedback": 5,  # one more must fit into the body limit, so that it is this limit that answers
    "serve.max_body_bytes": MAX_BODY,
    "serve.batch_size": 4,
    "serve.max_ongoing_requests": 8,
    "serve.max_queued_requests": 16,
    "serve.max_found": 10,
    "serve.max_ongoing_of_client": 500,
    "serve.content": "false",
}
CLIENTS = 8


@dataclass
class Service:
    """The running service and what was seen of it."""

    process: subprocess.Popen[bytes]
    state: Running
    bundle: Path
    run: Path
    books: Path
    before_ready: list[int | None] = field(default_factory=list)

    @property
    def url(self) -> str:
        return self.state.url


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def health_status(url: str) -> int | None:
    """Status of the health route; None where nothing listens."""
    try:
        return httpx.get(f"{url}/v1/health", timeout=5).status_code
    except httpx.TransportError:
        return None


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("serve")
    bundle, made_with = pipeline_bundle(folder)
    port, run = free_port(), Path(made_with.run.directory) / made_with.run.name
    (folder / "books").mkdir()
    books = assembled_bundle(folder / "books", seed=2)
    catalogs = {"serve.catalogs": json.dumps({"books": str(books)})}
    settings = {
        "serve.port": port,
        **LIMITS,
        **catalogs,
        "ray.num_cpus": 2,
        "ray.object_store_mib": 200,
        "ray.dashboard": "false",
    }
    overrides = [argument for key, value in settings.items() for argument in ("--set", f"{key}={value}")]
    log = folder / "log"
    with log.open("wb") as stream:
        process = subprocess.Popen(
            [sys.executable, "-m", "serve", "--config", str(run / "settings.yaml"), *overrides],
            stdout=stream,
            stderr=subprocess.STDOUT,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            cwd=Path(__file__).parents[2],
        )
    before: list[int | None] = []
    try:
        while (status := health_status(f"http://127.0.0.1:{port}")) != 200:
            before.append(status)
            assert process.poll() is None, log.read_text()
            time.sleep(0.05)
        while (state := running(run)) is None:
            assert process.poll() is None, log.read_text()
            time.sleep(0.05)
        yield Service(process, state, bundle, run, books, before)
    finally:
        end_service(process)


@pytest.fixture(scope="module")
def bundle(service: Service) -> Bundle:
    return load_bundle(service.bundle)


@pytest.fixture
def client(service: Service) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=service.url, timeout=60) as client:
        yield client


def test_health_is_refused_until_the_model_is_warm(service: Service, client: httpx.Client) -> None:
    assert service.before_ready, "the first poll came before anything could be ready"
    assert 200 not in service.before_ready
    assert client.post("/v1/recommendations", json={"user_id": "u0"}).status_code == 200


def test_served_lists_equal_offline_generate_for_200_users(service: Service, bundle: Bundle) -> None:
    users = list(bundle.interactions.user_ids[:200])

    def served(user: str) -> list[tuple[str, float]]:
        reply = client.post("/v1/recommendations", json={"user_id": user, "k": K})
        assert reply.status_code == 200
        shown = reply.json()
        assert shown["sid_version"] == bundle.sid_table.version
        return [(entry["item_id"], entry["score"]) for entry in shown["items"]]

    with httpx.Client(base_url=service.url, timeout=60) as client, ThreadPoolExecutor(CLIENTS) as pool:
        lists = list(pool.map(served, users))
    expected = offline(bundle, 200)
    assert [[item for item, _ in one] for one in lists] == [[item for item, _ in one] for one in expected]
    for one, other in zip(lists, expected, strict=True):
        assert [score for _, score in one] == pytest.approx([score for _, score in other], abs=1e-4)


def offline(bundle: Bundle, users: int) -> list[list[tuple[str, float]]]:
    """Lists by ``generate`` itself, without the recommender between."""
    histories = [torch.as_tensor(bundle.interactions.sequence(user)).long() for user in range(users)]
    longest = bundle.settings.data.max_history

    def padded(rows: list[torch.Tensor]) -> torch.Tensor:
        return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=PAD_ITEM)

    with torch.inference_mode():
        ranked = generate(
            bundle.backbone(),
            Batch(history_BT=padded([row[-longest:] for row in histories])),
            K,
            beams=bundle.settings.evaluation.beams,
            exclude_BS=padded(histories),
        )
    ids = bundle.catalog.item_ids
    rows = zip(ranked.items_BK.tolist(), ranked.scores_BK.tolist(), strict=True)
    return [[(ids[i], score) for i, score in zip(items, scores, strict=True) if i >= 0] for items, scores in rows]


def test_every_list_shown_is_logged_with_positions_and_propensity(service: Service, client: httpx.Client) -> None:
    shown = client.post("/v1/recommendations", json={"user_id": "u3", "k": 4}).json()
    store = FeedbackStore(sqlite_url(service.run / SQLITE_FILE))
    (logged,) = store.lists(shown["request_id"])
    store.close()
    assert logged.list_id == shown["list_id"]
    assert (logged.user_id, logged.k, logged.bundle_version) == ("u3", 4, service.state.version)
    assert [(item.item_id, item.position, item.propensity) for item in logged.items] == [
        (entry["item_id"], i, 1.0) for i, entry in enumerate(shown["items"])
    ]


def test_feedback_is_stored_once_and_changes_the_next_list(client: httpx.Client) -> None:
    listed = client.post("/v1/recommendations", json={"user_id": "u5", "k": K}).json()
    best = listed["items"][0]["item_id"]
    told = {"event_id": "e1", "user_id": "u5", "item_id": best, "kind": "consume"}
    body = {"events": [{**told, "list_id": listed["list_id"], "position": 0}]}
    replies = [client.post("/v1/feedback", json=body) for _ in range(2)]
    assert [reply.json() for reply in replies] == [{"stored": 1, "duplicates": 0}, {"stored": 0, "duplicates": 1}]
    after = [entry["item_id"] for entry in client.post("/v1/recommendations", json={"user_id": "u5"}).json()["items"]]
    assert best not in after


def test_a_bad_request_does_not_harm_those_it_shares_a_batch_with(service: Service) -> None:
    async def burst() -> list[httpx.Response]:
        async with httpx.AsyncClient(base_url=service.url, timeout=60) as client:
            users = ["u1", "nobody", "u2", "nobody either"] * 3
            return await asyncio.gather(*(client.post("/v1/recommendations", json={"user_id": u}) for u in users))

    assert [reply.status_code for reply in asyncio.run(burst())] == [200, 404, 200, 404] * 3


def test_bodies_over_the_limit_are_refused_whether_declared_or_endless(client: httpx.Client) -> None:
    kind = {"content-type": "application/json"}

    def endless() -> Iterator[bytes]:
        for _ in range(100):
            yield b'"' + b"x" * 1000

    for content in (b"x" * (MAX_BODY + 1), endless()):
        reply = client.post("/v1/recommendations", content=content, headers=kind)
        assert (reply.status_code, reply.json()["error"]["code"]) == (413, "body_too_large")
    largest = json.dumps({"user_id": "u1"}).ljust(MAX_BODY).encode()
    assert client.post("/v1/recommendations", content=largest, headers=kind).status_code == 200


@pytest.mark.parametrize(
    "body",
    [
        {"user_id": "u1", "k": MAX_K + 1},
        {"user_id": "u1", "k": 10**6},
        {"history": ["item é'1"] * 11},
        {"user_id": "u1", "exclude": ["item é'1"] * 6},
        {"user_id": "u" * 257},
    ],
)
def test_sizes_over_the_limits_are_refused(client: httpx.Client, body: dict[str, object]) -> None:
    reply = client.post("/v1/recommendations", json=body)
    assert reply.status_code == 422
    assert reply.json()["error"]["field"] in body


def test_generated_requests_never_meet_a_server_error(
    service: Service, record_property: Callable[[str, object], None]
) -> None:
    """At least 1,000 requests from the published schema (`python -m benchmarks serving schema` sends more)."""
    told = fuzzed(
        service.url,
        lambda label, takes: 350 if label.endswith("/v1/recommendations") else 100 if takes else 5,
        [f"u{user}" for user in range(USERS)],
        [f"item é'{item}" for item in range(ITEMS)],
    )
    seen = sum(told.values(), Counter[int]())
    record_property("statuses", dict(seen))
    assert seen.total() >= 1000, seen
    assert {200, 400, 404, 422} <= set(seen), seen
    assert seen[200] >= 100, seen
    assert health_status(service.url) == 200


def test_a_burst_is_shed_with_retry_after_and_the_rest_is_answered(
    service: Service, record_property: Callable[[str, object], None]
) -> None:
    async def burst() -> list[httpx.Response]:
        limits = httpx.Limits(max_connections=200)
        async with httpx.AsyncClient(base_url=service.url, timeout=60, limits=limits) as client:
            body = {"history": [f"item é'{i}" for i in range(8)], "k": MAX_K}
            return await asyncio.gather(*(client.post("/v1/recommendations", json=body) for _ in range(150)))

    replies = asyncio.run(burst())
    record_property("statuses", dict(Counter(reply.status_code for reply in replies)))
    shed = [reply for reply in replies if reply.status_code == 503]
    answered = [reply for reply in replies if reply.status_code == 200]
    assert len(shed) + len(answered) == len(replies), Counter(reply.status_code for reply in replies)
    assert shed
    assert answered
    for reply in shed:
        assert int(reply.headers["retry-after"]) >= 1
        if reply.headers["content-type"] == "application/json":  # else Serve's proxy refused it for us
            assert reply.json()["error"]["code"] == "overloaded"
    assert len({reply.json()["items"][0]["item_id"] for reply in answered}) == 1
    assert health_status(service.url) == 200


def test_the_model_card_is_the_bundles(client: httpx.Client, bundle: Bundle) -> None:
    card = client.get("/v1/model").json()
    assert (card["bundle_version"], card["items"]) == (bundle.version, ITEMS)
    assert card["card"] == bundle.card


def test_a_further_catalog_is_served_beside_the_runs_own(service: Service, client: httpx.Client) -> None:
    expected = [entry.item_id for entry in Recommender.load(service.books).recommend(["u7"], K)[0]]
    body = {"user_id": "u7", "k": K}
    for reply in (
        client.post("/v1/recommendations", json={**body, "catalog": "books"}),
        client.post("/v1/recommendations", json=body, headers={"X-Catalog": "books"}),
    ):
        assert [entry["item_id"] for entry in reply.json()["items"]] == expected
        assert reply.json()["bundle_version"] != service.state.version
    assert client.post("/v1/recommendations", json=body).json()["bundle_version"] == service.state.version
    unknown = client.get("/v1/model", headers={"X-Catalog": "music"})
    assert (unknown.status_code, unknown.json()["error"]["code"]) == (404, "unknown_catalog")


def test_bundles_are_swapped_under_load_without_a_lost_or_wrong_list(service: Service, tmp_path: Path) -> None:
    """In, a broken one refused, back: clients that never try again see lists of one version or the other, whole."""
    other = assembled_bundle(tmp_path, seed=1)
    broken = tmp_path / "broken"
    shutil.copytree(other, broken)
    (broken / "weights.safetensors").write_bytes((other / "weights.safetensors").read_bytes()[:-1] + b"x")
    models = {model.version: model for model in (Recommender.load(service.bundle), Recommender.load(other))}
    users = [f"u{user}" for user in range(100, 120)]
    expected = {
        (version, user): [entry.item_id for entry in entries]
        for version, model in models.items()
        for user, entries in zip(users, model.recommend(users, K), strict=True)
    }
    run = ["--set", f"run.directory={service.run.parent}", "--set", f"run.name={service.run.name}"]
    ended, seen = threading.Event(), Counter[tuple[int, str, bool]]()

    def ask(offset: int) -> None:
        with httpx.Client(base_url=service.url, timeout=60) as client:
            for user in itertools.cycle(users[offset:] + users[:offset]):
                reply = client.post("/v1/recommendations", json={"user_id": user, "k": K})
                told = reply.json()
                version = told.get("bundle_version", "")
                right = [entry["item_id"] for entry in told.get("items", [])] == expected.get((version, user))
                seen[reply.status_code, version, right] += 1
                if ended.is_set():
                    return

    with ThreadPoolExecutor(3) as pool:
        asking = [pool.submit(ask, offset) for offset in (0, 7, 13)]
        try:
            assert serve_command(["swap", str(other), *run]) == 0
            assert httpx.get(f"{service.url}/v1/health", timeout=30).json()["bundle_version"] in models
            time.sleep(0.5)
            assert serve_command(["swap", str(broken), *run]) == 2
            assert serve_command(["rollback", *run]) == 0
            time.sleep(1.5)
        finally:
            ended.set()
        for one in asking:
            one.result(60)
    assert {(status, right) for status, _, right in seen} == {(200, True)}, seen
    assert {version for _, version, _ in seen} == set(models)
    rollout = Rollouts(service.run / ROLLOUT_FILE).read()["default"]
    assert (rollout.stable, rollout.previous) == (str(service.bundle.resolve()), str(other.resolve()))
    assert httpx.get(f"{service.url}/v1/model", timeout=30).json()["bundle_version"] == service.state.version


def test_a_killed_replica_loses_no_list_of_clients_that_try_again(service: Service) -> None:
    users = [f"u{user}" for user in range(120, 130)]
    expected = [
        [entry.item_id for entry in entries] for entries in Recommender.load(service.bundle).recommend(users, K)
    ]

    def ask(user: str) -> list[str]:
        with httpx.Client(base_url=service.url, timeout=60) as client:
            for _ in range(2):
                reply = client.post("/v1/recommendations", json={"user_id": user, "k": K})
                if reply.status_code == 200:
                    break
                assert reply.status_code == 503
                time.sleep(float(reply.headers["retry-after"]))
            return [entry["item_id"] for entry in reply.json()["items"]]

    (replica,) = (
        child
        for child in psutil.Process(service.process.pid).children(recursive=True)
        if "ServeReplica:genrec:recommender" in " ".join(child.cmdline())
    )
    with ThreadPoolExecutor(3) as pool:
        lists = [pool.submit(ask, user) for user in users]
        replica.kill()
        assert [one.result(120) for one in lists] == expected
    assert health_status(service.url) == 200


def test_sigterm_ends_it_cleanly(service: Service) -> None:
    """Last in this module: the service and the cluster that it started are gone, and the run may be served again."""
    assert owner(service.run) == service.process.pid
    children = subprocess.run(
        ["ps", "-o", "pid=", "--ppid", str(service.process.pid)], capture_output=True, text=True, check=True
    ).stdout.split()
    assert children
    service.process.send_signal(signal.SIGTERM)
    assert service.process.wait(60) == 0
    assert owner(service.run) is None
    assert health_status(service.url) is None
    deadline = time.monotonic() + 20
    while any(Path(f"/proc/{pid}").exists() for pid in children) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not [pid for pid in children if Path(f"/proc/{pid}").exists()]
