"""``python -m benchmarks NAME [options]``: run one benchmark; the last line printed is JSON.

A benchmark is a module of this package with ``add_arguments(parser)`` and ``run(args) -> dict``; the dict is
{name, ours, theirs, ratio, equal} and whatever explains it.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from pathlib import Path

from benchmarks.common import environment

NOT_BENCHMARKS = {
    "__init__",
    "__main__",
    "common",
    "peak",
    "scale_data",
    "scale_phases",
    "serving_hostile",
    "serving_plain",
    "serving_tools",
    "shapes",
    "transformers_side",
}


def names() -> list[str]:
    """The benchmarks there are."""
    return sorted(path.stem for path in Path(__file__).parent.glob("*.py") if path.stem not in NOT_BENCHMARKS)


def main(argv: list[str] | None = None) -> int:
    """Run the benchmark that ``argv`` names."""
    arguments = sys.argv[1:] if argv is None else argv
    known = names()
    if not arguments or arguments[0] not in known:
        print(f"usage: python -m benchmarks NAME [options]; NAME is one of: {', '.join(known)}", file=sys.stderr)
        return 2
    module = importlib.import_module(f"benchmarks.{arguments[0]}")
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks {arguments[0]}", description=module.__doc__)
    module.add_arguments(parser)
    result = module.run(parser.parse_args(arguments[1:]))
    print(json.dumps({**result, "environment": environment()}))
    return 0 if result["equal"] else 1


if __name__ == "__main__":
    sys.exit(main())
