"""Next-item training of a host with the plug-in attached."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from genrec.config import EvaluationSettings, PluginSettings, TrainingSettings
from genrec.data.interactions import Interactions
from genrec.decoding import recommend
from genrec.genplugin.losses import PLUGIN_LOSSES, plugin_terms
from genrec.genplugin.plugin import GenPlugin
from genrec.losses import total_loss
from genrec.models.contracts import Batch
from genrec.training.next_item import HostTask
from genrec.training.validation import CUTOFF


class PluginTask(HostTask):
    """Trains both views; validates and decodes by the host's ID path, as the host alone would.

    Args:
        plugin: the host with the plug-in around it.
        settings: the plug-in's settings, which weight its losses.
        Others as for :class:`HostTask`.
    """

    def __init__(
        self,
        plugin: GenPlugin,
        settings: PluginSettings,
        data: Interactions,
        training: TrainingSettings,
        evaluation: EvaluationSettings,
        seed: int,
        max_history: int,
        *,
        causal: bool = False,
    ) -> None:
        super().__init__(plugin, data, training, evaluation, seed, max_history, causal=causal, losses=PLUGIN_LOSSES)
        self.plugin, self.host = plugin, plugin.host
        self.terms = (*training.losses, *plugin_terms(settings))
        self.name = f"genplugin-{type(plugin.host).__name__.lower()}"

    def loss(self, batch: Batch, step: int) -> dict[str, Tensor]:
        """The weighted sum of the host's and the plug-in's losses; "substitution-rate" is the realised one."""
        self.plugin.epoch = step / self.steps_per_epoch()
        outputs = self.model(batch)
        parts = total_loss(outputs, batch, self.terms, self.losses)
        if outputs.extra is not None and "substitution_rate" in outputs.extra:
            parts["substitution-rate"] = outputs.extra["substitution_rate"]
        return self.with_side_task(parts, batch)

    def recommend(self, batch: Batch, exclude_BS: Tensor) -> Tensor:
        """As the bare host recommends."""
        model: Any = self.model
        beams = max(self.evaluation.beams, CUTOFF)
        return recommend(model.host, batch, CUTOFF, beams=beams, exclude_BS=exclude_BS).items_BK
