"""The trained heads over MiniLM's token states: what is wanted, how to edit, which words fill which slot.

MiniLM reads with low-rank adapters (genrec.content.instructor.adapters) that learn together with the heads: several
readers, each with its own, whose answers are averaged. A small network takes the token states of the instruction and of
the turns before it (a flag tells them apart): a projection and two residual convolutions give a state per token, from
which

* a tagger names the slot of each token (begin/inside/outside),
* attention pooling, the sentence embedding and facts of the situation (is a list shown? does "the second one" resolve?)
  give the intent (seek, change, make, vague), the operation of an edit, and whether the turns before still hold.

A second, tiny network turns the signs of a catalog search into the probability that the catalog satisfies the wish.

Shape letters: B texts, T tokens, D = 2E width of the token states, H width inside, G tags, C context facts, F signs.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from genrec.content.instructor.adapters import Adapters
from genrec.content.instructor.catalog_view import SIGNS
from genrec.content.instructor.storage import packed, unpacked
from genrec.errors import ArtifactError

INTENTS = ("seek", "change", "make", "vague")
OPERATIONS = ("restyle", "recolour", "crop", "add", "remove", "replace", "adjust", "rewrite", "animate")
NO_OPERATION = len(OPERATIONS)
"""What the operation head says of a text that describes no change."""
SPANS = ("target", "style", "medium", "constraint", "negative")
TAGS = ("O", *(f"{place}-{span}" for span in SPANS for place in "BI"))
FACTS = (
    "list_shown",
    "one_shown",
    "picture",
    "turns",
    "points_by_place",
    "points_by_title",
    "points_by_this",
    "pointed_item_known",
    "points_beyond",
    "earlier_item_known",
    "says_making",
    "says_seeking",
    "says_changing",
    "says_style",
    "says_kind",
    "says_year",
    "recalls",
    "names_title",
    "asks",
    "content_words",
    "no_content",
)
"""What is known of the situation beside the words."""
WEIGHTS, CONFIG = "heads.safetensors", "config.json"


@dataclass(frozen=True)
class HeadsConfig:
    """Sizes and calibration of the heads.

    Attributes:
        states: D, width of the token states.
        sentence: E, width of the sentence embedding.
        layers: of the transformer.
        rank: of the adapters.
        width: H.
        readers: each with adapters and heads of its own, trained on its own draw, whose answers are averaged.
        judges: heads of sufficiency, trained from different beginnings, whose logits are averaged.
        signs: names of the signs of sufficiency, in order.
        temperature: divides the intent's logits.
        sufficiency_scale: multiplies the logit of sufficiency.
        sufficiency_shift: is added to it then.
        evidence: what sufficiency says of the intent (genrec.content.instructor.weighing.informed).
        encoder: identity of the MiniLM that the heads were trained on.
    """

    states: int = 768
    sentence: int = 384
    layers: int = 6
    rank: int = 16
    width: int = 96
    readers: int = 3
    judges: int = 6
    signs: tuple[str, ...] = SIGNS
    temperature: float = 1.0
    sufficiency_scale: float = 1.0
    sufficiency_shift: float = 0.0
    evidence: float = 0.0
    encoder: str = ""


@dataclass(frozen=True)
class HeadsOutput:
    """Logits of a batch.

    Attributes:
        intents_BI: over INTENTS.
        operations_BO: over OPERATIONS, and none.
        continues_B: that the turns before still hold.
        tags_BTG: over TAGS.
    """

    intents_BI: Tensor
    operations_BO: Tensor
    continues_B: Tensor
    tags_BTG: Tensor


class _Mix(nn.Module):
    """A residual convolution over the tokens."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.convolution = nn.Conv1d(width, width, 5, padding=2)
        self.dropout = nn.Dropout(dropout)

    def forward(self, states_BTH: Tensor, mask_BT1: Tensor) -> Tensor:
        mixed = self.convolution((self.norm(states_BTH) * mask_BT1).transpose(1, 2)).transpose(1, 2)
        return states_BTH + self.dropout(torch.nn.functional.gelu(mixed))


