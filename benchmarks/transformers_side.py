"""The other side of the model's benchmarks: transformers' T5 with our shape, and its constrained beam search."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from transformers import T5Config, T5ForConditionalGeneration

from genrec.config import ModelSettings
from genrec.models import PAD_ITEM, Tiger
from genrec.models.t5_weights import from_t5
from genrec.tokenizer.sid_table import PAD_TOKEN, SidTable


def t5_of(settings: ModelSettings, vocab_size: int) -> T5ForConditionalGeneration:
    """A fresh T5 of the settings' shape."""
    config = T5Config(
        vocab_size=vocab_size,
        d_model=settings.d_model,
        d_kv=settings.d_head,
        d_ff=settings.d_ff,
        num_layers=settings.encoder_layers,
        num_decoder_layers=settings.decoder_layers,
        num_heads=settings.heads,
        relative_attention_num_buckets=settings.relative_buckets,
        relative_attention_max_distance=settings.relative_max_distance,
        dropout_rate=settings.dropout,
        feed_forward_proj="relu",
        tie_word_embeddings=settings.tie_embeddings,
        decoder_start_token_id=PAD_TOKEN,
        pad_token_id=PAD_TOKEN,
        eos_token_id=None,
    )
    return T5ForConditionalGeneration(config)


def pair(settings: ModelSettings, table: SidTable, seed: int = 0) -> tuple[Tiger, T5ForConditionalGeneration]:
    """Our host and T5 with the same weights."""
    torch.manual_seed(seed)
    theirs = t5_of(settings, table.vocab_size)
    ours = Tiger(settings, table)
    ours.load_state_dict(from_t5(theirs.state_dict(), ours))
    return ours, theirs


def allowed_tokens(table: SidTable) -> Callable[[int, Tensor], list[int]]:
    """A ``prefix_allowed_tokens_fn`` over the catalog: one dictionary look-up a beam, as fast as it gets."""
    children: dict[tuple[int, ...], set[int]] = defaultdict(set)
    for row in table.tokens_NL.tolist():
        for level, token in enumerate(row):
            children[tuple(row[:level])].add(token)
    allowed = {prefix: sorted(tokens) for prefix, tokens in children.items()}

    def look_up(_row: int, tokens: Tensor) -> list[int]:
        # A beam that never came to life holds no prefix of the catalog; any token will do for it.
        return allowed.get(tuple(tokens[1:].tolist()), [PAD_TOKEN])

    return look_up


def constrained_lists(
    model: T5ForConditionalGeneration,
    table: SidTable,
    history_tokens: Tensor,
    beams: int,
    allowed: Callable[[int, Tensor], list[int]],
) -> tuple[Tensor, Tensor]:
    """Items [B, K = beams] and scores of transformers' beam search under the trie; -1 where it found none."""
    with torch.no_grad():
        found = model.generate(
            input_ids=history_tokens,
            attention_mask=(history_tokens != PAD_TOKEN).long(),
            num_beams=beams,
            num_return_sequences=beams,
            max_new_tokens=table.n_levels,
            min_new_tokens=table.n_levels,
            prefix_allowed_tokens_fn=allowed,
            renormalize_logits=True,
            length_penalty=0.0,
            do_sample=False,
            return_dict_in_generate=True,
            output_scores=True,
        )
    codes = found.sequences[:, 1 : 1 + table.n_levels]
    items = items_of(table, codes.numpy())
    rows = history_tokens.shape[0]
    return torch.from_numpy(items).view(rows, beams), found.sequences_scores.view(rows, beams)


def items_of(table: SidTable, tokens_XL: np.ndarray) -> np.ndarray:
    """Item indices of rows of tokens, PAD_ITEM for what is no item."""
    index = {tuple(row): item for item, row in enumerate(table.tokens_NL.tolist())}
    return np.asarray([index.get(tuple(row), PAD_ITEM) for row in tokens_XL.tolist()])


def same_lists(
    ours: tuple[Tensor, Tensor], theirs: tuple[Tensor, Tensor], tolerance: float = 1e-4
) -> tuple[bool, float]:
    """Are two rankings [B, K] (items, scores) the same, and what share of each list do they have in common?

    Items may change places, or fall off the end, only where scores differ by less than ``tolerance``.
    """
    shared = []
    same = bool((ours[1] - theirs[1]).abs().max() < tolerance)
    for mine, my_scores, other in zip(ours[0].tolist(), ours[1].tolist(), theirs[0].tolist(), strict=True):
        shared.append(len(set(mine) & set(other)) / len(mine))
        last = my_scores[-1]
        for place, (left, right) in enumerate(zip(mine, other, strict=True)):
            if left == right:
                continue
            there = my_scores[mine.index(right)] if right in mine else last
            same &= abs(my_scores[place] - there) < tolerance
    return same, float(np.mean(shared))
