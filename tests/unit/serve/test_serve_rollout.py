"""From one version of a bundle to the next: the steps, the file, and what the ingress makes of failures."""

import asyncio
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from ray.exceptions import RayTaskError
from ray.serve.exceptions import BackPressureError

from genrec.recommender import RecommendRequest
from serve.backend import HandleBackend
from serve.errors import ApiError
from serve.process import ServiceError
from serve.rollout import Rollout, Rollouts


def test_a_wanted_bundle_becomes_stable_and_the_old_one_can_come_back() -> None:
    rollout = Rollout(stable="a").want("b", 1.0)
    assert (rollout.stable, rollout.wanted) == ("a", "b")
    rollout = rollout.accept()
    assert (rollout.stable, rollout.previous, rollout.wanted) == ("b", "a", None)
    back = rollout.rollback()
    assert (back.stable, back.previous) == ("a", "b")
    with pytest.raises(ServiceError, match="no earlier bundle"):
        Rollout(stable="a").rollback()


def test_a_canary_takes_its_share_until_it_is_promoted_or_dropped() -> None:
    rollout = Rollout(stable="a").want("b", 0.1).accept()
    assert (rollout.stable, rollout.canary, rollout.share) == ("a", "b", 0.1)
    assert rollout.promote() == Rollout(stable="b", previous="a")
    assert rollout.rollback() == Rollout(stable="a")
    assert rollout.refuse("b", "fails") == Rollout(stable="a", refused="b", reason="fails")
    with pytest.raises(ServiceError, match="no canary"):
        Rollout(stable="a").promote()


def test_a_refused_bundle_changes_nothing_but_the_record() -> None:
    refused = Rollout(stable="a").want("b", 1.0).refuse("b", "altered")
    assert refused == Rollout(stable="a", refused="b", reason="altered")
    assert Rollout(stable="a").refuse("c", "unknown to it") == Rollout(stable="a")


def test_the_file_keeps_each_catalog_apart(tmp_path: Path) -> None:
    rollouts = Rollouts(tmp_path / "rollout.json")
    assert rollouts.read() == {}
    assert rollouts.stable("begun") == "begun"
    rollouts.begin({"default": "a", "books": "x"})
    rollouts.change("books", lambda one: one.want("y", 1.0).accept())
    assert (rollouts.stable("begun"), rollouts.stable("begun", "books")) == ("a", "y")
    with pytest.raises(ServiceError, match="'music' is served, only: books, default"):
        rollouts.change("music", lambda one: one)
    (tmp_path / "rollout.json").write_text("{")
    with pytest.raises(ServiceError, match="not a rollout file"):
        rollouts.read()


class Handle:
    """Stands for a deployment's handle: answers by the bundle asked for; those in ``broken`` raise."""

    def __init__(self, broken: set[str]) -> None:
        self.broken, self.asked = broken, Counter[str]()
        self.loads: list[str] = []
        self.full = 0

    def __getattr__(self, name: str) -> Any:
        def remote(*arguments: Any) -> Any:
            async def answer() -> Any:
                bundle = arguments[-1]
                if name == "prepare":
                    if self.full:
                        self.full -= 1
                        raise BackPressureError(1, 1)
                    self.loads.append(bundle)
                    return f"{bundle}: altered" if bundle in self.broken else (f"version of {bundle}", "s")
                self.asked[bundle] += 1
                if bundle in self.broken:
                    raise RayTaskError("recommend", "trace", KeyError("weights"))
                return bundle

            return Response(answer())

        return type("Method", (), {"remote": staticmethod(remote)})

    def options(self, **_: Any) -> "Handle":
        return self


class Response:
    def __init__(self, coroutine: Any) -> None:
        self._coroutine = coroutine

    def __await__(self) -> Any:
        return self._coroutine.__await__()

    def cancel(self) -> None:
        self._coroutine.close()


def request(user: int) -> RecommendRequest:
    return RecommendRequest(f"u{user}", None, 5)


def backend(tmp_path: Path, broken: set[str]) -> tuple[HandleBackend, Handle, Rollouts]:
    rollouts = Rollouts(tmp_path / "rollout.json")
    rollouts.begin({"default": "a", "books": "x"})
    handle = Handle(broken)
    return HandleBackend(handle, 5.0, rollouts), handle, rollouts  # type: ignore[arg-type]


async def followed(backend: HandleBackend, until: Any) -> None:
    following = asyncio.ensure_future(backend.follow(every_s=0.01))
    while not until():
        await asyncio.sleep(0.01)
    following.cancel()


def test_a_bundle_is_routed_to_only_after_it_has_passed(tmp_path: Path) -> None:
    ingress, handle, rollouts = backend(tmp_path, {"broken"})

    async def story() -> list[Any]:
        answers = [await ingress.recommend(request(1))]
        rollouts.change("default", lambda one: one.want("broken", 1.0))
        await followed(ingress, lambda: rollouts.read()["default"].refused == "broken")
        answers.append(await ingress.recommend(request(1)))
        rollouts.change("default", lambda one: one.want("b", 1.0))
        await followed(ingress, lambda: rollouts.read()["default"].stable == "b")
        return [*answers, await ingress.recommend(request(1)), await ingress.recommend(request(1), "books")]

    assert asyncio.run(story()) == ["a", "a", "b", "x"]
    assert rollouts.read()["default"].previous == "a"
    assert [bundle for bundle in handle.loads if bundle != "x"] == ["broken", "b"], "x: a further catalog, warmed up"
    assert not handle.asked["broken"]


def test_a_full_queue_says_nothing_of_a_bundle(tmp_path: Path) -> None:
    ingress, handle, rollouts = backend(tmp_path, set())
    handle.full = 3

    async def story() -> None:
        rollouts.change("default", lambda one: one.want("b", 1.0))
        await followed(ingress, lambda: rollouts.read()["default"].stable == "b")

    asyncio.run(asyncio.wait_for(story(), 30))
    assert (handle.full, rollouts.read()["default"].refused) == (0, None)


def test_a_canary_that_fails_is_answered_for_and_dropped_and_no_request_is_lost(tmp_path: Path) -> None:
    ingress, handle, rollouts = backend(tmp_path, set())

    async def story() -> tuple[list[Any], list[Any]]:
        rollouts.change("default", lambda one: one.want("b", 0.3))
        await followed(ingress, lambda: rollouts.read()["default"].canary == "b")
        healthy = [await ingress.recommend(request(user)) for user in range(1000)]
        again = [await ingress.recommend(request(user)) for user in range(1000)]
        assert healthy == again, "a user stays with a version"
        handle.broken.add("b")
        return healthy, [await ingress.recommend(request(user)) for user in range(200)]

    healthy, failing = asyncio.run(story())
    assert 230 < healthy.count("b") < 370
    assert failing == ["a"] * 200
    rollout = rollouts.read()["default"]
    assert (rollout.canary, rollout.refused) == (None, "b")
    assert "3 requests failed" in str(rollout.reason)


def test_an_unknown_catalog_is_named(tmp_path: Path) -> None:
    ingress, _, _ = backend(tmp_path, set())
    with pytest.raises(ApiError, match="'music' is not served"):
        asyncio.run(ingress.recommend(request(1), "music"))