class InstructionHeads(nn.Module):
    """Intent, operation, continuation and tags of instructions; see the module."""

    def __init__(self, config: HeadsConfig, dropout: float = 0.3) -> None:
        super().__init__()
        width = config.width
        self.dropout = nn.Dropout(dropout)
        self.project = nn.Linear(config.states, width)
        self.turn = nn.Embedding(2, width)
        self.mixes = nn.ModuleList([_Mix(width, dropout), _Mix(width, dropout)])
        self.tags = nn.Linear(width, len(TAGS))
        self.attention = nn.Linear(width, 2)
        self.sentence = nn.Linear(config.sentence, width)
        self.facts = nn.Linear(len(FACTS), width // 2)
        pooled = 2 * width + width + width // 2
        self.intents = nn.Sequential(nn.Linear(pooled, width), nn.GELU(), nn.Dropout(dropout), nn.Linear(width, 4))
        self.operations = nn.Linear(pooled, len(OPERATIONS) + 1)
        self.continues = nn.Linear(pooled, 1)

    def forward(
        self, states_BTD: Tensor, mask_BT: Tensor, turn_BT: Tensor, sentence_BE: Tensor, facts_BC: Tensor
    ) -> HeadsOutput:
        """Read a batch.

        Args:
            states_BTD: token states of turns and text, one after another.
            mask_BT: bool, true where there is a token.
            turn_BT: int64, 1 for tokens of earlier turns.
            sentence_BE: embedding of the text alone.
            facts_BC: in the order of FACTS.
        """
        mask_BT1 = mask_BT.unsqueeze(-1).float()
        states = torch.nn.functional.gelu(self.project(self.dropout(states_BTD))) + self.turn(turn_BT)
        for mix in self.mixes:
            states = mix(states, mask_BT1)
        scores_BT2 = self.attention(states).masked_fill(~mask_BT.unsqueeze(-1), -1e4)
        weights_B2T = scores_BT2.softmax(dim=1).transpose(1, 2)
        pooled_B = (weights_B2T @ states).flatten(1)
        sentence = torch.nn.functional.gelu(self.sentence(self.dropout(sentence_BE * sentence_BE.shape[-1] ** 0.5)))
        facts = torch.nn.functional.gelu(self.facts(facts_BC))
        together = self.dropout(torch.cat([pooled_B, sentence, facts], dim=-1))
        return HeadsOutput(
            self.intents(together), self.operations(together), self.continues(together).squeeze(-1), self.tags(states)
        )


class ReaderHeads(nn.Module):
    """What one reader has learnt: its adapters, and the heads over what it reads with them."""

    def __init__(self, config: HeadsConfig) -> None:
        super().__init__()
        self.adapters = Adapters(config.layers, config.sentence, config.rank)
        self.instruction = InstructionHeads(config)


def averaged(outputs: Sequence[HeadsOutput]) -> HeadsOutput:
    """The mean of the logarithms of the readers' probabilities."""
    return HeadsOutput(
        torch.stack([output.intents_BI.log_softmax(-1) for output in outputs]).mean(0),
        torch.stack([output.operations_BO.log_softmax(-1) for output in outputs]).mean(0),
        torch.stack([output.continues_B for output in outputs]).mean(0),
        torch.stack([output.tags_BTG.log_softmax(-1) for output in outputs]).mean(0),
    )


class SufficiencyHead(nn.Module):
    """Logit that the catalog satisfies a wish, from the signs of its search and from what the wish means.

    The meaning goes through a narrow gate: it tells a plot that people recall from a thing that nobody filmed.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, config: HeadsConfig, width: int = 24, meaning: int = 8, dropout: float = 0.5) -> None:
        super().__init__()
        self.meaning = nn.Sequential(nn.Dropout(dropout), nn.Linear(config.sentence, meaning), nn.Tanh())
        self.register_buffer("mean", torch.zeros(len(config.signs)))
        self.register_buffer("scale", torch.ones(len(config.signs)))
        inputs = len(config.signs) + meaning
        self.layers = nn.Sequential(nn.Linear(inputs, width), nn.Tanh(), nn.Linear(width, 1))

    def forward(self, signs_BF: Tensor, wish_BE: Tensor) -> Tensor:
        """Logits [B], from signs and from embeddings of the wish (length 1)."""
        meaning = self.meaning(wish_BE * wish_BE.shape[-1] ** 0.5)
        logits: Tensor = self.layers(torch.cat([(signs_BF - self.mean) / self.scale, meaning], dim=-1)).squeeze(-1)
        return logits


class SufficiencyCommittee(nn.Module):
    """Heads of sufficiency from different beginnings; their logits are averaged."""

    def __init__(self, config: HeadsConfig) -> None:
        super().__init__()
        self.members = nn.ModuleList([SufficiencyHead(config) for _ in range(config.judges)])

    def forward(self, signs_BF: Tensor, wish_BE: Tensor) -> Tensor:
        """As :meth:`SufficiencyHead.forward`."""
        return torch.stack([member(signs_BF, wish_BE) for member in self.members]).mean(0)


class Heads(nn.Module):
    """What the readers have learnt and the heads of sufficiency, with their calibration."""

    def __init__(self, config: HeadsConfig) -> None:
        super().__init__()
        self.config = config
        self.readers = nn.ModuleList([ReaderHeads(config) for _ in range(config.readers)])
        self.sufficiency = SufficiencyCommittee(config)

    def read_by(self) -> list[ReaderHeads]:
        """What each reader has learnt."""
        return list(self.readers)  # type: ignore[arg-type]

    def rounded(self) -> Heads:
        """These heads with the weights that a file keeps of them (genrec.content.instructor.storage), in place."""
        self.load_state_dict(unpacked(packed(self.state_dict())))
        return self

    def save(self, directory: Path, facts: dict[str, Any] | None = None) -> None:
        """Write weights, as :meth:`rounded` leaves them, and config; ``facts`` are kept beside them for people."""
        directory.mkdir(parents=True, exist_ok=True)
        save_file(packed(self.state_dict()), directory / WEIGHTS)
        config = {**asdict(self.config), "intents": INTENTS, "operations": OPERATIONS, "tags": TAGS, "facts": FACTS}
        text = json.dumps({"heads": config, "training": facts or {}}, indent=1, ensure_ascii=False)
        (directory / CONFIG).write_text(text + "\n", encoding="utf-8")

    @classmethod
    def load(cls, directory: Path) -> Heads:
        """Read what :meth:`save` wrote, in evaluation mode.

        Raises:
            ArtifactError: absent, or made for other intents, tags or signs than this version's.
        """
        try:
            config = json.loads((directory / CONFIG).read_text(encoding="utf-8"))["heads"]
            weights = unpacked(load_file(directory / WEIGHTS))
        except (OSError, ValueError, KeyError) as error:
            raise ArtifactError(
                f"{directory}: no heads of the instructor there ({error}). Train them: "
                "python -m genrec content train instructor"
            ) from error
        own = {"intents": INTENTS, "operations": OPERATIONS, "tags": TAGS, "facts": FACTS, "signs": SIGNS}
        for name, expected in own.items():
            if tuple(config.get(name, ())) != expected:
                raise ArtifactError(f"{directory / CONFIG}: heads.{name} differs from this version's; train again")
        absent = sorted(set(HeadsConfig.__annotations__) - set(config))
        if absent:
            raise ArtifactError(f"{directory / CONFIG}: heads.{absent[0]} is not there; train again")
        fields = {name: config[name] for name in HeadsConfig.__annotations__}
        heads = cls(HeadsConfig(**{**fields, "signs": tuple(config["signs"])}))
        try:
            heads.load_state_dict(weights)
        except RuntimeError as error:
            raise ArtifactError(f"{directory / WEIGHTS}: does not fit {CONFIG}: {error}") from error
        return heads.eval()
