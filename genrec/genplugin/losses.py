"""The plug-in's losses, in the form of the registry: ``loss(outputs, batch, term) -> {name: scalar}``.

They read what :class:`genrec.genplugin.plugin.GenPlugin` leaves in its outputs: the language view's logits
in ``extra["language_logits"]`` and both views' memories, the ID view's first and the language view's last.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

import torch
from torch import Tensor

from genrec.config import LossTerm, PluginSettings
from genrec.genplugin.alignment import info_nce, item_states, symmetric_kl
from genrec.losses import LOSSES, Loss, next_item
from genrec.models.contracts import PAD_ITEM, Batch, Outputs

CONTRAST_ITEMS = 512
"""History items of a batch that enter the item-level contrast at most (its cost is quadratic)."""


def language_next_item(outputs: Outputs, batch: Batch, term: LossTerm) -> dict[str, Tensor]:
    """Next-item loss of the language view."""
    own = replace(outputs, logits_BPSV=_extra(outputs)["language_logits"])
    return {"language-next-item": next_item(own, batch, term)["next-item"]}


def view_divergence(outputs: Outputs, batch: Batch, term: LossTerm) -> dict[str, Tensor]:
    """Symmetric KL between the two views' next-code distributions."""
    language = _extra(outputs)["language_logits"]
    return {"view-divergence": symmetric_kl(outputs.logits_BPSV, language, outputs.labels_BPS, term.temperature)}


def user_alignment(outputs: Outputs, batch: Batch, term: LossTerm) -> dict[str, Tensor]:
    """InfoNCE between the mean-pooled views of each history; rows of one user are no negatives."""
    users = batch.users_B
    identity = torch.arange(batch.size, device=batch.history_BT.device) if users is None else users
    first, second = outputs.memories[0].pooled(), outputs.memories[-1].pooled()
    return {"user-alignment": info_nce(first, second, identity, term.temperature)}


def item_alignment(outputs: Outputs, batch: Batch, term: LossTerm) -> dict[str, Tensor]:
    """InfoNCE between the views of each history item (ID view: the sum of its token states).

    At most CONTRAST_ITEMS of the batch enter, drawn at random.
    """
    history_BT = batch.history_BT
    places = (history_BT != PAD_ITEM).nonzero()
    if len(places) > CONTRAST_ITEMS:
        places = places[torch.randperm(len(places))[:CONTRAST_ITEMS].to(places.device)]
    rows, columns = places.unbind(1)
    first, second = (
        item_states(memory, history_BT.shape[1])[rows, columns]
        for memory in (outputs.memories[0], outputs.memories[-1])
    )
    return {"item-alignment": info_nce(first, second, history_BT[rows, columns], term.temperature)}


PLUGIN_LOSSES: Mapping[str, Loss] = MappingProxyType(
    {
        **LOSSES,
        "language-next-item": language_next_item,
        "view-divergence": view_divergence,
        "user-alignment": user_alignment,
        "item-alignment": item_alignment,
    }
)
"""The hosts' losses and the plug-in's."""


def plugin_terms(settings: PluginSettings) -> tuple[LossTerm, ...]:
    """The plug-in's loss terms as the settings weight them; those of weight zero are left out."""
    if not settings.language:
        return ()
    weights = settings.alignment
    terms = (
        LossTerm(name="language-next-item", weight=weights.language),
        LossTerm(name="item-alignment", weight=weights.item, temperature=weights.contrast_temperature),
        LossTerm(name="user-alignment", weight=weights.user, temperature=weights.contrast_temperature),
        LossTerm(name="view-divergence", weight=weights.divergence, temperature=weights.divergence_temperature),
    )
    return tuple(term for term in terms if term.weight > 0)


def _extra(outputs: Outputs) -> dict[str, Tensor]:
    assert outputs.extra is not None, "the model has no language view"
    return outputs.extra
