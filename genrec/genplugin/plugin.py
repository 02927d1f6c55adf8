"""GENPLUGIN around a host: two views of a history, one decoder, substitution guidance.

The plug-in uses nothing of its host but the Protocol of genrec/models/contracts.py. It is itself a Backbone
that answers with its host's ID path, so decoding, evaluation and serving do not know it is there,
and with every mechanism off its forward pass is the host's own.

Source: GENPLUGIN, arXiv 2507.03568, section 3.
"""

from __future__ import annotations

from pathlib import Path

from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from genrec.config import ModelSettings, PluginSettings
from genrec.genplugin.attached import Attached
from genrec.genplugin.language_view import LanguageView
from genrec.genplugin.substitution import believed_embeddings, coins, rate_at, substitute
from genrec.models.contracts import Batch, Outputs

HOST = "host."
"""Prefix of the host's weights in a plug-in's checkpoint."""


class GenPlugin(Attached):
    """A host with the plug-in attached; implements Backbone by its host's ID path.

    Args:
        host: any backbone that is an ``nn.Module`` with ``forward(batch) -> Outputs``.
        model: shape of the host, taken for the language encoder.
        settings: the mechanisms.
        embeddings_NE: frozen text embeddings of the catalog.
    """

    def __init__(self, host: nn.Module, model: ModelSettings, settings: PluginSettings, embeddings_NE: Tensor) -> None:
        super().__init__(host)
        self.settings = settings
        self.language = LanguageView(model, embeddings_NE) if settings.language else None
        self.epoch = 0.0

    def forward(self, batch: Batch) -> Outputs:
        """Outputs of the ID view; the language view's in ``extra["language_logits"]`` and ``memories[-1]``.

        ``extra["substitution_rate"]`` is the realised share of replaced inputs among those that may be.
        """
        if self.language is None:
            outputs: Outputs = self.host(batch)
            return outputs
        assert batch.targets_BP is not None
        memories = [self.encode(batch), *batch.neighbours]
        language = self.language.encode(batch)
        inputs, labels_BPS = self.teacher(batch.targets_BP)
        language_logits = self.decode(inputs, [language], batch.visible_BP)
        extra = {"language_logits": language_logits}
        if self.training and self.substitution_rate > 0:
            inputs, extra["substitution_rate"] = self._substituted(inputs, language_logits)
        logits = self.decode(inputs, memories, batch.visible_BP)
        return Outputs(logits, labels_BPS, [*memories, language], extra)

    @property
    def substitution_rate(self) -> float:
        """Share of the full substitution rate in force at the present epoch (set by the trainer)."""
        guidance = self.settings.substitution
        if guidance.p1 * guidance.p2 == 0:
            return 0.0
        return rate_at(self.epoch, guidance.warmup_epochs, guidance.ramp_epochs)

    def _substituted(self, inputs_BPS: Tensor, language_logits: Tensor) -> tuple[Tensor, Tensor]:
        guidance, table = self.settings.substitution, self.sid_table
        embedding = self.token_embedding
        ranges = [
            (int(first), int(first) + size) for first, size in zip(table.level_offsets, table.level_sizes, strict=True)
        ]
        believed = believed_embeddings(language_logits, embedding.weight, ranges, guidance.top_k)
        shape = (inputs_BPS.shape[0], inputs_BPS.shape[1], inputs_BPS.shape[2])
        replaced = coins(shape, guidance.p1 * self.substitution_rate, guidance.p2, guidance.first_code)
        done = substitute(embedding(inputs_BPS), believed, replaced)
        eligible = done.replaced_BPS[:, :, 1 if guidance.first_code else 2 :]
        return done.inputs_BPSD, eligible.float().mean()


def host_weights(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The host's part of a plug-in's checkpoint, to be loaded into the bare host."""
    return {name.removeprefix(HOST): value for name, value in state.items() if name.startswith(HOST)}


def split_weights(weights: Path, rest: Path) -> None:
    """Leave the host's weights in the file ``weights``, under its own names, and move the plug-in's to ``rest``."""
    with safe_open(weights, framework="pt") as stream:
        metadata = stream.metadata()
    state = load_file(weights)
    save_file({name: value for name, value in state.items() if not name.startswith(HOST)}, rest, metadata)
    save_file(host_weights(state), weights, metadata)
