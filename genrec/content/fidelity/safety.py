"""Safety: words and pictures that harm.

Words are refused by any of three: a rule of ``rules_safety.yaml`` (kept by hand, by hazard), a trained head on sentence
embeddings that knows the hazards' meaning (``hazards.py``), or profanity. Pictures are judged by a small
classifier of unsafe pictures (``unsafe_pictures.py``).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files

import yaml
from PIL import Image

from genrec.config.content import FidelitySettings
from genrec.content.contracts import Verdict
from genrec.content.fidelity.context import Subject
from genrec.content.fidelity.hazards import HazardModel
from genrec.content.fidelity.profanity import Profanity
from genrec.content.fidelity.text import readings
from genrec.content.fidelity.unsafe_pictures import UnsafePictures

RULES = "rules_safety.yaml"


def load_rules(name: str) -> dict[str, list[re.Pattern[str]]]:
    """Patterns by hazard, from a file of this package."""
    text = (files(__package__) / name).read_text(encoding="utf-8")
    return {hazard: [re.compile(rule) for rule in rules] for hazard, rules in yaml.safe_load(text).items()}


@dataclass(eq=False)
class Safety:
    """The check.

    Attributes:
        settings: thresholds.
        hazards: tells a hazard's probability from words.
        profanity: tells that of profane words.
        pictures: tells that of an unsafe picture.
    """

    settings: FidelitySettings
    hazards: HazardModel
    profanity: Profanity
    pictures: Callable[[], UnsafePictures]
    name: str = "safety"

    @classmethod
    def load(cls, settings: FidelitySettings) -> Safety:
        """With the shipped rules and weights; the picture classifier is read when the first picture comes."""
        return cls(settings, HazardModel.load(), Profanity.load(), UnsafePictures.load)

    @cached_property
    def rules(self) -> dict[str, list[re.Pattern[str]]]:
        """Patterns by hazard."""
        return load_rules(RULES)

    @cached_property
    def _classifier(self) -> UnsafePictures:
        return self.pictures()

    def __call__(self, subject: Subject) -> Verdict:
        """Words first; pictures only of words that passed."""
        score, found = self._words(subject.words)
        if not found and subject.frames:
            unsafe = max(self._classifier(list(_sampled(subject.frames))))
            score = max(score, unsafe)
            if unsafe >= self.settings.picture_unsafe:
                found = f"the picture looks unsafe (probability {unsafe:.2f})"
        return Verdict(
            check=self.name, passed=not found, score=score, evidence=found or "no hazard found in words or pictures"
        )

    def _words(self, words: str) -> tuple[float, str]:
        """Highest probability of harm, and what was found; empty: nothing."""
        for text in readings(words):
            for hazard, rules in self.rules.items():
                if any(rule.search(text) for rule in rules):
                    return 1.0, f"words of the hazard {hazard}"
        if self.profanity.found(words):
            return 1.0, "profane words"
        hazard, probability = self.hazards.worst(words)
        if probability >= self.settings.hazard:
            return probability, f"the words mean the hazard {hazard} (probability {probability:.2f})"
        return probability, ""


def _sampled(frames: tuple[Image.Image, ...], most: int = 8) -> tuple[Image.Image, ...]:
    if len(frames) <= most:
        return frames
    return tuple(frames[round(i * (len(frames) - 1) / (most - 1))] for i in range(most))
