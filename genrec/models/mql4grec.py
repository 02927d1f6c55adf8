"""MQL4GRec: one encoder-decoder that speaks several tables of semantic IDs, each a "quantitative language".

Source: Zhai et al. 2025, "Multimodal Quantitative Language for Generative Recommendation" (ICLR, arXiv 2504.05314).
Text and images of an item are quantized separately, all codes share one vocabulary, and one network learns to predict
the next item within a language, across languages, and to translate items. Each task has a small soft prompt; here it
is a memory.

Here a language is any table of the catalog (:class:`~genrec.tokenizer.joint.JointTable`). To the Protocol the host is a
TIGER over the first table; the other tables are there as backbones of their own (``members``), for decoding and for
``genrec.decoding.ensemble``. A batch trains the first table's next item, as with every host, and ``side_task`` one
further task, drawn with torch's own random numbers, which the train loop seeds at each step.

Shape letters: genrec/models/contracts.py; M items to translate.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from genrec.config import ModelSettings
from genrec.models.contracts import PAD_ITEM, Batch, DecoderCache, Memory, Outputs
from genrec.models.folded import FoldedCache
from genrec.models.tiger import Tiger, TigerCache
from genrec.tokenizer.joint import members_of
from genrec.tokenizer.sid_table import PAD_TOKEN, SidTable

PROMPT = "prompt"
"""Kind of the memory that a soft prompt is."""

Kind = Literal["next", "cross", "fused", "translate"]


@dataclass(frozen=True)
class LanguageTask:
    """One task of the mix.

    Attributes:
        kind: as the settings weight it.
        sources: places of the tables that the history is read in.
        target: place of the table that is written.
    """

    kind: Kind
    sources: tuple[int, ...]
    target: int


def tasks_of(n_tables: int) -> tuple[LanguageTask, ...]:
    """Every task over so many tables. The first ``n_tables`` are the next item within each table, in their order."""
    tables = range(n_tables)
    pairs = [(source, target) for source in tables for target in tables if source != target]
    tasks = [LanguageTask("next", (table,), table) for table in tables]
    tasks += [LanguageTask("cross", (source,), target) for source, target in pairs]
    if n_tables > 1:
        tasks += [LanguageTask("fused", tuple(tables), target) for target in tables]
    return (*tasks, *(LanguageTask("translate", (source,), target) for source, target in pairs))


class Mql4Grec(Tiger):
    """The MQL4GRec host; implements Backbone by its first table, and :class:`~genrec.models.contracts.MultiTable`."""

    def __init__(self, settings: ModelSettings, sid_table: SidTable) -> None:
        super().__init__(settings, sid_table)
        for place, table in enumerate(members_of(sid_table)[1:], start=1):
            pad_1L = torch.full((1, table.n_levels), PAD_TOKEN, dtype=torch.int64)
            tokens = torch.cat([torch.from_numpy(table.tokens_NL), pad_1L])
            self.register_buffer(f"item_tokens_{place}", tokens, persistent=False)
        self.tasks = tasks_of(len(members_of(sid_table)))
        self.prompts = nn.Embedding(len(self.tasks) * settings.tasks.prompt_length, settings.d_model)

    @property
    def ensemble(self) -> str:
        """How the tables' lists become one (genrec/decoding/ensemble.py)."""
        return self.settings.tasks.ensemble

    @property
    def side_weight(self) -> float:
        """Weight of the further task's loss."""
        return self.settings.tasks.weight

    @property
    def longest(self) -> int:
        """Most levels of a table."""
        return max(table.n_levels for table in members_of(self.sid_table))

    def members(self) -> tuple[Member, ...]:
        """A backbone for each table, all of them this network."""
        return tuple(Member(self, place) for place in range(len(members_of(self.sid_table))))

    def decode(self, inputs: Tensor, memories: Sequence[Memory], visible_BP: Tensor | None = None) -> Tensor:
        """Logits [B, P, S, V]; under the prompt of the first table's next item, unless the memories hold another."""
        return super().decode(inputs, self._prompted(memories), visible_BP)

    def start(self, memories: Sequence[Memory]) -> TigerCache | FoldedCache:
        """Prepare step-by-step decoding, under the prompt that ``decode`` would use."""
        return super().start(self._prompted(memories))

    def prompt(self, task: LanguageTask, batch_size: int) -> Memory:
        """The soft prompt of a task as a memory that every target sees."""
        length, device = self.settings.tasks.prompt_length, self._embedding.weight.device
        begin = self.tasks.index(task) * length
        states_QD = self.prompts(torch.arange(begin, begin + length, device=device))
        mask = torch.ones(batch_size, length, dtype=torch.bool, device=device)
        return Memory(states_QD.expand(batch_size, -1, -1), mask, PROMPT)

    def encode_in(self, batch: Batch, place: int) -> Memory:
        """The history as a memory, read in the table at ``place``."""
        return self.encode_items(batch.history_BT, self._item_tokens(place))

    def outputs_of(self, batch: Batch, task: LanguageTask) -> Outputs:
        """Teacher-forced logits of the batch's targets in a task."""
        assert batch.targets_BP is not None
        memories = [self.encode_in(batch, place) for place in task.sources]
        memories += [*batch.neighbours, self.prompt(task, batch.size)]
        labels = self._item_tokens(task.target)[batch.targets_BP]
        inputs = functional.pad(labels[..., :-1], (1, 0), value=PAD_TOKEN)
        return Outputs(self.decode(inputs, memories, batch.visible_BP), labels, memories)

    def side_task(self, batch: Batch) -> tuple[Outputs, Batch] | None:
        """One further task by its weight: its outputs, and the batch that they are of; None: none has a weight."""
        weights = self._side_weights()
        if self.side_weight == 0 or not any(weights):
            return None
        task = self.tasks[1 + int(torch.multinomial(torch.tensor(weights), 1))]
        own = self._to_translate(batch) if task.kind == "translate" else batch
        return self.outputs_of(own, task), own

    def _item_tokens(self, place: int) -> Tensor:
        """Token ids [N + 1, L] of all items in the table at ``place``; the last row is padding's."""
        tokens: Tensor = getattr(self, f"item_tokens_{place}" if place else "item_tokens")
        return tokens

    def _side_weights(self) -> list[float]:
        """Weights of all tasks but the first; those of a kind share the kind's."""
        kinds = [task.kind for task in self.tasks[1:]]
        return [getattr(self.settings.tasks, kind) / kinds.count(kind) for kind in kinds]

    def _to_translate(self, batch: Batch) -> Batch:
        """As many items of the whole catalog as the batch has targets, each its own history and target."""
        assert batch.targets_BP is not None
        count = max(int((batch.targets_BP != PAD_ITEM).sum()), 1)
        items_M1 = torch.randint(self.sid_table.n_items, (count, 1)).to(batch.history_BT.device)
        return Batch(items_M1, items_M1)

    def _prompted(self, memories: Sequence[Memory]) -> list[Memory]:
        if any(memory.kind == PROMPT for memory in memories):
            return list(memories)
        return [*memories, self.prompt(self.tasks[0], memories[0].mask_BT.shape[0])]


