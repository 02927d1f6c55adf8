"""The real API over real HTTP in this process: uvicorn in a thread around the recommender's logic, without Ray.

``DrawingContent`` stands where instructor, creator, editor and fidelity stand in the composed application: it speaks
their contract, decides by a word, and draws a picture, so that the page and the client meet every kind of answer in
seconds. What the real parts decide and make is tested where they live.
"""

import asyncio
import hashlib
import io
import threading
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import uvicorn
from fastapi import FastAPI
from PIL import Image, ImageDraw

from genrec.content.contracts import ACTIONS, Decision, FidelityReport, Slots, Verdict
from genrec.content.library.asset import PREFIX
from genrec.recommender import RecommendRequest
from serve.content import Decided, InstructionCall, Made, Making, MediaFile, Progress
from serve.recommender import Answer, RecommenderLogic, Refusal

CHECKS = ("safety", "privacy", "bias", "authenticity", "legality", "identifiability")
STEPS = 5


class LogicBackend:
    """The recommender's logic as the routes reach it."""

    def __init__(self, logic: RecommenderLogic) -> None:
        self.logic = logic

    async def recommend(self, request: RecommendRequest, catalog: str | None = None) -> Answer | Refusal:
        return self.logic.check(request) or self.logic.answer([request])[0]

    async def explain(
        self, request: RecommendRequest, item_id: str, catalog: str | None = None
    ) -> dict[str, Any] | Refusal:
        return self.logic.explain(request, item_id)

    async def item(self, item_id: str, catalog: str | None = None) -> dict[str, Any] | Refusal:
        return self.logic.item(item_id)

    async def find_items(self, query: str, limit: int, catalog: str | None = None) -> list[dict[str, Any]]:
        return self.logic.find_items(query, limit)

    async def find_users(self, query: str, limit: int, catalog: str | None = None) -> list[dict[str, Any]]:
        return self.logic.find_users(query, limit)

    async def card(self, catalog: str | None = None) -> dict[str, Any]:
        return self.logic.card()

    async def versions(self, timeout_s: float) -> tuple[str, str]:
        return self.logic.recommender.version, self.logic.recommender.sid_version


class DrawingContent:
    """Decides by a word: ``but as`` edits, ``make`` creates, ``forbidden`` fails a check, few letters need asking."""

    def __init__(self, matches: tuple[str, ...]) -> None:
        self.matches = matches
        self.files: dict[str, bytes] = {}
        self.manifests: dict[str, dict[str, Any]] = {}
        self.calls: list[InstructionCall] = []
        self.stopped = 0
        self.step_s = 0.05

    async def ready(self, timeout_s: float) -> None:
        return None

    async def decide(self, call: InstructionCall) -> Decided | Refusal:
        self.calls.append(call)
        text = call.text
        action = "edit" if "but as" in text else "create" if "make" in text.lower() else "retrieve"
        if len(text) < 4 and call.picture is None:
            action = "clarify"
        decision = Decision(
            action=action,
            probabilities={one: 0.85 if one == action else 0.05 for one in ACTIONS},
            slots=Slots(target=text[:40] or None, medium="image" if action in {"edit", "create"} else None),
            sufficiency=0.8 if action == "retrieve" else 0.2,
            question="What should it be about?" if action == "clarify" else None,
            trace=("A word of the wish decided.", "Nothing else was looked at."),
        )
        source = call.shown[0] if action == "edit" and call.shown else None
        return Decided(decision, self.matches if action == "retrieve" else (), source)

    async def make(self, making: Making) -> AsyncIterator[Progress | Made]:
        call, action = making.call, making.decided.decision.action
        try:
            for step in range(STEPS):
                yield Progress(step / STEPS, "creating" if action == "create" else "editing")
                await asyncio.sleep(self.step_s)
        except (asyncio.CancelledError, GeneratorExit):
            self.stopped += 1
            raise
        passed = "forbidden" not in call.text
        asset = PREFIX + hashlib.sha256(call.text.encode()).hexdigest()[:32]
        evidence = "nothing was found" if passed else "it is too near to a work of the catalog"
        verdicts = tuple(
            Verdict(check=check, passed=passed or check != "legality", score=0.9, evidence=evidence) for check in CHECKS
        )
        report = FidelityReport(draft=asset, policy="test", verdicts=verdicts, time=time.time())
        if passed:
            self.files[asset] = drawing(call.seed)
            self.manifests[asset] = {
                "asset_id": asset,
                "model": "drawing 1",
                "prompt": call.text,
                "source_item": making.decided.source,
                "created": report.time,
                "manifest": {"valid": True, "state": "Trusted", "problems": []},
                "fidelity": report.model_dump(mode="json"),
            }
        title = call.text.capitalize() or "A picture"
        yield Made(report, asset if passed else None, title, action, "image/png", 64, 64, {"prompt": call.text})

    async def judge(self, retired: Mapping[str, str], proved: Sequence[str]) -> None:
        for asset_id in retired:
            self.files.pop(asset_id, None)

    async def media(self, asset_id: str) -> MediaFile | None:
        data = self.files.get(asset_id)
        return None if data is None else MediaFile(data, "image/png")

    async def provenance(self, asset_id: str) -> dict[str, Any] | None:
        return self.manifests.get(asset_id)


def drawing(seed: int) -> bytes:
    """A PNG of a hill under a sun."""
    picture = Image.new("RGB", (64, 64), (150 + seed % 90, 200, 230))
    pen = ImageDraw.Draw(picture)
    pen.ellipse((38, 8, 54, 24), fill=(245, 205, 110))
    pen.polygon([(0, 64), (26, 24), (64, 64)], fill=(60, 100, 90))
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


@contextmanager
def live(api: FastAPI) -> Iterator[str]:
    """The URL of ``api``, served on a free port of this machine until the block is left."""
    server = uvicorn.Server(uvicorn.Config(api, host="127.0.0.1", port=0, log_level="warning", lifespan="off"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive(), "the server did not start"
            time.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(10)
