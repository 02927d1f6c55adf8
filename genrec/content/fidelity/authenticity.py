"""Authenticity: what is said of an item must be true of it, and an edit must still show its source.

Numbers, claims (best, certified, cures ...) and names in a title are looked for in what the catalog says of the source
item, or, for a creation, in the words that asked for it. An edited picture is compared with its source by the
encoder (what it shows) and by its edges (where things stand).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
from PIL import Image

from genrec.config.content import FidelitySettings
from genrec.content.contracts import ImageTextEncoder, Verdict
from genrec.content.fidelity.context import Subject
from genrec.content.fidelity.text import plain

NUMBER_WORDS = {
    word: str(number)
    for number, word in enumerate(
        ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"]
    )
} | {"dozen": "12", "twenty": "20", "thirty": "30", "forty": "40", "fifty": "50", "hundred": "100", "thousand": "1000"}
NUMBER = re.compile(r"\d+(?:[.,]\d+)*")
CLAIMS = re.compile(
    r"\b(?!(?:for|w|r|t|n|gu|ch|inter|harv|requ|hon|prot|qu|v|z|cr|arr|inv|sugg|cont|mod|temp|conqu|budap|dig|man|p)est\b)"
    r"(?:[a-z]{2,}est|approv\w*|recommend\w*|endors\w*|heal(?:s|ing)?|cur(?:es?|ing)|kills?|rated|voted|fair trade|"
    r"sequels?|part|episode|season|volume|starring|featuring|directed by|from the makers|trusted|tested|patented|"
    r"miracle|magic(?:al)?|luxur\w+|premium|professional|real|true|legendary|famous|popular|favou?rite|rare|vintage|"
    r"antique|signed|blockbuster|must[- ]see|hit|for (?:bab(?:y|ies)|kids|children|men|women|sensitive skin)|"
    r"best(?:-?sell\w+|-rated)?|number one|no\. ?1|top(?:-rated| rated| choice)|award[- ]?winning|awarded|"
    r"oscar\w*|winner|prize|guarantee\w*|certified|approved|proven|clinical\w*|scientific\w*|"
    r"dermatolog\w*|doctors?|experts?|recommended|endorsed|official\w*|"
    r"authentic|genuine|original|exclusive|limited edition|handmade|hand-?crafted|"
    r"organic|natural|vegan|cruelty[- ]free|hypoallergenic|non-?toxic|chemical[- ]free|free|cures?|heals?|treats?|"
    r"prevents?|eliminates?|removes? all|instant\w*|permanent\w*|lifetime|unbreakable|waterproof|fireproof|perfect|"
    r"ultimate|greatest|finest|fastest|strongest|"
    r"cheapest|lowest|highest|safest|largest|smallest|purest|first ever|only|"
    r"never|always|forever|all-?time|world'?s|masterpiece|critics?|acclaimed|true story|based on|real gold|diamond|"
    r"sterling|genuine leather|pure|made in|imported|sale|discount|% off|save|cheap|new|improved|uncut|unrated|"
    r"director'?s cut|remastered|restored|sequel|trilogy|complete|full)\b"
)
NAME = re.compile(r"\b[A-Z][a-z]+(?:[A-Z][a-z]+)*\b|\b[A-Z]{2,}\b|\b[a-z]+[A-Z]\w*\b")
COMMON = frozenset(
    re.findall(
        r"\w+",
        "a an and the of in on at for with by from to ai edition style picture image card item version our your this "
        "made red green blue yellow black white orange purple pink brown grey gray flat watercolor watercolour sketch "
        "oil pixel cartoon photo poster cover restyled recoloured recolored cropped edited created new look ii iii iv",
    )
)
"""Words that a title may begin with a capital without naming anybody."""
SIDE = 64


@dataclass(eq=False)
class Authenticity:
    """The check.

    Attributes:
        settings: thresholds.
        encoder: of pictures; None: settings.encoder is none, edges alone decide.
    """

    settings: FidelitySettings
    encoder: ImageTextEncoder | None
    name: str = "authenticity"

    def __call__(self, subject: Subject) -> Verdict:
        """Words first, then the edit."""
        draft = subject.draft
        if draft is None:
            return Verdict(check=self.name, passed=True, score=0.0, evidence="nothing was made yet")
        context = subject.context
        known = f"{context.source_title}\n{context.source_text}" if draft.action == "edit" else draft.prompt
        if draft.action == "edit" and not context.source_title:
            return self._failed("an edit whose source is not known")
        unfounded = claims_without_ground(draft.title, known)
        if unfounded:
            return self._failed(f"{len(unfounded)} claims that the source does not make ({', '.join(unfounded[:3])})")
        if draft.action == "edit" and draft.medium != "card":
            if context.source_picture is None:
                return self._failed("an edit of a picture that is not at hand")
            return self._edit(draft.frames, context.source_picture)
        return Verdict(check=self.name, passed=True, score=0.0, evidence="every claim stands in the source")

    def _edit(self, frames: tuple[Image.Image, ...], source: Image.Image) -> Verdict:
        structure = structural_likeness(frames[0], source)
        cosine = 1.0
        if self.encoder is not None:
            rows = self.encoder.images([frames[0], source])
            cosine = float(rows[0] @ rows[1])
        passed = cosine >= self.settings.edit_cosine and structure >= self.settings.edit_structure
        evidence = f"likeness to the source: {cosine:.2f} by the encoder, {structure:.2f} by edges"
        return Verdict(check=self.name, passed=passed, score=min(cosine, structure), evidence=evidence)

    def _failed(self, evidence: str) -> Verdict:
        return Verdict(check=self.name, passed=False, score=1.0, evidence=evidence)


def claims_without_ground(title: str, known: str) -> list[str]:
    """Numbers, claims and names of ``title`` that ``known`` does not hold."""
    lower_title, lower_known = plain(title), plain(known)
    known_numbers = _numbers(lower_known)
    found = [number for number in sorted(_numbers(lower_title)) if number not in known_numbers]
    found += [claim for claim in CLAIMS.findall(lower_title) if claim not in lower_known]
    words = set(re.findall(r"[a-z0-9]+", lower_known))
    if not title.istitle() or lower_known:
        for name in NAME.findall(title):
            parts = re.findall(r"[a-z0-9]+", plain(name))
            if any(not _knows(words, part) for part in parts if part not in COMMON):
                found.append(name)
    return list(dict.fromkeys(found))


def _knows(words: set[str], part: str) -> bool:
    return part in words or any(word.startswith(part) or part.startswith(word) for word in words if len(word) > 3)


def _numbers(text: str) -> set[str]:
    written = {match.replace(",", "").rstrip(".").rstrip("0").rstrip(".") or "0" for match in NUMBER.findall(text)}
    plain_numbers = {match.replace(",", "") for match in NUMBER.findall(text)}
    spelt = {NUMBER_WORDS[word] for word in re.findall(r"[a-z]+", text) if word in NUMBER_WORDS}
    return plain_numbers | {number for number in spelt if number != "1"} | (written if "." in text else set())


def structural_likeness(one: Image.Image, other: Image.Image) -> float:
    """Correlation of edge strength at 64 x 64, each picture smoothed; 1 for equal layouts, about 0 for unlike ones."""
    return float((_edges(one) * _edges(other)).mean())


def _edges(picture: Image.Image) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    from scipy.ndimage import gaussian_filter, gaussian_gradient_magnitude

    grey = np.asarray(picture.convert("L").resize((SIDE, SIDE), Image.Resampling.BILINEAR), dtype=np.float64)
    edges = gaussian_filter(gaussian_gradient_magnitude(grey, 1.0), 1.5)
    return (edges - edges.mean()) / (edges.std() + 1e-9)
