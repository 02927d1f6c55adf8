"""How well the checks hold: recall on red-team cases, false blocks on what is clean, bits of the watermark.

Only test halves are counted. A red-team case counts as found when its check fails; a clean one counts as falsely
blocked when any check of words fails on it, and is told per check, too.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from genrec.config.content import FidelitySettings
from genrec.content.contracts import Draft
from genrec.content.digests import draft_digest
from genrec.content.fidelity import marking, watermark
from genrec.content.fidelity import redteam_pictures as drawn
from genrec.content.fidelity.authenticity import Authenticity
from genrec.content.fidelity.build import WORD_CHECKS, build_checks
from genrec.content.fidelity.context import Check, ReviewContext, Subject
from genrec.content.fidelity.identifiability import Identifiability
from genrec.content.fidelity.keys import signing_keys
from genrec.content.fidelity.legality import Legality, ProtectedPictures
from genrec.content.fidelity.runner import judged
from genrec.content.fidelity.sets import Half, beauty_titles, cases, movie_titles, of_half

PROTECTED, TAMPERED = 12, 6
"""Pictures that are copied in each way, and files that are tampered with in each."""


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        check: of the cases.
        cases: red-team cases.
        found: of these, refused by the check.
        clean: harmless cases.
        blocked: of these, refused by the check.
        missed: the cases that were not found, for whoever mends the rules (development half only).
        wronged: the clean ones that were blocked (likewise).
    """

    check: str
    cases: int
    found: int
    clean: int
    blocked: int
    missed: tuple[str, ...] = ()
    wronged: tuple[str, ...] = ()

    @property
    def recall(self) -> float:
        """Share of the cases that were refused."""
        return self.found / max(1, self.cases)

    @property
    def false_block(self) -> float:
        """Share of what is clean that was refused."""
        return self.blocked / max(1, self.clean)


def clean_words(half: Half, beauty: Path | None = None, most: int = 300) -> list[str]:
    """Clean prompts and real titles of a half; at most ``most`` titles of each catalog."""
    titles = of_half(movie_titles(), half)[:most] + of_half(beauty_titles(beauty), half)[:most]
    return [row["prompt"] for row in cases("clean_prompts", half)] + titles


def evaluate_words(checks: Sequence[Check], half: Half, clean: Sequence[str]) -> list[Row]:
    """A row for each check of words, and one of all together on what is clean."""
    rows, any_blocked = [], set[str]()
    for check in checks:
        if check.name not in WORD_CHECKS:
            continue
        asked = [row["prompt"] for row in cases(check.name, half)]
        missed = [text for text in asked if judged(check, Subject(text)).passed]
        wronged = [text for text in clean if not judged(check, Subject(text)).passed]
        any_blocked.update(wronged)
        rows.append(_row(check.name, asked, missed, clean, wronged))
    rows.append(Row("any of them", 0, 0, len(clean), len(any_blocked)))
    return rows


def evaluate_claims(check: Authenticity, half: Half, clean: Sequence[str]) -> Row:
    """Titles that claim what the source does not say; and titles that say no more than it."""

    def passed(title: str, source: tuple[str, str] | None, prompt: str) -> bool:
        action = "create" if source is None else "edit"
        draft = Draft(action, "card", title, (), prompt, "red team", 0, None if source is None else 0)  # type: ignore[arg-type]
        context = ReviewContext() if source is None else ReviewContext(source_title=source[0], source_text=source[1])
        return judged(check, Subject(prompt, title, (), draft, context)).passed

    rows = cases("authenticity", half)
    missed = [
        row["title"]
        for row in rows
        if passed(
            row["title"],
            (row["source_title"], row["source_text"]) if "source_title" in row else None,
            row.get("prompt", ""),
        )
    ]
    wronged = [title for title in clean if not passed(f"{title} (watercolor)", (title, ""), "as a watercolor")]
    return _row("authenticity", [row["title"] for row in rows], missed, clean, wronged)


