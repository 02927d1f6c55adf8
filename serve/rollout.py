"""Which version of a bundle answers: the file that the service follows, and the steps from one version to the next.

``<run folder>/rollout.json`` holds, by catalog: the stable bundle, a canary with its share of the requests, the
previous one (to go back to), the one wanted next, and the last that was refused with the reason. ``python -m serve
swap`` writes what is wanted; the ingress has the recommender load, verify and warm it up beside the running one, and
only then routes to it, so that no request meets a cold or broken bundle. Whoever changes the file holds its lock.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from serve.process import ServiceError

ROLLOUT_FILE = "rollout.json"
DEFAULT_CATALOG = "default"
"""The run's own catalog; others stand in serve.catalogs."""


class Rollout(BaseModel):
    """Versions of one catalog; bundles are named by their directories, links resolved."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    stable: str
    canary: str | None = None
    share: float = Field(0.0, ge=0, le=1, description="of the requests that the canary answers")
    previous: str | None = Field(None, description="what was stable before")
    wanted: str | None = Field(None, description="to be verified, then routed to")
    wanted_share: float = Field(1.0, gt=0, le=1)
    refused: str | None = Field(None, description="the last bundle that did not pass")
    reason: str | None = None

    def want(self, bundle: str, share: float) -> Rollout:
        """Ask for a bundle: as the stable one (share 1) or as a canary."""
        return self._with(wanted=bundle, wanted_share=share, refused=None, reason=None)

    def accept(self) -> Rollout:
        """The wanted bundle has passed its checks."""
        if self.wanted is None:
            return self
        if self.wanted_share < 1:
            return self._with(canary=self.wanted, share=self.wanted_share, wanted=None, wanted_share=1.0)
        previous = self.previous if self.wanted == self.stable else self.stable
        return Rollout(stable=self.wanted, previous=previous)

    def refuse(self, bundle: str, reason: str) -> Rollout:
        """A bundle failed its checks, or failed while it answered: what stood before stands again."""
        if bundle == self.wanted:
            return self._with(wanted=None, wanted_share=1.0, refused=bundle, reason=reason)
        if bundle == self.canary:
            return self._with(canary=None, share=0.0, refused=bundle, reason=reason)
        if bundle == self.stable and self.previous is not None:
            return Rollout(stable=self.previous, refused=bundle, reason=reason)
        return self

    def promote(self) -> Rollout:
        """The canary becomes the stable one."""
        if self.canary is None:
            raise ServiceError("there is no canary to promote; begin with `python -m serve swap BUNDLE --canary 10`")
        return Rollout(stable=self.canary, previous=self.stable)

    def rollback(self) -> Rollout:
        """Drop the canary; without one, go back to the previous bundle."""
        if self.canary is not None or self.wanted is not None:
            return Rollout(stable=self.stable, previous=self.previous)
        if self.previous is None:
            raise ServiceError("there is no earlier bundle to go back to")
        return Rollout(stable=self.previous, previous=self.stable)

    def _with(self, **changes: object) -> Rollout:
        return Rollout.model_validate({**self.model_dump(), **changes})


class Rollouts:
    """The file.

    Args:
        path: of rollout.json.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> dict[str, Rollout]:
        """Rollouts by catalog; none where the file is absent.

        Raises:
            ServiceError: the file is damaged.
        """
        try:
            return _Contents.model_validate_json(self.path.read_bytes()).catalogs
        except FileNotFoundError:
            return {}
        except ValidationError as error:
            raise ServiceError(f"{self.path}: not a rollout file ({error.error_count()} errors); delete it") from error

    def begin(self, bundles: dict[str, str]) -> None:
        """A service starts with these bundles: whatever was rolled out before is over."""
        with self._locked():
            self._write({catalog: Rollout(stable=bundle) for catalog, bundle in bundles.items()})

    def change(self, catalog: str, step: Callable[[Rollout], Rollout]) -> Rollout:
        """Take one step, alone.

        Raises:
            ServiceError: no such catalog is served, or the step is not possible.
        """
        with self._locked():
            rollouts = self.read()
            if catalog not in rollouts:
                served = ", ".join(sorted(rollouts)) or "none"
                raise ServiceError(f"{self.path}: no catalog {catalog!r} is served, only: {served}")
            rollouts[catalog] = step(rollouts[catalog])
            self._write(rollouts)
            return rollouts[catalog]

    def stable(self, begun: str, catalog: str = DEFAULT_CATALOG) -> str:
        """The bundle to start a replica with: the one that is stable now."""
        rollout = self.read().get(catalog)
        return begun if rollout is None else rollout.stable

    @contextmanager
    def _locked(self) -> Iterator[None]:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.with_suffix(".lock").open("a") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX)
            yield

    def _write(self, rollouts: dict[str, Rollout]) -> None:
        fresh = self.path.with_suffix(f".{os.getpid()}")
        fresh.write_text(_Contents(catalogs=rollouts).model_dump_json(indent=1), encoding="utf-8")
        os.replace(fresh, self.path)


class _Contents(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    catalogs: dict[str, Rollout]
