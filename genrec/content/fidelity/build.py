"""The checks that a policy consists of, built from the settings; what cannot be loaded is left out, so it fails."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Sequence
from importlib.resources import files
from pathlib import Path

from PIL import Image

from genrec.config.content import FidelitySettings
from genrec.content.contracts import ImageTextEncoder
from genrec.content.fidelity.context import Check, Subject
from genrec.content.fidelity.keys import signing_keys

log = logging.getLogger(__name__)
CHECKS = ("safety", "privacy", "bias", "authenticity", "legality", "identifiability")
"""Every report on a draft holds a verdict of each."""
WORD_CHECKS = ("safety", "privacy", "bias", "legality")
"""Those that can judge words before anything is made."""
POLICY = "2025-11"
"""Changes when what a check means changes; settings and rules are told by the hash behind it."""


def policy_version(settings: FidelitySettings) -> str:
    """Names policy, settings that decide, and rules; equal for equal ones."""
    decisive = settings.model_dump(
        mode="json", exclude={"processes", "timeout_s", "start_timeout_s", "private_key", "certificates"}
    )
    told = hashlib.sha256(json.dumps(decisive, sort_keys=True).encode())
    for name in ("rules_safety.yaml", "rules_bias.yaml"):
        told.update((files(__package__) / name).read_bytes())
    return f"{POLICY}+{told.hexdigest()[:12]}"


def build_checks(
    settings: FidelitySettings, directory: Path, encoder: ImageTextEncoder | None = None, *, warm: bool = True
) -> Sequence[Check]:
    """All checks that can be loaded.

    Args:
        settings: of the policy.
        directory: of the development key.
        encoder: in place of what ``settings.encoder`` names.
        warm: read every model now, so that no review waits for one.
    """
    from genrec.content.fidelity.authenticity import Authenticity
    from genrec.content.fidelity.bias import Bias
    from genrec.content.fidelity.identifiability import Identifiability
    from genrec.content.fidelity.legality import Legality
    from genrec.content.fidelity.privacy import Privacy
    from genrec.content.fidelity.safety import Safety

    checks: list[Check] = []

    def add(name: str, make: Callable[[], Check]) -> None:
        try:
            check = make()
            if warm:
                check(Subject("a red apple", frames=(Image.new("RGB", (64, 64)),)))
            checks.append(check)
        except Exception as error:  # noqa: BLE001 - a check that is not there fails, the others go on
            log.error("the %s check could not be loaded: %s: %s", name, type(error).__name__, error)

    found: list[ImageTextEncoder | None] = []

    def seeing() -> ImageTextEncoder | None:
        if not found:
            found.append(encoder if encoder is not None else load_encoder(settings))
        return found[0]

    add("safety", lambda: Safety.load(settings))
    add("privacy", Privacy.load)
    safety = next((check for check in checks if isinstance(check, Safety)), None)
    if safety is not None:  # without it there is nothing to compare, and bias fails with it
        add("bias", lambda: Bias([safety], safety.hazards, settings.hazard))
    add("authenticity", lambda: Authenticity(settings, seeing()))
    add("legality", lambda: Legality.load(settings, seeing()))
    add("identifiability", lambda: Identifiability(signing_keys(settings, directory)))
    return checks


def load_encoder(settings: FidelitySettings) -> ImageTextEncoder | None:
    """The image-text encoder of the settings; None: none is wanted."""
    if settings.encoder == "none":
        return None
    from genrec.content.vision import load_encoder as load

    encoder: ImageTextEncoder = load()
    return encoder
