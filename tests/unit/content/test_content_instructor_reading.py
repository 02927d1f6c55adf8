"""The instructor's reader: adapters beside a frozen MiniLM, merged for reading, trained together with the heads."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import genrec.content
from genrec.content.instructor.adapters import PLACES, Adapters
from genrec.content.instructor.catalog_view import CatalogView, load_aliases
from genrec.content.instructor.catalogs import movies
from genrec.content.instructor.generate import InstructionMaker
from genrec.content.instructor.heads import CONFIG, FACTS, WEIGHTS, Heads, HeadsConfig, ReaderHeads
from genrec.content.instructor.plan import TrainingPlan
from genrec.content.instructor.reading import MAX_TOKENS, MIDDLE_LAYER, TURNS_READ, Reader
from genrec.content.instructor.train_reader import fit_reader, labelled
from genrec.content.instructor.understanding import HeadsInput, run_heads
from genrec.encoders.minilm import MiniLMEncoder
from genrec.errors import ArtifactError

SAID = ("paint a fox", "the second one in blue, please")


@pytest.fixture(scope="module")
def encoder() -> MiniLMEncoder:
    return MiniLMEncoder()


def _adapters(*, trained: bool) -> Adapters:
    torch.manual_seed(1)
    adapters = Adapters(6, 384, 4).eval()
    if trained:
        for name, weight in adapters.named_parameters():
            if name.endswith("up_OR"):
                torch.nn.init.normal_(weight, std=0.02)
    return adapters


def test_untrained_adapters_read_as_the_encoder_does(encoder):
    reader = Reader(encoder, _adapters(trained=False))
    tokenizer, model, _ = encoder.loaded
    batch = tokenizer([SAID[1]], return_tensors="pt")
    with torch.inference_mode():
        read = reader.read([reader.tokens([SAID[1]])])
        hidden = model(**batch, output_hidden_states=True).hidden_states
    own = torch.cat([hidden[MIDDLE_LAYER], hidden[-1]], dim=-1)[0, 1:-1]
    assert torch.allclose(read.states_BTD[0], own, atol=1e-5)
    assert np.allclose(read.sentence_BE[0].numpy(), encoder.encode([SAID[1]])[0], atol=1e-5)


def test_adapters_merged_into_the_weights_read_as_adapters_beside_them(encoder):
    before = encoder.encode(SAID)
    adapters = _adapters(trained=True)
    merged, beside = Reader(encoder, adapters), Reader(encoder, adapters, training=True)
    beside.model.eval()
    with torch.inference_mode():
        parts = [merged.tokens(SAID), merged.tokens(SAID[:1])]
        one, other, plain = (
            reader.read(parts).states_BTD for reader in (merged, beside, Reader(encoder, _adapters(trained=False)))
        )
    assert torch.allclose(one, other, atol=1e-4)
    assert not torch.allclose(one, plain, atol=1e-1)
    assert np.array_equal(encoder.encode(SAID), before)  # titles and wishes are embedded as ever


def test_turns_and_text_are_one_sequence_and_padding_changes_nothing(encoder):
    reader = Reader(encoder, _adapters(trained=True))
    turn, text = reader.tokens(SAID)
    with torch.inference_mode():
        both = reader.read([(turn, text), (text,)])
        alone = reader.read([(text,)])
    length = len(turn.ids) + len(text.ids)
    assert both.states_BTD.shape == (2, length, 768)
    assert both.mask_BT.sum(1).tolist() == [length, len(text.ids)]
    assert both.turn_BT[0].tolist() == [1] * len(turn.ids) + [0] * len(text.ids)
    assert torch.allclose(both.states_BTD[1, : len(text.ids)], alone.states_BTD[0], atol=1e-4)
    assert torch.allclose(both.sentence_BE.norm(dim=-1), torch.ones(2))
    read_after_turn = both.states_BTD[0, len(turn.ids) :]
    assert not torch.allclose(read_after_turn, alone.states_BTD[0], atol=1e-1)
    assert [SAID[1][begin:end] for begin, end in text.offsets][:3] == ["the", "second", "one"]


def test_the_longest_text_and_turns_fit_into_the_model(encoder):
    reader = Reader(encoder, _adapters(trained=False))
    parts = reader.tokens(["a b " * 500] * (TURNS_READ + 1))
    with torch.inference_mode():
        assert reader.read([parts]).states_BTD.shape[1] == 3 * MAX_TOKENS


def test_a_text_without_tokens_is_read(encoder):
    reader = Reader(encoder, _adapters(trained=False))
    with torch.inference_mode():
        read = reader.read([reader.tokens(["\u202e"])])
    assert read.states_BTD.shape == (1, 1, 768)
    assert not read.mask_BT.any()
    assert read.sentence_BE.isfinite().all()


def test_training_moves_adapters_and_instruction_heads_alone(encoder):
    items = movies()
    nothing = np.zeros((len(items.titles), 2), np.float32)
    view = CatalogView(items.titles, items.texts, nothing, nothing, load_aliases())
    torch.manual_seed(0)
    heads = ReaderHeads(HeadsConfig(rank=2))
    frozen = {name: weight.clone() for name, weight in encoder.loaded.model.state_dict().items()}
    before = {name: weight.clone() for name, weight in heads.state_dict().items()}
    examples = labelled(InstructionMaker(view, 8).draw(60), Reader(encoder, heads.adapters), seed=0)
    plan = TrainingPlan(epochs=1, batch=16, learning_rate=1e-3, adapter_rate=1e-3)
    measured = fit_reader(heads, examples, plan, 0, encoder)
    assert 0 <= measured["intent_accuracy"] <= 1
    assert measured["instructions"] == sum(each.held_out for each in examples) > 0
    others = labelled(InstructionMaker(view, 8).draw(60), Reader(encoder, heads.adapters), seed=1)
    assert [each.held_out for each in others] != [each.held_out for each in examples]
    after = heads.state_dict()
    moved = {name.split(".")[0] for name in after if not torch.equal(after[name], before[name])}
    assert moved == {"adapters", "instruction"}
    assert sum("up_OR" in name and bool(after[name].any()) for name in after) == 6 * len(PLACES)
    assert all(torch.equal(weight, frozen[name]) for name, weight in encoder.loaded.model.state_dict().items())
    assert not encoder.loaded.model.training


def test_heads_are_stored_in_bytes_and_read_back_nearly_as_they_were(encoder, tmp_path):
    torch.manual_seed(2)
    heads = Heads(HeadsConfig(readers=2, rank=4)).eval()
    for each in heads.read_by():
        each.adapters.load_state_dict(_adapters(trained=True).state_dict())
    heads.save(tmp_path)
    assert (tmp_path / WEIGHTS).stat().st_size < 1.2 * sum(weight.numel() for weight in heads.state_dict().values())
    again = Heads.load(tmp_path)
    assert {weight.dtype for weight in again.state_dict().values()} == {torch.float32}
    said = []
    for each in (*heads.read_by(), *again.read_by()):
        reader = Reader(encoder, each.adapters)
        given = HeadsInput(tuple(reader.tokens(SAID)), np.zeros(len(FACTS), np.float32))
        with torch.inference_mode():
            said.append(run_heads(each.instruction, reader, [given]))
    for before, after in zip(said[:2], said[2:], strict=True):
        assert torch.allclose(before.intents_BI, after.intents_BI, atol=5e-2)
        assert torch.allclose(before.tags_BTG, after.tags_BTG, atol=5e-2)
    kept = {name: weight.clone() for name, weight in heads.rounded().state_dict().items()}
    assert all(torch.equal(weight, kept[name]) for name, weight in again.state_dict().items())
    told = json.loads((tmp_path / CONFIG).read_text(encoding="utf-8"))
    told["heads"]["rank"] = 8
    (tmp_path / CONFIG).write_text(json.dumps(told), encoding="utf-8")
    with pytest.raises(ArtifactError, match="does not fit"):
        Heads.load(tmp_path)


def test_all_shipped_weights_are_25_megabytes_at_most():
    weights = Path(genrec.content.__file__).parent / "weights"
    assert sum(path.stat().st_size for path in weights.rglob("*") if path.is_file()) <= 25_000_000
