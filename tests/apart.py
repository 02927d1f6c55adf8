"""``python -m tests.apart FOLDER...``: every test module below the folders in an interpreter of its own.

Modules that start Ray must not share a process. What a Ray that has ended leaves behind (threads, clients that still
ask) reaches into the next module, and Ray ends a process by ``_exit(1)``: pytest then stops without a word, and
nothing tells which test it was. Apart, a module that dies so is named, and the others still run.

Such modules wait more than they compute, so two run at a time, each with a Ray of its own; what one prints is shown
when it ends.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

TOGETHER = 2
ALL_SKIPPED = 5  # pytest's code for a module that skips itself as a whole


@dataclass(frozen=True)
class Ran:
    """A module that has run.

    Attributes:
        module: its file.
        code: pytest's exit code.
        printed: what it wrote to both streams.
        seconds: how long it took.
    """

    module: Path
    code: int
    printed: str
    seconds: float

    @property
    def passed(self) -> bool:
        """Whether no test of it failed."""
        return self.code in (0, ALL_SKIPPED)


def run(module: Path) -> Ran:
    """One module in a fresh interpreter."""
    began = time.monotonic()
    command = [sys.executable, "-m", "pytest", "--no-header", str(module)]
    done = subprocess.run(command, check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, errors="replace")
    return Ran(module, done.returncode, done.stdout, time.monotonic() - began)


def run_all(modules: list[Path]) -> Iterator[Ran]:
    """The modules in their order, ``TOGETHER`` at a time; each as it ends."""
    with ThreadPoolExecutor(TOGETHER) as pool:
        for future in as_completed([pool.submit(run, module) for module in modules]):
            yield future.result()


def main(folders: list[str]) -> int:
    """Run the modules; returns 0 if every one passed."""
    modules = sorted(module for folder in folders for module in Path(folder).rglob("test_*.py"))
    if not modules:
        print(f"tests.apart: no test_*.py below {', '.join(folders) or 'no folder'}")
        return 2
    failed = []
    for number, ran in enumerate(run_all(modules), start=1):
        print(f"\n[{number}/{len(modules)}] {ran.module}\n{ran.printed}", flush=True)
        print(f"{ran.module}: exit code {ran.code} after {ran.seconds:.0f} s", flush=True)
        if not ran.passed:
            failed.append(ran.module)
    print(f"\n{len(modules) - len(failed)} of {len(modules)} modules passed.")
    for module in failed:
        print(f"failed: {module}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
