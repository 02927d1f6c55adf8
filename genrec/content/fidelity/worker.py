"""The process that the checks run in: reads subjects from its input, writes verdicts to its output, ends with it."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path
from typing import BinaryIO

from genrec.config.content import FidelitySettings
from genrec.content.fidelity.build import build_checks
from genrec.content.fidelity.runner import failed, from_message, judged, read_message, write_message


def serve(source: BinaryIO, target: BinaryIO) -> None:
    """Answer until the input ends. The first message is the settings, the answer to it says that checks are loaded."""
    first = read_message(source)
    if first is None:
        return
    settings = FidelitySettings.model_validate(first[0]["settings"])
    checks = {check.name: check for check in build_checks(settings, Path(first[0]["directory"]))}
    write_message(target, {"ready": True}, [])
    while (message := read_message(source)) is not None:
        header, blobs = message
        names = header.pop("checks")
        subject = from_message(header, blobs)
        for name in names:
            verdict = judged(checks[name], subject) if name in checks else failed(name, "the check is not loaded")
            write_message(target, verdict.model_dump(mode="json"), [])


def main() -> None:
    """Keep the answers' pipe to ourselves: what a library prints goes to the error stream."""
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr)
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    serve(sys.stdin.buffer, answers)


if __name__ == "__main__":
    main()