class Member:
    """One table of a host as a backbone: the same network, under the prompt of the next item in that table.

    Args:
        host: the network.
        place: of the table.
    """

    def __init__(self, host: Mql4Grec, place: int) -> None:
        self.host, self.place = host, place
        self.task = host.tasks[place]

    @property
    def sid_table(self) -> SidTable:
        """The table, its tokens those of the joint vocabulary."""
        return members_of(self.host.sid_table)[self.place]

    @property
    def d_model(self) -> int:
        """D, width of memories and embeddings."""
        return self.host.d_model

    @property
    def token_embedding(self) -> nn.Embedding:
        """Code embeddings [V, D] of all tables."""
        return self.host.token_embedding

    def encode(self, batch: Batch) -> Memory:
        """The history as a memory of this table's codes."""
        return self.host.encode_in(batch, self.place)

    def decode(self, inputs: Tensor, memories: Sequence[Memory], visible_BP: Tensor | None = None) -> Tensor:
        """Logits [B, P, S, V]; see :meth:`genrec.models.contracts.Backbone.decode`."""
        return self.host.decode(inputs, self._own(memories), visible_BP)

    def start(self, memories: Sequence[Memory]) -> DecoderCache:
        """Prepare step-by-step decoding."""
        return self.host.start(self._own(memories))

    def step(self, tokens_BK: Tensor, cache: DecoderCache) -> Tensor:
        """Logits [B, K, V] after one further token per beam."""
        return self.host.step(tokens_BK, cache)

    def _own(self, memories: Sequence[Memory]) -> list[Memory]:
        return [*memories, self.host.prompt(self.task, memories[0].mask_BT.shape[0])]
