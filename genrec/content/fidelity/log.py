"""The log of reports: append-only JSON lines, each holding the hash of the line before.

Who changes, drops or reorders a line breaks every hash after it, so :meth:`ReportLog.verify` finds it. A log cut off
at its end is found by whoever kept a later hash: the library keeps the hash of each asset's line.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from genrec.content.contracts import FidelityReport
from genrec.errors import ArtifactError

GENESIS = "0" * 64
TAIL = 1 << 16


def _line(previous: str, body: Mapping[str, Any]) -> tuple[str, bytes]:
    """Hash and bytes of an entry that follows the entry with hash ``previous``."""
    text = json.dumps({"previous": previous, **body}, sort_keys=True, ensure_ascii=False)
    own = hashlib.sha256(text.encode()).hexdigest()
    return own, json.dumps({"hash": own, "entry": text}, ensure_ascii=False).encode() + b"\n"


class ReportLog:
    """Reports on disk.

    Args:
        path: of the file; made at the first append.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)

    def append(self, report: FidelityReport, facts: Mapping[str, str] | None = None) -> str:
        """Write a report durably.

        Args:
            report: of a draft or a prompt.
            facts: action, medium, model, audience group: what pass rates are told by. No personal data.

        Returns:
            The hash of its line, by which the report can be found again.

        Raises:
            ArtifactError: the last line was altered.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a+b") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX)
            previous = self._last(stream)
            own, line = _line(previous, {"report": report.model_dump(mode="json"), "facts": dict(facts or {})})
            stream.seek(0, os.SEEK_END)
            stream.write(line)
            stream.flush()
            os.fsync(stream.fileno())
        return own

    def _last(self, stream: Any) -> str:
        """Hash of the last whole line; what a kill left half-written is cut off."""
        end = stream.seek(0, os.SEEK_END)
        if end == 0:
            return GENESIS
        reach = TAIL
        while True:
            begin = max(0, end - reach)
            stream.seek(begin)
            tail = stream.read(end - begin)
            whole = tail.rfind(b"\n")
            first = tail.rfind(b"\n", 0, whole) if whole >= 0 else -1
            if first >= 0 or begin == 0:
                break
            reach *= 4
        if whole < len(tail) - 1:
            stream.truncate(begin + whole + 1)
        if whole < 0:
            return GENESIS
        return str(self._parsed(tail[first + 1 : whole], self.path.name)[0])

    @staticmethod
    def _parsed(line: bytes, where: str) -> tuple[str, dict[str, Any]]:
        try:
            outer = json.loads(line)
            text, claimed = outer["entry"], outer["hash"]
            entry = json.loads(text)
        except (ValueError, KeyError, TypeError) as error:
            raise ArtifactError(f"{where}: not an entry of a report log ({error}). It was altered.") from error
        if hashlib.sha256(text.encode()).hexdigest() != claimed:
            raise ArtifactError(f"{where}: an entry differs from its hash. It was altered.")
        return claimed, entry

    def entries(self) -> Iterator[tuple[str, FidelityReport, dict[str, str]]]:
        """Hash, report and facts of each line, oldest first, the chain checked on the way.

        Raises:
            ArtifactError: a line was altered, dropped, added or moved.
        """
        if not self.path.is_file():
            return
        previous = GENESIS
        with self.path.open("rb") as stream:
            for number, line in enumerate(stream, start=1):
                if not line.endswith(b"\n"):
                    return  # half-written when its writer was killed: never acknowledged
                where = f"{self.path.name}:{number}"
                own, entry = self._parsed(line, where)
                if entry.get("previous") != previous:
                    raise ArtifactError(f"{where}: does not follow the line before. The log was altered.")
                previous = own
                yield own, FidelityReport.model_validate(entry["report"]), entry["facts"]

    def verify(self, keep: set[str] | None = None) -> int:
        """Number of entries, all of them unaltered.

        Args:
            keep: hashes that must be there, as others noted them.

        Raises:
            ArtifactError: altered, or cut off before one of ``keep``.
        """
        count, missing = 0, set(keep or ())
        for own, _, _ in self.entries():
            count += 1
            missing.discard(own)
        if missing:
            raise ArtifactError(
                f"{self.path.name}: {len(missing)} reports that were acted on are gone. It was cut off."
            )
        return count

    def find(self, report: FidelityReport) -> str | None:
        """Hash of the line that holds exactly this report; None: it was never logged.

        Raises:
            ArtifactError: the line was altered.
        """
        if not self.path.is_file():
            return None
        mark = report.draft.encode()
        with self.path.open("rb") as stream:
            lines = [line for line in stream if mark in line and line.endswith(b"\n")]
        for line in reversed(lines):
            own, entry = self._parsed(line, self.path.name)
            if FidelityReport.model_validate(entry["report"]) == report:
                return own
        return None
