"""The fidelity checks: nothing made reaches a user without passing them."""

from genrec.content.digests import bytes_digest, draft_digest, picture_digest
from genrec.content.fidelity.build import CHECKS, WORD_CHECKS, build_checks, policy_version
from genrec.content.fidelity.context import Ingredient, ReviewContext, Subject
from genrec.content.fidelity.gate import FidelityGate, PromptError
from genrec.content.fidelity.log import ReportLog
from genrec.content.fidelity.runner import InlineRunner, ProcessRunner

__all__ = [
    "CHECKS",
    "WORD_CHECKS",
    "FidelityGate",
    "Ingredient",
    "InlineRunner",
    "ProcessRunner",
    "PromptError",
    "ReportLog",
    "ReviewContext",
    "Subject",
    "build_checks",
    "bytes_digest",
    "draft_digest",
    "picture_digest",
    "policy_version",
]
