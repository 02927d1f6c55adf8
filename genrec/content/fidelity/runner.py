"""Runs the checks so that what goes wrong counts as a refusal.

:class:`InlineRunner` runs them here, each on a thread with a deadline. :class:`ProcessRunner` runs them in a process
of their own (``worker.py``), which may hang, be killed or run out of memory: a check that gave no verdict has
failed, and the next review starts a fresh process.
"""

from __future__ import annotations

import io
import json
import logging
import queue
import struct
import subprocess
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as Overdue
from pathlib import Path
from typing import IO, Any, Protocol

from PIL import Image

from genrec.config.content import FidelitySettings
from genrec.content.contracts import Draft, Verdict
from genrec.content.fidelity.context import Check, Ingredient, ReviewContext, Subject

log = logging.getLogger(__name__)
LARGEST = 1 << 30


class Runner(Protocol):
    """Gives a verdict of every check that is asked for, whatever happens."""

    def run(self, subject: Subject, names: Sequence[str]) -> list[Verdict]:
        """One verdict a name, in their order."""
        ...

    def close(self) -> None:
        """Free what it holds; it may be used again."""
        ...


def failed(name: str, why: str) -> Verdict:
    """The verdict of a check that did not give one."""
    return Verdict(check=name, passed=False, score=1.0, evidence=why)


def judged(check: Check, subject: Subject) -> Verdict:
    """The check's verdict; if it raises, a refusal that names the kind of error (never its text: it may quote)."""
    try:
        verdict = check(subject)
    except Exception as error:  # whatever a check raises is a refusal
        log.warning("check %s raised %s", check.name, type(error).__name__, exc_info=True)
        return failed(check.name, f"the check raised {type(error).__name__}")
    if verdict.check != check.name:
        return failed(check.name, "the check answered for another")
    return verdict


class InlineRunner:
    """Checks in this process.

    Args:
        checks: at hand; a name that is asked for and not among them has failed.
        timeout_s: a check without verdict after so long has failed; its thread is left behind.
    """

    def __init__(self, checks: Sequence[Check], timeout_s: float) -> None:
        self.checks = {check.name: check for check in checks}
        self.timeout_s = timeout_s

    def run(self, subject: Subject, names: Sequence[str]) -> list[Verdict]:
        """One verdict a name, in their order."""
        verdicts = []
        pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="fidelity")
        for name in names:
            if name not in self.checks:
                verdicts.append(failed(name, "the check is not loaded"))
                continue
            try:
                verdicts.append(pool.submit(judged, self.checks[name], subject).result(self.timeout_s))
            except Overdue:
                verdicts.append(failed(name, f"no verdict within {self.timeout_s:g} s"))
                pool.shutdown(wait=False)
                pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="fidelity")
        pool.shutdown(wait=False)
        return verdicts

    def close(self) -> None:
        """Nothing is held."""


class ProcessRunner:
    """Checks in a process of their own.

    Args:
        settings: what the checks are built by.
        directory: of the development key.
    """

    def __init__(self, settings: FidelitySettings, directory: Path) -> None:
        self.settings, self.directory = settings, directory
        self._process: subprocess.Popen[bytes] | None = None
        self._answers: queue.Queue[dict[str, Any] | None] = queue.Queue()
        self._lock = threading.Lock()

    @property
    def pid(self) -> int | None:
        """Of the process, while it lives."""
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    def start(self) -> None:
        """Start the process and wait until its checks are loaded; whether they are is seen at the first review."""
        with self._lock:
            self._ready()

    def run(self, subject: Subject, names: Sequence[str]) -> list[Verdict]:
        """One verdict a name, in their order."""
        with self._lock:
            try:
                given, why = self._ask(subject, names)
            except (OSError, ValueError) as error:
                given, why = {}, f"the checks' process could not be asked ({type(error).__name__})"
            if why:
                self._end()
        return [given.get(name) or failed(name, why or "the check gave no verdict") for name in names]

    def _ask(self, subject: Subject, names: Sequence[str]) -> tuple[dict[str, Verdict], str]:
        if not self._ready():
            return {}, "the checks' process did not start"
        process = self._process
        assert process is not None
        assert process.stdin is not None
        given: dict[str, Verdict] = {}
        write_message(process.stdin, {"checks": list(names), **as_message(subject)[0]}, as_message(subject)[1])
        while len(given) < len(names):
            try:
                answer = self._answers.get(timeout=self.settings.timeout_s)
            except queue.Empty:
                return given, f"no verdict within {self.settings.timeout_s:g} s"
            if answer is None:
                return given, "the checks' process ended"
            verdict = Verdict.model_validate(answer)
            given[verdict.check] = verdict
        return given, ""

    def _ready(self) -> bool:
        if self.pid is not None:
            return True
        self._end()
        self._answers = queue.Queue()
        config = {"settings": self.settings.model_dump(mode="json"), "directory": str(self.directory)}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "genrec.content.fidelity.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        threading.Thread(target=_pump, args=(self._process.stdout, self._answers), daemon=True).start()
        write_message(self._process.stdin, config, [])
        try:
            return self._answers.get(timeout=self.settings.start_timeout_s) == {"ready": True}
        except queue.Empty:
            return False

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                try:
                    stream.close()
                except OSError:
                    log.debug("the pipe of an ended process was closed")

    def close(self) -> None:
        """End the process."""
        with self._lock:
            self._end()


