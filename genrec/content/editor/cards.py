"""Cards: a title and the reasons why it is shown, as words and as a picture.

Words come from templates over what is known. An OpenAI-compatible endpoint may rewrite them, where the settings name
one; it is given the title and the reasons and nothing about the user, and if it fails the template's words are used.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass

import httpx
from PIL import Image, ImageDraw, ImageFont

from genrec.config.content import EditorSettings
from genrec.content.video.storyboard import filling, wrapped
from genrec.errors import SettingsError

logger = logging.getLogger(__name__)

LONGEST = 240
_TEMPLATES = {
    0: "{title}",
    1: "{title}: {0}.",
    2: "{title}: {0}, and {1}.",
    3: "{title}: {0}, {1}, and {2}.",
}
_TASK = (
    "Rewrite the text of a recommendation card in one or two plain sentences of at most 240 characters. Keep every "
    "fact, add none, keep the title as it is, make no claim about price, health or quality. Answer with the text alone."
)


@dataclass(frozen=True)
class Words:
    """A card's text and who wrote it."""

    text: str
    writer: str


def card_words(title: str, reasons: Sequence[str]) -> str:
    """Title and up to three reasons in one sentence."""
    title = " ".join(title.split()) or "Untitled"
    said = list(dict.fromkeys(" ".join(reason.split()).rstrip(".") for reason in reasons if reason.strip()))[:3]
    return _TEMPLATES[len(said)].replace("{title}", "\0").format(*said).replace("\0", title)


class CardWriter:
    """Words by template, or by the endpoint of the settings."""

    def __init__(self, settings: EditorSettings, client: httpx.Client | None = None) -> None:
        self.settings = settings
        self.client = client or httpx.Client(timeout=settings.endpoint_timeout_s)

    def write(self, title: str, reasons: Sequence[str]) -> Words:
        """The card's text.

        Raises:
            SettingsError: the settings name a key that the environment lacks.
        """
        plain = card_words(title, reasons)
        if self.settings.endpoint is None:
            return Words(plain, "template")
        try:
            answer = self._asked(plain)
        except (httpx.HTTPError, KeyError, IndexError, TypeError, ValueError) as error:
            if isinstance(error, SettingsError):
                raise
            # Not the exception's text: it may quote the address.
            logger.warning("content.editor.endpoint failed (%s); its template is used", type(error).__name__)
            return Words(plain, "template")
        if not answer or len(answer) > LONGEST or " ".join(title.split()).lower() not in answer.lower():
            logger.warning("content.editor.endpoint changed the title or wrote too much; the template's words are used")
            return Words(plain, "template")
        return Words(answer, self.settings.endpoint_model)

    def _asked(self, plain: str) -> str:
        headers = {}
        if self.settings.endpoint_key_env is not None:
            key = os.environ.get(self.settings.endpoint_key_env)
            if not key:
                raise SettingsError(
                    f"content.editor.endpoint_key_env: {self.settings.endpoint_key_env} is not set; set it, or leave "
                    "it out"
                )
            headers["Authorization"] = f"Bearer {key}"
        assert self.settings.endpoint is not None
        reply = self.client.post(
            f"{self.settings.endpoint.rstrip('/')}/chat/completions",
            headers=headers,
            json={
                "model": self.settings.endpoint_model,
                "temperature": 0,
                "max_tokens": 120,
                "messages": [{"role": "system", "content": _TASK}, {"role": "user", "content": plain}],
            },
        )
        reply.raise_for_status()
        return " ".join(str(reply.json()["choices"][0]["message"]["content"]).split())


def draw_card(picture: Image.Image | None, text: str, size: tuple[int, int] = (256, 320)) -> Image.Image:
    """The picture above the words; without one, the words on a plain ground."""
    card = Image.new("RGB", size, "#f4f1ea")
    height = size[1] // 20
    top = height
    if picture is not None:
        shown = filling(picture, (size[0], size[0] * 3 // 4)).resize(
            (size[0], size[0] * 3 // 4), Image.Resampling.LANCZOS
        )
        card.paste(shown, (0, 0))
        top = shown.height + height // 2
    font = ImageFont.load_default(size=height)
    draw = ImageDraw.Draw(card)
    for place, line in enumerate(wrapped(text, font, size[0] - 2 * height)):
        draw.text((height, top + place * height * 1.3), line, font=font, fill="#222222")
    return card
