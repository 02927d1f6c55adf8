"""Identifiability: whoever meets the file can find out that a machine made it, how, and of what.

The draft is made into its file, and everything is read back from the file's bytes: manifest, watermark, label.
"""

from __future__ import annotations

from dataclasses import dataclass

from genrec.content.contracts import Verdict
from genrec.content.digests import draft_digest
from genrec.content.fidelity import marking
from genrec.content.fidelity.context import Subject
from genrec.content.fidelity.keys import SigningKeys
from genrec.content.fidelity.watermark import bit_agreement

LEAST_BITS = 0.95


@dataclass(eq=False)
class Identifiability:
    """The check.

    Attributes:
        keys: who signs.
    """

    keys: SigningKeys
    name: str = "identifiability"

    def __call__(self, subject: Subject) -> Verdict:
        """Mark, sign, and read back."""
        draft = subject.draft
        if draft is None:
            return Verdict(check=self.name, passed=True, score=0.0, evidence="nothing was made yet")
        content = marking.sign_and_mark(draft, self.keys, subject.context.ingredients)
        return self.of_file(content, marking.media_type_of(draft), draft_digest(draft), marking.payload_of(draft))

    def of_file(self, content: bytes, media_type: str, draft: str, payload: int) -> Verdict:
        """What is missing on a file that should show the draft with that digest."""
        seen = marking.identify(content, media_type, self.keys)
        missing = []
        if not seen.provenance.valid:
            missing.append(f"no valid manifest ({seen.provenance.state}: {', '.join(seen.provenance.problems[:3])})")
        elif seen.provenance.claims.get("draft") != draft:
            missing.append("the manifest is of another draft")
        elif not any("rainedAlgorithmicMedia" in kind for kind in seen.provenance.source_types):
            missing.append("the manifest does not say that a machine made it")
        bits = bit_agreement(seen.watermark.payload, payload) if seen.watermark.found else 0.0
        if bits < LEAST_BITS:
            missing.append(f"the watermark is not readable ({bits:.0%} of its bits)")
        if not seen.labelled:
            missing.append("no visible label")
        found = f"manifest {seen.provenance.state.lower()}, watermark {bits:.0%}, label seen"
        if self.keys.development:
            found += "; signed with a development key"
        return Verdict(check=self.name, passed=not missing, score=bits, evidence="; ".join(missing) or found)
