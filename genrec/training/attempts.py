"""Which workers trained on which nodes, attempt by attempt, and what a lost node cost.

Rank 0 adds one line to workers.jsonl whenever a group of workers begins; the driver tells them at the end.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from genrec.training.curves import read_curves

WORKERS_FILE = "workers.jsonl"


@dataclass(frozen=True)
class Attempt:
    """One group of workers.

    Attributes:
        nodes: id of each worker's node, by rank.
        step: the checkpoint that it went on from; 0: none.
        lost: steps beyond it that an earlier group had done at least (the curves tell, each ``training.log_every``
            steps) and that are done again.
    """

    nodes: tuple[str, ...]
    step: int
    lost: int

    def __str__(self) -> str:
        nodes = ", ".join(node[:8] for node in self.nodes)
        again = f", {self.lost} steps done again" if self.lost else ""
        return f"{len(self.nodes)} workers on nodes {nodes} from step {self.step}{again}"


def note_attempt(work_dir: Path, nodes: list[str], step: int) -> Attempt:
    """Add a line and return it; called by rank 0 before the loop cuts the curves at the checkpoint."""
    reached = max((int(row["step"]) for row in read_curves(work_dir)), default=0)
    attempt = Attempt(tuple(nodes), step, max(reached - step, 0))
    with (work_dir / WORKERS_FILE).open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(asdict(attempt)) + "\n")
    return attempt


def read_attempts(directory: Path) -> list[Attempt]:
    """The lines of a run's or an artifact's workers.jsonl; none where it was trained without Ray."""
    path = directory / WORKERS_FILE
    rows = map(json.loads, path.read_text(encoding="utf-8").splitlines()) if path.is_file() else ()
    return [Attempt(tuple(row["nodes"]), row["step"], row["lost"]) for row in rows]
