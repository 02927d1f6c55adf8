"""One contract for every host: what plug-ins, losses and decoders rely on, asked through the Protocol only."""

import typing
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from genrec.config import LossTerm, ModelSettings, PluginSettings, SubstitutionSettings
from genrec.decoding import generate, score
from genrec.genplugin.losses import PLUGIN_LOSSES, plugin_terms
from genrec.genplugin.plugin import GenPlugin, host_weights
from genrec.losses import total_loss
from genrec.models import PAD_ITEM, Backbone, Batch, Memory, build_backbone
from genrec.models.registry import HOSTS
from genrec.tokenizer.joint import JointTable
from genrec.tokenizer.sid_table import PAD_TOKEN, SidTable

SHAPE = dict(d_model=32, d_ff=48, heads=2, d_head=16, encoder_layers=2, decoder_layers=2, relative_buckets=8)
CLOSE = dict(rtol=1e-5, atol=1e-5)
Build = Callable[..., torch.nn.Module]


def variants() -> list[tuple[str, str]]:
    """Every host with every way of reading that it has."""
    found = []
    for name in HOSTS:
        for attention in ("bidirectional", "causal"):
            try:
                ModelSettings(backbone=name, encoder_attention=attention)
            except ValidationError:
                continue
            found.append((name, attention))
    return found


@pytest.fixture(params=variants(), ids="-".join)
def settings(request: pytest.FixtureRequest) -> ModelSettings:
    name, attention = request.param
    return ModelSettings(backbone=name, encoder_attention=attention, **SHAPE)


@pytest.fixture
def table(settings: ModelSettings, table: SidTable) -> SidTable:
    """For a host of several tables, a further one of four levels beside it."""
    return several(table) if settings.backbone == "mql4grec" else table


@pytest.fixture
def host(settings: ModelSettings, table: SidTable) -> torch.nn.Module:
    return fresh(settings, table).eval()


