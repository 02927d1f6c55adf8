"""The same model speaking a longer table: new items come in without a weight being touched or copied.

A host's weights know codes, not items; which codes an item has stands in one buffer beside them.
"""

from __future__ import annotations

import copy

import torch
from torch import nn

from genrec.errors import VersionMismatchError
from genrec.tokenizer.sid_table import PAD_TOKEN, SidTable


def speaking(model: nn.Module, table: SidTable) -> nn.Module:
    """A second model that shares every weight with ``model`` and speaks ``table``.

    Args:
        model: a host, or what is attached to one.
        table: begins with the items of the model's own table, in one vocabulary of the same size.

    Raises:
        VersionMismatchError: the tables' codes are not of one vocabulary.
    """
    old: SidTable = model.sid_table  # type: ignore[assignment]
    if old.level_sizes != table.level_sizes or (old.codes_NL != table.codes_NL[: old.n_items]).any():
        raise VersionMismatchError("the longer table does not begin with the items that the model speaks of")
    other = copy.copy(model)
    other.__dict__["_buffers"] = dict(model._buffers)
    other.__dict__["_modules"] = dict(model._modules)
    if isinstance(model._modules.get("host"), nn.Module):
        other._modules["host"] = speaking(model._modules["host"], table)  # type: ignore[arg-type]
    if "_sid_table" in other.__dict__:
        other.__dict__["_sid_table"] = table
    tokens = model._buffers.get("item_tokens")
    if tokens is not None:
        pad_1L = torch.full((1, table.n_levels), PAD_TOKEN, dtype=torch.int64)
        other._buffers["item_tokens"] = torch.cat([torch.from_numpy(table.tokens_NL), pad_1L]).to(tokens.device)
    return other
