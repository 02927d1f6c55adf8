"""``python -m tests.apart FOLDER...``: every test module below the folders in an interpreter of its own, one by one.

Modules that start Ray must not share a process. What a Ray that has ended leaves behind (threads, clients that still
ask) reaches into the next module, and Ray ends a process by ``_exit(1)``: pytest then stops without a word, and
nothing tells which test it was. Apart, a module that dies so is named, and the others still run.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

ALL_SKIPPED = 5  # pytest's code for a module that skips itself as a whole


def main(folders: list[str]) -> int:
    """Run the modules; returns 0 if every one passed."""
    modules = sorted(module for folder in folders for module in Path(folder).rglob("test_*.py"))
    if not modules:
        print(f"tests.apart: no test_*.py below {', '.join(folders) or 'no folder'}")
        return 2
    failed = []
    for number, module in enumerate(modules, start=1):
        print(f"\n[{number}/{len(modules)}] {module}", flush=True)
        began = time.monotonic()
        code = subprocess.run([sys.executable, "-m", "pytest", "--no-header", str(module)], check=False).returncode
        print(f"{module}: exit code {code} after {time.monotonic() - began:.0f} s", flush=True)
        if code not in (0, ALL_SKIPPED):
            failed.append(module)
    print(f"\n{len(modules) - len(failed)} of {len(modules)} modules passed.")
    for module in failed:
        print(f"failed: {module}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