def several(table: SidTable) -> JointTable:
    codes = np.stack([np.arange(table.n_items) // 3**level % 3 for level in range(4)], axis=1)
    return JointTable.of(table, [SidTable(codes.astype(np.int32), (3, 3, 3, 3), name="image")])


def fresh(settings: ModelSettings, table: SidTable) -> torch.nn.Module:
    """A host whose weights are large enough for differences to show."""
    torch.manual_seed(7)
    model = build_backbone(settings, table)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() > 1:
                weight.copy_(torch.randn_like(weight) * weight.shape[-1] ** -0.5)
    return model


def histories(table: SidTable) -> torch.Tensor:
    """Three, of five, three and one items."""
    history = torch.randint(table.n_items, (3, 5), generator=torch.Generator().manual_seed(3))
    history[1, 3:] = PAD_ITEM
    history[2, 1:] = PAD_ITEM
    return history


def inputs_of(table: SidTable, items: torch.Tensor) -> torch.Tensor:
    tokens = torch.from_numpy(table.tokens_NL)[items]
    return torch.nn.functional.pad(tokens[..., :-1], (1, 0), value=PAD_TOKEN)


def some_users(n_rows: int, seed: int = 0) -> Memory:
    draw = torch.Generator().manual_seed(seed)
    mask = torch.ones(n_rows, 4, dtype=torch.bool)
    mask[0, 2] = False
    return Memory(torch.randn(n_rows, 4, SHAPE["d_model"], generator=draw), mask, "users")


def test_every_host_of_the_settings_is_registered_and_the_other_way_round():
    assert set(typing.get_args(ModelSettings.model_fields["backbone"].annotation)) == set(HOSTS)


def test_it_is_a_backbone(host: torch.nn.Module, table: SidTable):
    assert isinstance(host, Backbone)
    assert host.sid_table is table
    assert host.d_model == SHAPE["d_model"]
    assert host.token_embedding.weight.shape == (table.vocab_size, host.d_model)


def test_the_history_is_a_memory_of_its_items_codes(host: torch.nn.Module, table: SidTable):
    history = histories(table)
    memory = host.encode(Batch(history))
    n_levels = table.n_levels
    assert memory.states_BTD.shape == (3, 5 * n_levels, host.d_model)
    assert memory.kind == "id"
    assert torch.equal(memory.mask_BT, (history != PAD_ITEM).repeat_interleave(n_levels, dim=1))
    assert torch.equal(memory.item_BT, torch.arange(5).repeat_interleave(n_levels).expand(3, -1))
    assert torch.isfinite(memory.states_BTD[memory.mask_BT]).all()


def test_steps_equal_teacher_forcing_with_beams_that_change_places(host: torch.nn.Module, table: SidTable):
    memories = [some_users(3), host.encode(Batch(histories(table)))]
    inputs = inputs_of(table, torch.randint(table.n_items, (3, 4)))
    expected = host.decode(inputs, memories)
    assert expected.shape == (3, 4, table.n_levels, table.vocab_size)
    cache = host.start(memories)
    torch.testing.assert_close(host.step(inputs[:, :1, 0], cache), expected[:, :1, 0], **CLOSE)
    cache.reorder(torch.zeros(3, 4, dtype=torch.int64))
    torch.testing.assert_close(host.step(inputs[:, :, 1], cache), expected[:, :, 1], **CLOSE)
    parents = torch.tensor([[3, 1, 1], [0, 2, 3], [2, 2, 0]])
    cache.reorder(parents)
    tokens = inputs[:, :, 2].gather(1, parents)
    picked = expected[:, :, 2].gather(1, parents[..., None].expand(-1, -1, table.vocab_size))
    torch.testing.assert_close(host.step(tokens, cache), picked, **CLOSE)


def test_embeddings_may_stand_in_for_tokens(host: torch.nn.Module, table: SidTable):
    memories = [host.encode(Batch(histories(table)))]
    inputs = inputs_of(table, torch.randint(table.n_items, (3, 2)))
    torch.testing.assert_close(host.decode(inputs, memories), host.decode(host.token_embedding(inputs), memories))


def test_a_continuation_knows_neither_the_others_nor_its_own_later_codes(host: torch.nn.Module, table: SidTable):
    memories = [host.encode(Batch(histories(table)))]
    inputs = inputs_of(table, torch.randint(table.n_items, (3, 4)))
    together = host.decode(inputs, memories)
    for place in range(4):
        alone = host.decode(inputs[:, place : place + 1], memories)
        torch.testing.assert_close(together[:, place : place + 1], alone, **CLOSE)
    torch.testing.assert_close(together[:, :, :2], host.decode(inputs[:, :, :2], memories), **CLOSE)
    assert (together[:, 0] - together[:, 1]).abs().max() > 1e-3


def test_padding_changes_nothing(host: torch.nn.Module, table: SidTable):
    history, targets = histories(table), torch.randint(table.n_items, (3, 2))
    padded = torch.cat([history, torch.full((3, 3), PAD_ITEM)], dim=1)
    expected = host(Batch(history, targets)).logits_BPSV
    torch.testing.assert_close(host(Batch(padded, targets)).logits_BPSV, expected, **CLOSE)
    alone = host(Batch(history[2:, :1], targets[2:])).logits_BPSV
    torch.testing.assert_close(alone, expected[2:], **CLOSE)


def test_the_history_and_its_order_count(host: torch.nn.Module, table: SidTable):
    history, targets = torch.tensor([[1, 2, 3], [3, 2, 1], [1, 2, 4]]), torch.full((3, 1), 9)
    logits = host(Batch(history, targets)).logits_BPSV
    assert (logits[0] - logits[1]).abs().max() > 1e-3
    assert (logits[0] - logits[2]).abs().max() > 1e-3


def test_further_memories_count_and_masked_ones_do_not(host: torch.nn.Module, table: SidTable):
    batch = Batch(histories(table), torch.randint(table.n_items, (3, 2)), torch.tensor([[1, 5], [3, 2], [1, 1]]))
    inputs, own = inputs_of(table, batch.targets_BP), host.encode(batch)
    bare, users = host.decode(inputs, [own], batch.visible_BP), some_users(3)
    with_users = host.decode(inputs, [own, users], batch.visible_BP)
    assert ((with_users - bare).abs().amax(dim=(2, 3)) > 1e-3).all(), "every target sees them"
    torch.testing.assert_close(host.decode(inputs, [users, own], batch.visible_BP), with_users, **CLOSE)
    masked = Memory(users.states_BTD, torch.zeros_like(users.mask_BT), "users")
    torch.testing.assert_close(host.decode(inputs, [own, masked], batch.visible_BP), bare, **CLOSE)
    hidden = users.states_BTD.clone()
    hidden[0, 2] = 100.0  # the one that is masked
    other = Memory(hidden, users.mask_BT, "users")
    torch.testing.assert_close(host.decode(inputs, [own, other], batch.visible_BP), with_users, **CLOSE)


def test_a_causal_host_trains_all_prefixes_of_a_window_in_one_pass(settings, host: torch.nn.Module, table: SidTable):
    if settings.encoder_attention != "causal":
        pytest.skip("reads in both directions: prefixes are rows of their own")
    history = histories(table)
    targets = torch.randint(table.n_items, (3, 4))
    visible = torch.tensor([[1, 2, 4, 5], [3, 0, 2, 3], [1, 1, 0, 1]])
    users = some_users(3)
    together = host(Batch(history, targets, visible, neighbours=[users])).logits_BPSV
    for row in range(3):
        near = Memory(users.states_BTD[row : row + 1], users.mask_BT[row : row + 1], "users")
        for place in range(4):
            cut = history[row : row + 1, : visible[row, place]]
            alone = host(Batch(cut, targets[row : row + 1, place : place + 1], neighbours=[near])).logits_BPSV
            torch.testing.assert_close(together[row, place], alone[0, 0], **CLOSE)


def test_a_beam_as_wide_as_the_catalog_is_the_exhaustive_ranking(host: torch.nn.Module, table: SidTable):
    batch = Batch(histories(table), neighbours=[some_users(3)])
    with torch.no_grad():
        scores = score(host, batch, torch.arange(table.n_items).expand(3, -1))
    torch.testing.assert_close(scores.exp().sum(dim=1), torch.ones(3))
    best = scores.sort(dim=1, descending=True)
    ranked = generate(host, batch, table.n_items, beams=table.n_items)
    assert torch.equal(ranked.items_BK, best.indices)
    torch.testing.assert_close(ranked.scores_BK, best.values, **CLOSE)


def test_cold_users_get_lists_and_losses(host: torch.nn.Module, table: SidTable):
    nobody = torch.empty(2, 0, dtype=torch.int64)
    ranked = generate(host, Batch(nobody), 5, beams=5)
    assert (ranked.items_BK != PAD_ITEM).all()
    cold = host(Batch(nobody, torch.tensor([[3], [4]]))).logits_BPSV
    padded = host(Batch(torch.full((2, 4), PAD_ITEM), torch.tensor([[3], [4]]))).logits_BPSV
    torch.testing.assert_close(cold, padded, **CLOSE)


def test_gradients_reach_every_weight(settings: ModelSettings, table: SidTable):
    model = fresh(settings, table).train()
    batch = Batch(histories(table), torch.randint(table.n_items, (3, 2)))
    total_loss(model(batch), batch, [LossTerm(name="next-item")])["loss"].backward()
    for name, weight in model.named_parameters():
        assert weight.grad is not None, name
        assert weight.grad.abs().sum() > 0, name
    spoken = torch.from_numpy(table.tokens_NL)[histories(table)[0]].unique()
    assert (model.token_embedding.weight.grad[spoken].abs().sum(dim=1) > 0).all()


def test_a_few_steps_learn_two_histories_by_heart(settings: ModelSettings, table: SidTable):
    torch.manual_seed(1)
    model = build_backbone(settings.model_copy(update={"dropout": 0.0}), table)
    batch = Batch(torch.tensor([[1, 2, 3], [4, 2, 6]]), torch.tensor([[7], [20]]))
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    for _ in range(60):
        optimizer.zero_grad()
        total_loss(model(batch), batch, [LossTerm(name="next-item")])["loss"].backward()
        optimizer.step()
    assert generate(model, batch, 1, beams=5).items_BK[:, 0].tolist() == [7, 20]


def test_weights_make_the_round_trip_and_hold_no_catalog(settings: ModelSettings, table: SidTable):
    model, batch = fresh(settings, table).eval(), Batch(histories(table), torch.tensor([[1], [2], [3]]))
    assert not any("item_tokens" in name for name in model.state_dict())
    torch.manual_seed(99)
    other = build_backbone(settings, table).eval()
    assert not torch.equal(other(batch).logits_BPSV, model(batch).logits_BPSV)
    other.load_state_dict(model.state_dict())
    assert torch.equal(other(batch).logits_BPSV, model(batch).logits_BPSV)


def plugged(settings: ModelSettings, table: SidTable, mechanisms: PluginSettings) -> GenPlugin:
    embeddings = torch.randn(table.n_items, 12, generator=torch.Generator().manual_seed(1))
    return GenPlugin(fresh(settings, table), settings, mechanisms, embeddings)


ALL_ON = PluginSettings(language=True, substitution=SubstitutionSettings(p1=1.0, p2=1.0, warmup_epochs=0))


def test_the_plugin_with_everything_off_is_the_host_bit_for_bit(settings: ModelSettings, table: SidTable):
    bare, off = fresh(settings, table), plugged(settings, table, PluginSettings())
    batch = Batch(histories(table), torch.tensor([[1, 2], [2, 3], [3, 4]]), neighbours=[some_users(3)])
    logits = []
    for model in (bare, off):
        torch.manual_seed(5)  # dropout is on
        logits.append(model(batch).logits_BPSV)
    assert torch.equal(*logits)
    ours, theirs = (generate(model.eval(), batch, 5, beams=10) for model in (off, bare))
    assert torch.equal(ours.items_BK, theirs.items_BK)
    assert torch.equal(ours.scores_BK, theirs.scores_BK)


def test_the_plugin_trains_the_host_and_gives_it_back(settings: ModelSettings, table: SidTable):
    plugin = plugged(settings, table, ALL_ON).train()
    batch = Batch(histories(table), torch.tensor([[1], [2], [3]]), users_B=torch.arange(3))
    outputs = plugin(batch)
    assert outputs.extra["substitution_rate"].item() == 1.0
    terms = (LossTerm(name="next-item"), *plugin_terms(ALL_ON))
    parts = total_loss(outputs, batch, terms, PLUGIN_LOSSES)
    parts["loss"].backward()
    assert torch.isfinite(parts["loss"])
    assert all(weight.grad is not None for weight in plugin.parameters())
    bare = build_backbone(settings, table).eval()
    bare.load_state_dict(host_weights(plugin.state_dict()))
    plugin.eval()
    assert torch.equal(bare(batch).logits_BPSV, plugin(batch).logits_BPSV)


def test_no_host_file_names_the_plugin():
    folder = Path(__file__).parents[3] / "genrec" / "models"
    files = list(folder.rglob("*.py"))
    assert len(files) > len(HOSTS)
    assert [path.name for path in files if "genplugin" in path.read_text(encoding="utf-8").lower()] == []
