"""The fidelity gate: all checks of a draft, one report, one line in the log. It fails closed.

A check that raises, takes too long, is not loaded or whose process is killed counts as failed; so does a review that
could not be logged. Only a report in which every check passed lets a draft become an asset (genrec.content.library).
"""

from __future__ import annotations

import time
from pathlib import Path

from genrec.config.content import FidelitySettings
from genrec.content.contracts import Draft, FidelityReport, ImageTextEncoder
from genrec.content.digests import bytes_digest, draft_digest
from genrec.content.fidelity.build import CHECKS, WORD_CHECKS, build_checks, policy_version
from genrec.content.fidelity.context import ReviewContext, Subject
from genrec.content.fidelity.log import ReportLog
from genrec.content.fidelity.runner import InlineRunner, ProcessRunner, Runner
from genrec.errors import GenrecError

KEYS, REPORTS = "keys", "reports.jsonl"
LONGEST = 2000
"""Letters of a prompt or title that are judged at all; longer ones are refused before."""


class PromptError(GenrecError):
    """The words are too long to be judged."""


class FidelityGate:
    """Reviews drafts and prompts.

    Args:
        settings: of the policy.
        directory: holds the log of reports and the development key.
        runner: in place of the one that the settings ask for.
        encoder: of pictures, in place of the settings' one; the checks then run in this process.
    """

    def __init__(
        self,
        settings: FidelitySettings,
        directory: Path,
        *,
        runner: Runner | None = None,
        encoder: ImageTextEncoder | None = None,
    ) -> None:
        self.settings, self.directory = settings, Path(directory)
        self.policy = policy_version(settings)
        self.log = ReportLog(self.directory / REPORTS)
        if runner is None and settings.processes and encoder is None:
            runner = ProcessRunner(settings, self.directory / KEYS)
        if runner is None:
            runner = InlineRunner(build_checks(settings, self.directory / KEYS, encoder), settings.timeout_s)
        self.runner = runner

    def review(self, draft: Draft, context: ReviewContext | None = None) -> FidelityReport:
        """Every check's verdict on a draft, logged.

        Args:
            draft: what was made.
            context: its origin; None: nobody's, of nothing.

        Raises:
            PromptError: prompt or title are too long.
            ArtifactError: the log was altered; nothing passes until that is looked into.
        """
        context = ReviewContext() if context is None else context
        _require_short(draft.prompt, draft.title)
        subject = Subject(draft.prompt, draft.title, draft.frames, draft, context)
        facts = {"kind": "draft", "action": draft.action, "medium": draft.medium, "model": draft.model}
        return self._report(draft_digest(draft), subject, CHECKS, {**facts, "group": context.group})

    def review_prompt(self, text: str, context: ReviewContext | None = None) -> FidelityReport:
        """The verdicts of those checks that can judge words, before anything is made; logged.

        The report is of the words: it lets nothing become an asset.

        Raises:
            PromptError: the words are too long.
            ArtifactError: the log was altered.
        """
        _require_short(text)
        context = ReviewContext() if context is None else context
        facts = {"kind": "prompt", "group": context.group}
        return self._report(bytes_digest(text.encode()), Subject(text, context=context), WORD_CHECKS, facts)

    def _report(self, digest: str, subject: Subject, names: tuple[str, ...], facts: dict[str, str]) -> FidelityReport:
        verdicts = tuple(self.runner.run(subject, names))
        report = FidelityReport(draft=digest, policy=self.policy, verdicts=verdicts, time=time.time())
        self.log.append(report, facts)
        return report

    def close(self) -> None:
        """End the checks' process, if there is one."""
        self.runner.close()


def _require_short(*texts: str) -> None:
    for text in texts:
        if len(text) > LONGEST:
            raise PromptError(f"prompt: {len(text)} letters; at most {LONGEST} can be judged, shorten it")