def _pump(stream: IO[bytes], answers: queue.Queue[dict[str, Any] | None]) -> None:
    try:
        while (message := read_message(stream)) is not None:
            answers.put(message[0])
    except (OSError, ValueError):
        log.debug("the checks' process left half a message")
    answers.put(None)


def write_message(stream: IO[bytes], header: dict[str, Any], blobs: Sequence[bytes]) -> None:
    """A JSON header, then byte strings, each with its length before it."""
    head = json.dumps({**header, "blobs": len(blobs)}).encode()
    for part in (head, *blobs):
        stream.write(struct.pack(">Q", len(part)))
        stream.write(part)
    stream.flush()


def read_message(stream: IO[bytes]) -> tuple[dict[str, Any], list[bytes]] | None:
    """What :func:`write_message` wrote; None at the end of the stream."""
    first = _part(stream)
    if first is None:
        return None
    header = json.loads(first)
    blobs = [_part(stream) for _ in range(header.pop("blobs"))]
    if any(blob is None for blob in blobs):
        raise ValueError("a message is cut off")
    return header, [blob for blob in blobs if blob is not None]


def _part(stream: IO[bytes]) -> bytes | None:
    size = stream.read(8)
    if len(size) < 8:
        return None
    (length,) = struct.unpack(">Q", size)
    if length > LARGEST:
        raise ValueError("a message is too long")
    part = stream.read(length)
    return part if len(part) == length else None


def as_message(subject: Subject) -> tuple[dict[str, Any], list[bytes]]:
    """A subject as JSON and byte strings (pictures as PNG)."""
    blobs: list[bytes] = []

    def keep(content: bytes | Image.Image | None) -> int:
        if content is None:
            return -1
        if isinstance(content, Image.Image):
            png = io.BytesIO()
            content.convert("RGB").save(png, "PNG", compress_level=1)
            content = png.getvalue()
        blobs.append(content)
        return len(blobs) - 1

    context, draft = subject.context, subject.draft
    header = {
        "prompt": subject.prompt,
        "title": subject.title,
        "frames": [keep(frame) for frame in subject.frames],
        "draft": None
        if draft is None
        else {
            **{name: getattr(draft, name) for name in ("action", "medium", "title", "prompt", "model", "seed")},
            "source_item": draft.source_item,
            "ingredients": list(draft.ingredients),
            "details": dict(draft.details),
            "video": keep(draft.video),
        },
        "context": {
            **{name: getattr(context, name) for name in ("user", "source_title", "source_text", "group")},
            "source_picture": keep(context.source_picture),
            "ingredients": [
                {
                    **{n: getattr(part, n) for n in ("digest", "owner", "licence", "title")},
                    "picture": keep(part.picture),
                }
                for part in context.ingredients
            ],
        },
    }
    return header, blobs


def from_message(header: dict[str, Any], blobs: Sequence[bytes]) -> Subject:
    """The subject of :func:`as_message`."""

    def picture(index: int) -> Image.Image | None:
        if index < 0:
            return None
        with Image.open(io.BytesIO(blobs[index])) as opened:
            return opened.convert("RGB")

    frames = tuple(frame for frame in map(picture, header["frames"]) if frame is not None)
    told = dict(header["context"])
    parts = tuple(Ingredient(**{**part, "picture": picture(part["picture"])}) for part in told.pop("ingredients"))
    context = ReviewContext(**{**told, "source_picture": picture(told["source_picture"])}, ingredients=parts)
    draft = None
    if header["draft"] is not None:
        said = dict(header["draft"])
        video = said.pop("video")
        said["ingredients"] = tuple(said["ingredients"])
        draft = Draft(**said, frames=frames, video=None if video < 0 else blobs[video])
    return Subject(header["prompt"], header["title"], frames, draft, context)
