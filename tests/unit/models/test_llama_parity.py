"""The decoder-only host computes what transformers' Llama computes with the same weights."""

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from genrec.config import ModelSettings
from genrec.models import PAD_ITEM, Batch, build_backbone
from genrec.models.decoder_only import DecoderOnly
from genrec.tokenizer.sid_table import PAD_TOKEN, SidTable


def pair(table: SidTable, tie: bool) -> tuple[DecoderOnly, LlamaForCausalLM]:
    torch.manual_seed(11)
    settings = ModelSettings(
        backbone="decoder-only", encoder_attention="causal", d_model=32, d_ff=48, heads=4, d_head=16,
        decoder_layers=3, tie_embeddings=tie,
    )  # fmt: skip
    config = LlamaConfig(
        vocab_size=table.vocab_size, hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=4, head_dim=16, rms_norm_eps=1e-6, tie_word_embeddings=tie, attn_implementation="eager",
        max_position_embeddings=512, rope_theta=10_000.0,
    )  # fmt: skip
    theirs = LlamaForCausalLM(config).eval()
    with torch.no_grad():
        for weight in theirs.parameters():
            weight.copy_(torch.randn_like(weight) * 0.3 + (weight.dim() == 1))
    given = theirs.state_dict()
    state = {"_embedding.weight": given["model.embed_tokens.weight"], "norm.weight": given["model.norm.weight"]}
    if not tie:
        state["head.weight"] = given["lm_head.weight"]
    for index in range(3):
        layer, own = f"model.layers.{index}", f"layers.{index}"
        state[f"{own}.attention_norm.weight"] = given[f"{layer}.input_layernorm.weight"]
        state[f"{own}.qkv.weight"] = torch.cat([given[f"{layer}.self_attn.{name}_proj.weight"] for name in "qkv"])
        state[f"{own}.out.weight"] = given[f"{layer}.self_attn.o_proj.weight"]
        state[f"{own}.feed_norm.weight"] = given[f"{layer}.post_attention_layernorm.weight"]
        state[f"{own}.gate_wide.weight"] = torch.cat([given[f"{layer}.mlp.{n}_proj.weight"] for n in ("gate", "up")])
        state[f"{own}.narrow.weight"] = given[f"{layer}.mlp.down_proj.weight"]
    ours = build_backbone(settings, table).eval()
    ours.load_state_dict(state)
    return ours, theirs


def expected(theirs: LlamaForCausalLM, table: SidTable, items: list[int], target: int) -> torch.Tensor:
    """Llama over one plain sequence: the history's codes, the start token, the target's codes but the last."""
    tokens = torch.from_numpy(table.tokens_NL)
    sequence = torch.cat([tokens[items].flatten(), torch.tensor([PAD_TOKEN]), tokens[target, :-1]])
    return theirs(sequence[None]).logits[0, -table.n_levels :]


@pytest.mark.parametrize("tie", [True, False])
@torch.no_grad()
def test_one_pass_over_a_window_is_llama_over_each_of_its_sequences(table: SidTable, tie: bool):
    ours, theirs = pair(table, tie)
    histories = [[4, 9, 1, 30, 22, 9], [7, 2]]
    padded = torch.tensor([histories[0], histories[1] + [PAD_ITEM] * 4])
    targets, visible = torch.tensor([[5, 6, 7], [8, 5, 1]]), torch.tensor([[1, 4, 6], [2, 1, 0]])
    found = ours(Batch(padded, targets, visible)).logits_BPSV
    for row, items in enumerate(histories):
        for place in range(3):
            seen = items[: visible[row, place]]
            reference = expected(theirs, table, seen, int(targets[row, place]))
            torch.testing.assert_close(found[row, place], reference, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_training_mode_without_dropout_takes_the_same_path(table: SidTable):
    ours, theirs = pair(table, tie=False)
    ours.settings = ours.settings.model_copy(update={"dropout": 0.0})
    for layer in ours.layers:
        layer.dropout = 0.0
    ours.train()
    with torch.enable_grad():
        found = ours(Batch(torch.tensor([[3, 8, 8]]), torch.tensor([[12]]))).logits_BPSV[0, 0]
    torch.testing.assert_close(found, expected(theirs, table, [3, 8, 8], 12), rtol=1e-5, atol=1e-5)