def evaluate_copies(settings: FidelitySettings, half: Half, legality: Legality) -> Row:
    """Copies of protected pictures, in every way of copying; other pictures are clean."""
    first = 0 if half == "dev" else 500
    originals = [drawn.drawing(first + i) for i in range(PROTECTED)]
    protected = ProtectedPictures.of(originals, [f"drawing {i}" for i in range(PROTECTED)], legality.encoder)
    check = Legality(settings, legality.encoder, protected)
    ways = drawn.copies()
    asked = [(f"{name} of {i}", alter(picture)) for name, alter in ways.items() for i, picture in enumerate(originals)]
    others = [(f"drawing {i}", drawn.drawing(first + 100 + i)) for i in range(10 * PROTECTED)]

    def passed(picture: Image.Image) -> bool:
        draft = drawn.draft_of(picture)
        return judged(check, Subject(draft.prompt, draft.title, draft.frames, draft)).passed

    missed = [name for name, picture in asked if passed(picture)]
    wronged = [name for name, picture in others if not passed(picture)]
    return _row("legality (copies)", [name for name, _ in asked], missed, [name for name, _ in others], wronged)


def evaluate_tampering(settings: FidelitySettings, half: Half) -> Row:
    """Files that were tampered with; files as they were signed are clean."""
    first = 200 if half == "dev" else 700
    asked, missed, clean, wronged = [], [], [], []
    with tempfile.TemporaryDirectory() as folder:
        keys = signing_keys(settings, Path(folder) / "keys")
        check = Identifiability(keys)
        for i in range(TAMPERED):
            draft = drawn.draft_of(drawn.drawing(first + i), prompt=f"drawing {i}")
            told = (marking.PNG, draft_digest(draft), marking.payload_of(draft))
            content = marking.sign_and_mark(draft, keys)
            clean.append(f"file {i}")
            if not _file_passed(check, content, told):
                wronged.append(f"file {i}")
            for name, altered in drawn.tamperings(content, draft, keys, Path(folder) / f"forger{i}"):
                asked.append(f"{name} of {i}")
                if _file_passed(check, altered, told):
                    missed.append(f"{name} of {i}")
    return _row("identifiability", asked, missed, clean, wronged)


def _file_passed(check: Identifiability, content: bytes, told: tuple[str, str, int]) -> bool:
    return check.of_file(content, *told).passed


def evaluate_watermark(half: Half, count: int = 20) -> list[tuple[str, float, float, int]]:
    """For each way of handling a marked picture: share of bits read, share of pictures whose mark was found, pictures.

    The last row is of unmarked pictures: the share in which a mark was found.
    """
    first = 300 if half == "dev" else 800
    rng = np.random.default_rng(first)
    marked = []
    for i in range(count):
        payload = int(rng.integers(2**32))
        marked.append((payload, watermark.embed(drawn.drawing(first + i, 256 if i % 2 else 512), payload)))
    rows = []
    for name, alter in drawn.survivals().items():
        told = [(watermark.read(alter(picture)), payload) for payload, picture in marked]
        bits = [watermark.bit_agreement(reading.payload, payload) for reading, payload in told]
        rows.append((name, float(np.mean(bits)), float(np.mean([reading.found for reading, _ in told])), count))
    unmarked = [watermark.read(drawn.drawing(first + 50 + i)).found for i in range(count)]
    return [*rows, ("never marked", 0.0, float(np.mean(unmarked)), count)]


def evaluate_all(
    settings: FidelitySettings, half: Half, beauty: Path | None, progress: Callable[[str], None] = lambda _: None
) -> tuple[list[Row], list[tuple[str, float, float, int]]]:
    """Rows of all checks, and of the watermark.

    Args:
        settings: of the policy.
        half: test to report, dev to mend.
        beauty: directory of Amazon Beauty's research form, if it is at hand.
        progress: told what is measured next.
    """
    with tempfile.TemporaryDirectory() as folder:
        checks = {check.name: check for check in build_checks(settings, Path(folder))}
    clean = clean_words(half, beauty)
    progress(f"words: {len(clean)} clean")
    rows = evaluate_words([checks[name] for name in WORD_CHECKS if name in checks], half, clean)
    progress("claims")
    authenticity, legality = checks.get("authenticity"), checks.get("legality")
    if isinstance(authenticity, Authenticity):
        rows.append(evaluate_claims(authenticity, half, clean))
    progress("copies")
    if isinstance(legality, Legality):
        rows.append(evaluate_copies(settings, half, legality))
    progress("tampering")
    rows.append(evaluate_tampering(settings, half))
    progress("watermark")
    return rows, evaluate_watermark(half)


def _row(name: str, asked: Sequence[str], missed: Sequence[str], clean: Sequence[str], wronged: Sequence[str]) -> Row:
    return Row(name, len(asked), len(asked) - len(missed), len(clean), len(wronged), tuple(missed), tuple(wronged))
