"""The signed statement inside a file: what made it, of what, and that a machine did (C2PA 2.x).

A manifest holds one action (created, or edited, by trained media), the ingredients by content hash, and whether the
key is a development key. Who changes a byte of the file breaks it.
"""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from typing import Any

import c2pa

from genrec import __version__
from genrec.content.contracts import Draft
from genrec.content.digests import draft_digest
from genrec.content.fidelity.context import Ingredient
from genrec.content.fidelity.keys import DEVELOPMENT, SigningKeys

TRAINED = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
COMPOSITE = "http://cv.iptc.org/newscodes/digitalsourcetype/compositeWithTrainedAlgorithmicMedia"
OURS = "org.genrec.asset"
"""Label of our own assertion: digest of the draft, model, ingredients, licences, kind of key."""


@dataclass(frozen=True)
class Provenance:
    """What a file's manifest says, once verified.

    Attributes:
        valid: signature and every hash hold, and the signer stands below a trusted authority.
        state: the library's own word: Trusted, Valid or Invalid; "none" where there is no manifest.
        problems: codes of what failed.
        claims: our own assertion; empty if there is none.
        source_types: digital source types of the actions.
    """

    valid: bool
    state: str
    problems: tuple[str, ...]
    claims: dict[str, Any]
    source_types: tuple[str, ...]


def sign(
    content: bytes, media_type: str, draft: Draft, ingredients: tuple[Ingredient, ...], keys: SigningKeys
) -> bytes:
    """``content`` with a signed manifest in it.

    Args:
        content: PNG, JPEG or MP4.
        media_type: image/png, image/jpeg or video/mp4.
        draft: what the file shows.
        ingredients: what is known of the files it was made from.
        keys: who signs.

    Raises:
        c2pa.C2paError: it cannot be signed.
    """
    source_type = TRAINED if draft.action == "create" else COMPOSITE
    known = {ingredient.digest: ingredient for ingredient in ingredients}
    claims = {
        "draft": draft_digest(draft),
        "action": draft.action,
        "model": draft.model,
        "seed": str(draft.seed),
        "ingredients": [
            {
                "sha256": digest,
                "licence": known[digest].licence if digest in known else "",
                "title": known[digest].title if digest in known else "",
            }
            for digest in draft.ingredients
        ],
        "source_item": "" if draft.source_item is None else str(draft.source_item),
        "key": DEVELOPMENT if keys.development else "production",
    }
    # Both begin a file of ours: the pixels are new, what they were made from stands among the claims.
    action = {
        "action": "c2pa.created",
        "digitalSourceType": source_type,
        "softwareAgent": {"name": draft.model, "version": __version__},
    }
    definition = {
        "claim_generator_info": [{"name": "genrec", "version": __version__}],
        "title": draft.title[:200] or "untitled",
        "format": media_type,
        "assertions": [
            {"label": "c2pa.actions", "data": {"actions": [action]}},
            {"label": OURS, "data": claims},
        ],
    }
    info = c2pa.C2paSignerInfo(b"es256", keys.chain, keys.private_key, None)
    signed = io.BytesIO()
    with (
        c2pa.Context.from_dict(_settings(keys)) as context,
        c2pa.Signer.from_info(info) as signer,
        c2pa.Builder(json.dumps(definition), context) as builder,
    ):
        for digest in draft.ingredients:
            ingredient = known.get(digest)
            if ingredient is None or ingredient.picture is None:
                continue
            picture = io.BytesIO()
            ingredient.picture.convert("RGB").save(picture, "PNG")
            picture.seek(0)
            about = {"title": ingredient.title[:200] or digest[:16], "relationship": "componentOf"}
            builder.add_ingredient(json.dumps(about), "image/png", picture)
        builder.sign(signer, media_type, io.BytesIO(content), signed)
    return signed.getvalue()


def verify(content: bytes, media_type: str, keys: SigningKeys) -> Provenance:
    """Read and check the manifest of a file; whatever is wrong with it is said, not raised."""
    try:
        with c2pa.Context.from_dict(_settings(keys)) as context:
            reader = c2pa.Reader(media_type, io.BytesIO(content), None, context)
            with reader:
                told = json.loads(reader.json())
    except c2pa.C2paError as error:
        return Provenance(False, "none", (type(error).__name__.strip("_"),), {}, ())
    state = str(told.get("validation_state", "Invalid"))
    failures = told.get("validation_results", {}).get("activeManifest", {}).get("failure", [])
    problems = tuple(str(failure.get("code")) for failure in failures)
    manifest = told["manifests"][told["active_manifest"]]
    claims: dict[str, Any] = {}
    source_types: list[str] = []
    for assertion in manifest.get("assertions", []):
        if assertion["label"] == OURS:
            claims = assertion["data"]
        if assertion["label"].startswith("c2pa.actions"):
            source_types += [str(action.get("digitalSourceType", "")) for action in assertion["data"]["actions"]]
    return Provenance(state == "Trusted" and not problems, state, problems, claims, tuple(source_types))


def _settings(keys: SigningKeys) -> dict[str, Any]:
    return {
        "builder": {"thumbnail": {"enabled": False}},
        "trust": {"user_anchors": keys.anchors.decode()},
        "verify": {"verify_trust": True, "remote_manifest_fetch": False, "ocsp_fetch": False},
    }
