"""An instruction as the heads read it: token states of two layers of MiniLM with its adapters.

The turns before and the text are read as one sequence, so that "the same in green" knows what came before. The last
layer knows what the sentence means; a middle one still knows the words and their place, which the tagger needs.

Shape letters: B instructions, S tokens of a sequence with its special tokens, T tokens that are tagged, E width of a
layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from genrec.content.instructor.adapters import Adapters
from genrec.encoders.minilm import MiniLMEncoder

MIDDLE_LAYER = 3
TURNS_READ = 2
"""Earlier turns that are read; what lies before them is forgotten."""
MAX_TOKENS = 168
"""Of one text; the text, the turns and their special tokens fit into MiniLM's 512 places."""


@dataclass(frozen=True)
class Tokens:
    """One text in tokens, without special ones.

    Attributes:
        text: as given.
        ids: of the vocabulary.
        offsets: begin and end of each token in the text.
    """

    text: str
    ids: tuple[int, ...]
    offsets: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class States:
    """Instructions, read.

    Attributes:
        states_BTD: middle and last layer [B, T, 2E] of the tokens of turns and text; special tokens left out.
        mask_BT: bool, true where there is a token.
        turn_BT: int64, 1 for tokens of earlier turns.
        sentence_BE: mean of the text's last layer, length 1.
    """

    states_BTD: Tensor
    mask_BT: Tensor
    turn_BT: Tensor
    sentence_BE: Tensor


class Reader:
    """Reads instructions with a copy of the encoder's model that has adapters.

    Args:
        encoder: MiniLM; it stays as it is.
        adapters: trained for it.
        training: the adapters are asked at every step and learn; else they are added to the weights once.
    """

    def __init__(self, encoder: MiniLMEncoder, adapters: Adapters, *, training: bool = False) -> None:
        self.encoder = encoder
        self.adapters = adapters
        self.training = training

    @cached_property
    def model(self) -> Any:
        """The transformer with its adapters, on the encoder's device."""
        model = self.encoder.loaded.model
        return self.adapters.attached(model) if self.training else self.adapters.merged(model)

    def tokens(self, texts: Sequence[str]) -> list[Tokens]:
        """Texts in tokens; what is longer than MAX_TOKENS is cut."""
        tokenizer = self.encoder.loaded.tokenizer
        if not texts:
            return []
        found = tokenizer(
            list(texts),
            add_special_tokens=False,
            truncation=True,
            max_length=MAX_TOKENS,
            return_offsets_mapping=True,
        )
        pairs = zip(texts, found["input_ids"], found["offset_mapping"], strict=True)
        return [Tokens(text, tuple(ids), tuple(map(tuple, offsets))) for text, ids, offsets in pairs]

    def read(self, instructions: Sequence[Sequence[Tokens]]) -> States:
        """Read instructions, each its turns, oldest first, and its text; T is at least 1, for texts without tokens."""
        tokenizer, _, device = self.encoder.loaded
        sequences = [
            [tokenizer.cls_token_id, *(token for part in parts for token in (*part.ids, tokenizer.sep_token_id))]
            for parts in instructions
        ]
        ids_BS = torch.full((len(sequences), max(map(len, sequences))), tokenizer.pad_token_id)
        real_BS = torch.zeros(ids_BS.shape, dtype=torch.int64)
        tagged = max(1, max(sum(len(part.ids) for part in parts) for parts in instructions))
        place_BT = torch.zeros(len(sequences), tagged, dtype=torch.int64)
        turn_BT, mask_BT = torch.zeros_like(place_BT), torch.zeros(place_BT.shape, dtype=torch.bool)
        text_BS = torch.zeros(ids_BS.shape)
        for row, (parts, sequence) in enumerate(zip(instructions, sequences, strict=True)):
            ids_BS[row, : len(sequence)] = torch.tensor(sequence)
            real_BS[row, : len(sequence)] = 1
            begin = 0
            for number, part in enumerate(parts):
                end = begin + len(part.ids)
                place_BT[row, begin:end] = torch.arange(begin, end) + number + 1
                turn_BT[row, begin:end] = int(number < len(parts) - 1)
                begin = end
            mask_BT[row, :begin] = True
            text_BS[row, len(sequence) - len(parts[-1].ids) - 2 : len(sequence)] = 1
        hidden = self.model(
            input_ids=ids_BS.to(device), attention_mask=real_BS.to(device), output_hidden_states=True
        ).hidden_states
        both_BSD = torch.cat([hidden[MIDDLE_LAYER], hidden[-1]], dim=-1).float()
        place_BTD = place_BT.to(device).unsqueeze(-1).expand(-1, -1, both_BSD.shape[-1])
        mask_BT, text_BS1 = mask_BT.to(device), text_BS.to(device).unsqueeze(-1)
        mean_BE = (hidden[-1].float() * text_BS1).sum(1) / text_BS1.sum(1)
        return States(
            both_BSD.gather(1, place_BTD) * mask_BT.unsqueeze(-1),
            mask_BT,
            turn_BT.to(device),
            torch.nn.functional.normalize(mean_BE, dim=-1),
        )
