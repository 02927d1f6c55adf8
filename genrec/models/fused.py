"""Dropout, norm and attention for training on a CPU, with few passes over memory.

What a step of the paper's host spends outside matrix products is mostly the drawing of dropout masks (torch draws
one Bernoulli number at a time) and passes over large intermediates. Here four masks share one 64-bit random
number, ReLU and dropout share one saved tensor, a residual sum takes its dropout along, and attention
writes the gradients of queries, keys and values into one tensor. docs/benchmarks.md has the measurement.

On a GPU, and where no gradient is asked for, torch's own kernels are used. The distribution is that of
``torch.nn.functional.dropout``, with the drop probability rounded to a multiple of 2^-16.

Shape letters: B batch, H heads, Q query positions, T key positions, d width of a head.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.nn import functional


def keep_mask(like: Tensor, dropout: float) -> Tensor:
    """Float, shape of ``like``: 1 with probability 1 - ``dropout``, else 0."""
    n = like.numel()
    words = torch.empty(-(-n // 4), dtype=torch.int64).random_(-(2**63), None)
    bits = words.view(torch.int16)[:n].view(like.shape)
    return torch.ge(bits, round(dropout * 2**16) - 2**15, out=torch.empty(like.shape, dtype=like.dtype))


def _by_hand(states: Tensor) -> bool:
    return states.device.type == "cpu" and torch.is_grad_enabled()


def sharded(weight: Tensor) -> bool:
    """Does DeepSpeed ZeRO-3 own this parameter?

    Then it is whole only while its own module computes, and nothing else may reach for it.
    """
    return hasattr(weight, "ds_id")


def dropout(states: Tensor, probability: float, training: bool) -> Tensor:
    """Dropout of states of any shape."""
    if not training or probability == 0.0:
        return states
    if not _by_hand(states):
        return functional.dropout(states, probability)
    return states * keep_mask(states, probability).mul_(1 / (1 - probability))


def add_dropped(states: Tensor, branch: Tensor, probability: float, training: bool) -> Tensor:
    """``states`` + dropout(``branch``), the sum that closes a residual branch."""
    if not training or probability == 0.0:
        return states + branch
    if not _by_hand(states):
        return states + functional.dropout(branch, probability)
    mask = keep_mask(states, probability).mul_(1 / (1 - probability))
    return torch.addcmul(states, branch.to(states.dtype), mask)


def relu_dropout(states: Tensor, probability: float, training: bool) -> Tensor:
    """dropout(ReLU(states)); may overwrite ``states``, which therefore must be nobody else's and no leaf."""
    if not training or probability == 0.0:
        return functional.relu(states)
    if not _by_hand(states):
        return functional.dropout(functional.relu(states), probability)
    return _ReluDropout.apply(states, probability)  # type: ignore[no-untyped-call]


class _ReluDropout(Function):
    """A zero of the result means inactive or dropped, and both have no gradient: the result is all there is to save.

    It works in place, a piece that fits the cache at a time, on what the linear layer before it no longer needs.
    """

    @staticmethod
    def forward(ctx: Any, states: Tensor, probability: float) -> Tensor:
        ctx.mark_dirty(states)
        ctx.scale = 1 / (1 - probability)
        for piece in _pieces(states):
            piece.clamp_min_(0).mul_(keep_mask(piece, probability).mul_(ctx.scale))
        ctx.save_for_backward(states)
        return states

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (result,) = ctx.saved_tensors
        found = torch.empty_like(result)
        for into, piece, above in zip(_pieces(found), _pieces(gradient.contiguous()), _pieces(result), strict=True):
            torch.ops.aten.threshold_backward(piece, above, 0, grad_input=into)
            into.mul_(ctx.scale)
        return found, None


def _pieces(states: Tensor) -> tuple[Tensor, ...]:
    """Pieces of about 2^18 numbers."""
    return torch.split(states.view(-1), 2**18)


def rms_norm(states: Tensor, weight: Tensor, eps: float) -> Tensor:
    """T5's layer norm over the last dimension."""
    if not _by_hand(states) or sharded(weight):
        return functional.rms_norm(states, weight.shape, weight, eps)
    return _RMSNorm.apply(states, weight, eps)  # type: ignore[no-untyped-call]


class _RMSNorm(Function):
    @staticmethod
    def forward(ctx: Any, states: Tensor, weight: Tensor, eps: float) -> Tensor:
        norm = torch.linalg.vector_norm(states, dim=-1, keepdim=True)
        inverse = norm.square_().mul_(1 / states.shape[-1]).add_(eps).rsqrt_()
        normed = states * inverse
        ctx.save_for_backward(normed, inverse, weight)
        return normed * weight

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        normed, inverse, weight = ctx.saved_tensors
        product = gradient * normed
        for_weight = product.flatten(0, -2).sum(0)
        along = torch.mv(product.flatten(0, -2), weight).view(inverse.shape).mul_(-1 / weight.shape[0])
        return (gradient * weight).addcmul_(normed, along).mul_(inverse), for_weight, None


