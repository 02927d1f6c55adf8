"""Words for the creator: a prompt's style taken out, the rest as MiniLM token states.

The same function serves training and making, so a prompt "a red apple in 3D style" and the caption "red apple" of a
3D drawing are one and the same to the network.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from genrec.content.corpus.concepts import STYLES

MOST_TOKENS = 8
# What people call the styles; the longest is looked for first.
STYLE_WORDS = {
    "3d": ("3d", "3-d", "three-dimensional", "rendered", "glossy", "clay"),
    "flat": ("flat", "minimal", "minimalist", "vector", "flat design"),
    "twitter": ("twitter", "twemoji", "sticker", "simple"),
    "google": ("google", "noto", "cartoon", "android"),
}
_KNOWN = {word: style for style, words in STYLE_WORDS.items() for word in words}
_ANY_STYLE = "|".join(re.escape(word) for word in sorted(_KNOWN, key=len, reverse=True))
_STYLE = re.compile(
    rf",?\s*\b(?:in\s+|as\s+)?(?:an?\s+|the\s+)?({_ANY_STYLE})[\s-]+"
    r"(?:style|look|emoji|icon|design|drawing|picture|render)\b",
    re.IGNORECASE,
)
_BARE = re.compile(r"(?:,\s*|\bin\s+)(3-?d|flat|twitter|google)\s*$", re.IGNORECASE)
_ARTICLE = re.compile(
    r"^(?:please\s+)?(?:(?:create|draw|make|generate|show|paint)\s+(?:me\s+)?)?"
    r"(?:(?:a|an|the|some)\s+)?(?:(?:picture|drawing|image|icon|emoji)\s+of\s+)?(?:(?:a|an|the|some)\s+)?",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Wish:
    """A prompt, taken apart.

    Attributes:
        subject: what is to be seen, lower case, without article or style.
        style: one of ``STYLES``; None if the prompt names none that is known.
    """

    subject: str
    style: str | None


def parse(prompt: str) -> Wish:
    """Take a prompt apart."""
    text = " ".join(prompt.split())
    style = None
    found = _STYLE.search(text) or _BARE.search(text)
    if found is not None:
        style = _KNOWN[found.group(1).lower()]
        text = f"{text[: found.start()]} {text[found.end() :]}"
    subject = _ARTICLE.sub("", " ".join(text.split()).strip(" ,.!"), count=1)
    return Wish(" ".join(subject.split()).strip(" ,.!").lower(), style)


def style_index(style: str | None) -> int:
    """Row of the style's embedding; the last one means any."""
    return len(STYLES) if style is None else STYLES.index(style)


@dataclass
class Words:
    """MiniLM's view of texts.

    Attributes:
        states_BTE: token states, special tokens left out, zero where the mask is false.
        mask_BT: which are there.
        pooled_BE: mean over all tokens, length 1: what :class:`~genrec.encoders.minilm.MiniLMEncoder` gives.
    """

    states_BTE: Tensor
    mask_BT: Tensor
    pooled_BE: Tensor


class WordEncoder:
    """Token states of the packaged MiniLM."""

    def __init__(self) -> None:
        from transformers import AutoModel, AutoTokenizer

        from genrec.encoders.minilm import packaged_model

        path = str(packaged_model())
        self._tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True)
        self._model = AutoModel.from_pretrained(path, local_files_only=True, dtype=torch.float32).eval()

    @torch.inference_mode()
    def __call__(self, texts: Sequence[str], batch_size: int = 128) -> Words:
        """Encode texts; tokens past ``MOST_TOKENS`` are pooled but have no state."""
        width = int(self._model.config.hidden_size)
        states = torch.zeros(len(texts), MOST_TOKENS, width)
        mask = torch.zeros(len(texts), MOST_TOKENS, dtype=torch.bool)
        pooled = torch.zeros(len(texts), width)
        ids = self._tokenizer(list(texts), truncation=True, max_length=128)["input_ids"]
        order = sorted(range(len(ids)), key=lambda row: len(ids[row]))
        for begin in range(0, len(order), batch_size):
            rows = order[begin : begin + batch_size]
            batch = self._tokenizer.pad({"input_ids": [ids[row] for row in rows]}, return_tensors="pt")
            out = self._model(**batch).last_hidden_state
            there = batch["attention_mask"].unsqueeze(-1)
            pooled[rows] = torch.nn.functional.normalize((out * there).sum(1) / there.sum(1), dim=-1)
            for place, row in enumerate(rows):
                count = min(len(ids[row]) - 2, MOST_TOKENS)
                states[row, :count] = out[place, 1 : 1 + count]
                mask[row, :count] = True
        return Words(states, mask, pooled)
