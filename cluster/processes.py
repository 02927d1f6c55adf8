"""Processes that were started here: known by id *and* time of birth, so that nobody else's is ever ended."""

from __future__ import annotations

import time
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass, field

import psutil

END_S = 10.0
"""After a signal, until force is used."""


@dataclass(frozen=True)
class Process:
    """A process that cannot be mistaken for a later one of the same id."""

    pid: int
    born: float

    @classmethod
    def of(cls, process: psutil.Process) -> Process:
        """The running process."""
        return cls(process.pid, process.create_time())

    def find(self) -> psutil.Process | None:
        """The process, if it lives."""
        try:
            found = psutil.Process(self.pid)
            alive = found.create_time() == self.born and found.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return None
        return found if alive else None


@dataclass
class Node:
    """One node.

    Attributes:
        starter: its ``ray start --block``.
        port: of its raylet, by which the head's list names it.
        parts: Ray's own processes below it (GCS, raylet, agents), as they were when it was ready.
    """

    starter: Process
    port: int
    parts: list[Process] = field(default_factory=list)

    def alive(self) -> bool:
        """Its starter ends when one of its parts does."""
        return self.starter.find() is not None

    def end(self, *, at_once: bool = False) -> int:
        """End it and all below it, by signal, then by force; returns how many processes there were.

        Args:
            at_once: no signal first, as if the machine had lost power.
        """
        roots = [found for process in (self.starter, *self.parts) if (found := process.find())]
        family = {process.pid: process for root in roots for process in (root, *below(root))}
        if not at_once:
            for root in roots[:1]:  # `ray start --block` takes its own processes down with it
                root.terminate()
            _wait_for_end(family.values())
        for process in filter(_runs, family.values()):
            with suppress(psutil.NoSuchProcess):
                process.kill()
        _wait_for_end(family.values())
        return len(family)


def _wait_for_end(processes: Collection[psutil.Process]) -> None:
    """Until all are gone, at most so long; what its parent has yet to take note of is gone, too."""
    deadline = time.monotonic() + END_S
    while time.monotonic() < deadline and any(map(_runs, processes)):
        time.sleep(0.1)


def _runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def alive(node: Node | None) -> bool:
    """The node was started and lives."""
    return node is not None and node.alive()


def below(process: psutil.Process | None) -> list[psutil.Process]:
    """All processes below one."""
    try:
        return process.children(recursive=True) if process else []
    except psutil.NoSuchProcess:
        return []


def is_part(process: psutil.Process) -> bool:
    """Ray's own process of a node, not a worker, which ends with its raylet."""
    try:
        return not process.name().startswith("ray::")
    except psutil.NoSuchProcess:
        return False