def self_attention(qkv: Tensor, bias: Tensor, heads: int, probability: float) -> Tensor:
    """[B, T, H * d] from queries, keys and values [B, T, 3 * H * d]; see :func:`attention`."""
    B, T, width = qkv.shape
    parts = qkv.view(B, T, 3, heads, width // (3 * heads)).permute(2, 0, 3, 1, 4)
    if _by_hand(qkv):
        return merged(_SelfAttention.apply(parts.contiguous(), bias, probability))  # type: ignore[no-untyped-call]
    query, key, value = parts
    return merged(attention(query, key, value, bias, probability))


def attention(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, probability: float) -> Tensor:
    """softmax(q k^T + bias) v, with dropout of the weights and without scaling.

    Args:
        query: [B, H, Q, d].
        key: [B, H, T, d].
        value: [B, H, T, d].
        bias: additive, broadcastable to [B, H, Q, T]; None: nothing to add.
        probability: of dropping a weight.
    """
    if probability > 0.0 and _by_hand(query):
        scores = torch.matmul(query, key.transpose(-1, -2))
        weights = (scores if bias is None else scores + bias).softmax(-1)
        return torch.matmul(dropout(weights, probability, True), value)
    if bias is not None and bias.dtype != query.dtype:
        bias = bias.to(query.dtype)
    return functional.scaled_dot_product_attention(query, key, value, attn_mask=bias, dropout_p=probability, scale=1.0)


def attention_over_states(
    query: Tensor, states: Tensor, key_weight: Tensor, value_weight: Tensor, bias: Tensor | None, probability: float
) -> Tensor:
    """Attention whose keys and values are linear in ``states``, without computing them.

    (W_q x) . (W_k m) = (W_k^T W_q x) . m, and a mean of W_v m is W_v of the mean of m. With few queries a history it
    is cheaper to take the queries to the states, and the results back, than all states to keys and values.

    Args:
        query: [B, H, Q, d].
        states: [B, T, D].
        key_weight: [H, d, D].
        value_weight: [H, d, D].
        bias: additive, broadcastable to [B, H, Q, T]; None: nothing to add.
        probability: of dropping a weight.

    Returns:
        [B, H, Q, d], as :func:`attention` would.
    """
    B, H, Q, d = query.shape
    D = states.shape[-1]
    probe = torch.bmm(query.transpose(0, 1).reshape(H, B * Q, d), key_weight)
    probe = probe.view(H, B, Q, D).transpose(0, 1).reshape(B, H * Q, D)
    scores = torch.bmm(probe, states.transpose(1, 2)).view(B, H, Q, -1)
    weights = (scores if bias is None else scores + bias).softmax(-1)
    mean = torch.bmm(dropout(weights, probability, probability > 0.0).flatten(1, 2), states)
    mean = mean.view(B, H, Q, D).transpose(0, 1).reshape(H, B * Q, D)
    return torch.bmm(mean, value_weight.transpose(1, 2)).view(H, B, Q, d).transpose(0, 1)


def merged(states: Tensor) -> Tensor:
    """[B, H, T, d] -> [B, T, H * d]."""
    return states.transpose(1, 2).flatten(2)


class _SelfAttention(Function):
    @staticmethod
    def forward(ctx: Any, qkv: Tensor, bias: Tensor, probability: float) -> Tensor:
        _, B, H, T, d = qkv.shape
        query, key, value = qkv.flatten(1, 2)
        scores = torch.bmm(query, key.transpose(1, 2)).view(B, H, T, T).add_(bias)
        weights = torch._softmax(scores, -1, False)
        mask, mixing = None, weights
        if probability > 0.0:
            mask = keep_mask(weights, probability).mul_(1 / (1 - probability))
            mixing = weights * mask
        ctx.save_for_backward(qkv, weights, mask, mixing)
        ctx.bias_shape = bias.shape
        return torch.bmm(mixing.flatten(0, 1), value).view(B, H, T, d)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor | None, None]:
        qkv, weights, mask, mixing = ctx.saved_tensors
        _, B, H, T, d = qkv.shape
        query, key, value = qkv.flatten(1, 2)
        for_mixed = gradient.reshape(B * H, T, d)
        for_qkv = torch.empty_like(qkv)
        for_query, for_key, for_value = for_qkv.flatten(1, 2)
        torch.bmm(mixing.flatten(0, 1).transpose(1, 2), for_mixed, out=for_value)
        for_weights = torch.bmm(for_mixed, value.transpose(1, 2)).view(B, H, T, T)
        if mask is not None:
            for_weights.mul_(mask)
        for_scores = torch._softmax_backward_data(for_weights, weights, -1, weights.dtype)
        flat = for_scores.flatten(0, 1)
        torch.bmm(flat, key, out=for_query)
        torch.bmm(flat.transpose(1, 2), query, out=for_key)
        for_bias = for_scores.sum_to_size(ctx.bias_shape) if ctx.needs_input_grad[1] else None
        return for_qkv, for_bias, None
