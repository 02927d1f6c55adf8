"""Starting the application on a local Ray: what is refused before, and how it answers when it is too slow."""

import inspect
import json
import socket
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import ray

from genrec.config import ServeSettings, Settings
from genrec.errors import ArtifactError, SettingsError
from serve.app import BuildArguments, application
from serve.process import Running, ServiceError
from serve.ready import ReadyRoom
from serve.runtime import service
from tests.serving import assembled_bundle

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return assembled_bundle(tmp_path_factory.mktemp("bundle"))


def settings(folder: Path, **serve: object) -> Settings:
    return Settings.model_validate(
        {
            "run": {"directory": str(folder / "runs")},
            "ray": {"num_cpus": 2, "object_store_mib": 200, "dashboard": False},
            "serve": {"port": 0, "content": False, **serve},
        }
    )


def test_more_replicas_than_the_cluster_holds_are_refused(bundle: Path, tmp_path: Path) -> None:
    """Before the module's own cluster is started. Serve itself would wait for ever."""
    many = settings(tmp_path, replicas=9)
    with pytest.raises(ServiceError, match=r"serve\.replicas: 9 replicas"), service(many, bundle):
        pass
    assert not ray.is_initialized()


def test_an_altered_bundle_is_refused_before_a_cluster_is_started(tmp_path: Path) -> None:
    bundle = assembled_bundle(tmp_path)
    weights = bytearray((bundle / "weights.safetensors").read_bytes())
    weights[-1] ^= 1
    (bundle / "weights.safetensors").write_bytes(weights)
    with pytest.raises(ArtifactError, match=r"weights\.safetensors"), service(settings(tmp_path), bundle):
        pass


def test_a_taken_port_is_named(bundle: Path, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        chosen, words = settings(tmp_path, port=port), f"serve.port: 127.0.0.1:{port}"
        with pytest.raises(ServiceError, match=words), service(chosen, bundle):
            pass


def test_the_builder_for_serve_config_files_takes_typed_arguments(bundle: Path) -> None:
    annotation = inspect.signature(application).parameters["arguments"].annotation
    assert annotation is BuildArguments, "a string here (postponed annotations) makes Serve pass a raw dict"
    with pytest.raises(SettingsError, match=r"serve\.max_kk: unknown key; did you mean 'max_k'"):
        application(BuildArguments(bundle=str(bundle), overrides=("serve.max_kk=5",)))


@pytest.fixture(scope="module")
def slow(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Two replicas whose half-filled batches wait longer than a request may take."""
    chosen = settings(tmp_path_factory.mktemp("slow"), replicas=2, batch_wait_s=2.0, request_timeout_s=0.3)
    with service(chosen, bundle) as state:
        yield state


def test_a_request_that_takes_too_long_gets_504_and_its_work_is_cancelled(slow: Running) -> None:
    reply = httpx.post(f"{slow.url}/v1/recommendations", json={"user_id": "u1"}, timeout=30)
    assert (reply.status_code, reply.json()["error"]["code"]) == (504, "timeout")
    assert httpx.get(f"{slow.url}/v1/health", timeout=30).json()["status"] == "ready"


def test_the_published_example_names_a_known_user(slow: Running) -> None:
    user = json.loads(slow.example)["user_id"]
    unknown = httpx.post(f"{slow.url}/v1/recommendations", json={"user_id": "nobody"}, timeout=30)
    known = httpx.post(f"{slow.url}/v1/recommendations", json={"user_id": user}, timeout=30)
    assert (unknown.status_code, known.status_code) == (404, 504), "known: it waits for its batch"


def test_the_room_for_lists_follows_the_replicas_that_are_ready(slow: Running) -> None:
    limits = ServeSettings(max_replicas=3, batch_size=4, max_ongoing_requests=4, max_queued_requests=1)
    room = ReadyRoom(limits)
    assert (room(), room.look(), room()) == (5, 9, 9), "one replica at first, two as Serve tells, three at most"
    assert ReadyRoom(limits.model_copy(update={"max_replicas": None})).look() == 5, "a fixed number is not asked for"


def test_the_replicas_decode_with_their_share_of_threads(slow: Running) -> None:
    """A thread pool as wide as the machine in each replica would slow all of them down."""
    from ray import serve

    handle = serve.get_deployment_handle("recommender", "genrec")
    assert {handle.threads.remote().result(timeout_s=30) for _ in range(6)} == {1}
