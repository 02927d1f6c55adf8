"""A decoder that attends to retrieved users: how their memory enters, and what of the host is trained for it.

GENPLUGIN (arXiv 2507.03568), section 3.4: the mean-pooled representations of v retrieved users are put before the
history's states, the encoders are frozen, and the decoder is fine-tuned. Frozen encoders keep the cached
representations true. What ``encode`` reads is found by its gradients, so any backbone will do; code embeddings are
among it, and with tied embeddings they are the head as well, which then stays as it is.

Beside the paper's way (``prepend``) there is a gated one: the history's states attend to the users first, and
what they find is added through a gate that starts closed (Flamingo, arXiv 2204.14198), so that training
begins at the host itself.

Shape letters: genrec/models/contracts.py; R retrieved users.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from genrec.config import ModelSettings, Settings
from genrec.errors import ArtifactError
from genrec.genplugin.attached import Attached
from genrec.models.attention import RMSNorm, drawn_linear
from genrec.models.contracts import Backbone, Batch, DecoderCache, Memory, Outputs

USERS = "users"
"""Kind of the memory of retrieved users."""
MEMORY_WEIGHTS = "memory.safetensors"
"""Weights of the gated entry, beside the host's."""


class GatedUsers(nn.Module):
    """History states attend to the retrieved users; a gate, closed at first, adds what they find.

    Args:
        model: shape of the host.
    """

    def __init__(self, model: ModelSettings) -> None:
        super().__init__()
        width, inner = model.d_model, model.heads * model.d_head
        self.heads = model.heads
        self.norm = RMSNorm(width)
        self.query = drawn_linear(width, inner, width**-0.5)
        self.key_value = drawn_linear(width, 2 * inner, width**-0.5)
        self.out = drawn_linear(inner, width, inner**-0.5)
        self.gate = nn.Parameter(torch.zeros(1))

    def forward(self, history: Memory, users: Memory) -> Memory:
        """The history's memory, its states having read the users'; untouched in rows without a user."""
        weights_BHTR, value_BHRd = self._read(history, users)
        found_BTD = self.out((weights_BHTR @ value_BHRd).transpose(1, 2).flatten(2))
        found_BTD = found_BTD * users.mask_BT.any(dim=1)[:, None, None]
        return replace(history, states_BTD=history.states_BTD + self.gate.tanh() * found_BTD)

    def attention(self, history: Memory, users: Memory) -> Tensor:
        """Float [B, H, T, R], how much each state attends to each user."""
        return self._read(history, users)[0]

    def _read(self, history: Memory, users: Memory) -> tuple[Tensor, Tensor]:
        query, (key, value) = self.query(self.norm(history.states_BTD)), self.key_value(users.states_BTD).chunk(2, -1)
        query, key, value = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in (query, key, value))
        scores_BHTR = query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5
        hidden_BR = ~users.mask_BT & users.mask_BT.any(dim=1, keepdim=True)  # a row without users stays finite
        return scores_BHTR.masked_fill(hidden_BR[:, None, None], -torch.inf).softmax(-1), value


class MemoryReader(Attached):
    """A host whose decoder reads the memory of retrieved users; implements Backbone.

    The users come as ``batch.neighbours`` (kind "users"); without them it is the host.

    Args:
        host: any backbone.
        gated: the gated entry; None: users' states stand beside the history's.
    """

    def __init__(self, host: nn.Module, gated: GatedUsers | None = None) -> None:
        super().__init__(host)
        self.gated = gated

    def decode(self, inputs: Tensor, memories: Sequence[Memory], visible_BP: Tensor | None = None) -> Tensor:
        """Logits [B, P, S, V] over history and users."""
        return self.backbone.decode(inputs, self._entered(memories), visible_BP)

    def start(self, memories: Sequence[Memory]) -> DecoderCache:
        """Prepare step-by-step decoding by the host."""
        return self.backbone.start(self._entered(memories))

    def forward(self, batch: Batch) -> Outputs:
        """Teacher-forced logits; the history is encoded as for inference, without dropout and gradients."""
        assert batch.targets_BP is not None
        training = self.host.training
        self.host.eval()
        with torch.no_grad():
            history = self.encode(batch)
        self.host.train(training)
        inputs, labels = self.teacher(batch.targets_BP)
        memories = [history, *batch.neighbours]
        return Outputs(self.decode(inputs, memories, batch.visible_BP), labels, memories)

    def _entered(self, memories: Sequence[Memory]) -> Sequence[Memory]:
        users = [memory for memory in memories if memory.kind == USERS]
        if self.gated is None or not users:
            return memories
        assert len(users) == 1, "one memory of retrieved users"
        rest = [memory for memory in memories if memory.kind != USERS]
        return [self.gated(rest[0], users[0]), *rest[1:]]


def encoder_parameters(backbone: Backbone) -> set[str]:
    """Names of the parameters that ``encode`` depends on, frozen or not."""
    assert isinstance(backbone, nn.Module)
    names, parameters = zip(*backbone.named_parameters(), strict=True)
    trained = [parameter.requires_grad for parameter in parameters]
    history_BT = torch.zeros(1, 2, dtype=torch.int64, device=parameters[0].device)
    try:
        with torch.enable_grad():
            total = backbone.requires_grad_(True).encode(Batch(history_BT)).states_BTD.sum()
        found = torch.autograd.grad(total, parameters, allow_unused=True)
    finally:
        for parameter, was_trained in zip(parameters, trained, strict=True):
            parameter.requires_grad_(was_trained)
    return {name for name, gradient in zip(names, found, strict=True) if gradient is not None}


def freeze_encoder(backbone: Backbone) -> None:
    """Take gradients from everything that ``encode`` depends on."""
    assert isinstance(backbone, nn.Module)
    frozen = encoder_parameters(backbone)
    for name, parameter in backbone.named_parameters():
        if name in frozen:
            parameter.requires_grad_(False)


def reads_users(settings: Settings) -> bool:
    """Does the decoder attend to retrieved users?"""
    memory = settings.plugin.memory
    return memory.finetune and memory.neighbours != "none"


def memory_reader(host: nn.Module, settings: Settings) -> MemoryReader:
    """The host and what its settings add to read users; fresh weights of what is added."""
    gated = reads_users(settings) and settings.plugin.memory.entry == "gated"
    return MemoryReader(host, GatedUsers(settings.model) if gated else None)


def load_reader(host: nn.Module, settings: Settings, directory: Path) -> nn.Module:
    """The host as fine-tuned for its memory: itself, or with the weights of the gated entry around it.

    Args:
        host: with the fine-tuned weights.
        settings: the resolved tree.
        directory: holds ``MEMORY_WEIGHTS``, if the settings have such.

    Raises:
        ArtifactError: the file is absent or does not fit.
    """
    reader = memory_reader(host, settings)
    if reader.gated is None:
        return host
    path = directory / MEMORY_WEIGHTS
    try:
        reader.load_state_dict({**{f"host.{n}": t for n, t in host.state_dict().items()}, **load_file(path)})
    except (OSError, SafetensorError, RuntimeError) as error:
        raise ArtifactError(f"{path}: does not fit these settings ({error}). Run `finetune` again.") from error
    return reader.to(next(host.parameters()).device).eval()
