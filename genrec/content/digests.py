"""Content hashes: what a report is about, how a file is named, what a draft was made from."""

from __future__ import annotations

import hashlib
import json

from PIL import Image

from genrec.content.contracts import Draft


def picture_digest(picture: Image.Image) -> str:
    """SHA-256 (hex) of the pixels as RGB, whatever file they came from."""
    rgb = picture.convert("RGB")
    return hashlib.sha256(f"{rgb.width}x{rgb.height}:".encode() + rgb.tobytes()).hexdigest()


def bytes_digest(content: bytes) -> str:
    """SHA-256 (hex) of a file's bytes."""
    return hashlib.sha256(content).hexdigest()


def draft_digest(draft: Draft) -> str:
    """SHA-256 (hex) of all that is checked of a draft: words, pictures, film, origin. Any change gives another."""
    said = {
        "action": draft.action,
        "medium": draft.medium,
        "title": draft.title,
        "prompt": draft.prompt,
        "model": draft.model,
        "seed": draft.seed,
        "source_item": draft.source_item,
        "ingredients": list(draft.ingredients),
        "details": dict(draft.details),
        "frames": [picture_digest(frame) for frame in draft.frames],
        "video": None if draft.video is None else bytes_digest(draft.video),
    }
    return hashlib.sha256(json.dumps(said, sort_keys=True, ensure_ascii=False).encode()).hexdigest()
