"""The files of the page: what they may hold, and how they are served."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

import serve.page
from serve.keys import KeyGuard
from serve.page import PREFIX, PageFiles

FOLDER = Path(serve.page.__file__).parent
SCRIPTS = sorted(FOLDER.glob("*.js"))


@pytest.fixture
def client() -> Iterator[TestClient]:
    api = FastAPI()
    api.add_middleware(KeyGuard, digests=[b"x" * 32])
    api.add_middleware(PageFiles)
    with TestClient(api) as client:
        yield client


def test_the_page_needs_no_key_and_all_else_does(client: TestClient) -> None:
    assert client.get("/").status_code == 200
    for name in re.findall(r'(?:src|href)="page/([^"]+)"', client.get("/").text):
        assert client.get(PREFIX + name).status_code == 200, name
    for path in ("/page/", "/page/__init__.py", "/page/../page/app.js%00", "/page/%2e%2e/keys.py", "/page/index.html"):
        assert client.get(path).status_code == 401, path
    assert client.post("/").status_code == 401


def test_a_strict_policy_comes_with_every_file_and_an_unchanged_one_is_not_sent_again(client: TestClient) -> None:
    for path in ("/", "/page/app.js", "/page/page.css"):
        reply = client.get(path)
        policy = reply.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert "http" not in policy
        again = client.get(path, headers={"If-None-Match": reply.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")


def test_scripts_import_what_is_there_and_nothing_comes_from_outside() -> None:
    page = (FOLDER / "index.html").read_text()
    assert not re.search(r"<style|\sstyle=|\son\w+=|<script(?![^>]*\ssrc=)", page)
    for file in [*SCRIPTS, *FOLDER.glob("*.css"), FOLDER / "index.html"]:
        text = file.read_text()
        assert not re.findall(r"https?://(?!www\.w3\.org/2000/svg)", text), file.name
        assert not re.search(r"innerHTML|insertAdjacentHTML|document\.write|\beval\(", text), file.name
    for script in SCRIPTS:
        for name in re.findall(r'from "\./([^"]+)"', script.read_text()):
            assert (FOLDER / name).is_file(), f"{script.name} imports {name}"


def test_every_id_that_scripts_look_up_is_on_the_page() -> None:
    page = (FOLDER / "index.html").read_text()
    ids = set(re.findall(r'\sid="([^"]+)"', page))
    assert len(ids) == len(re.findall(r'\sid="([^"]+)"', page))
    for script in SCRIPTS:
        assert set(re.findall(r'\bfind\("([^"]+)"\)', script.read_text())) <= ids, script.name
