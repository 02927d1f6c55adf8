"""The plug-in around a host: off means off, what is shared is shared, the ID path is the host's."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from genrec.config import LossTerm, ModelSettings, PluginSettings, SubstitutionSettings
from genrec.decoding import generate
from genrec.genplugin.language_view import LanguageView
from genrec.genplugin.losses import PLUGIN_LOSSES, plugin_terms
from genrec.genplugin.plugin import GenPlugin, host_weights
from genrec.losses import total_loss
from genrec.models import build_backbone
from genrec.models.contracts import Backbone, Batch
from genrec.tokenizer.sid_table import SidTable
from genrec.tokenizer.spaces import TEXT_FILE, load_text_vectors, save_vectors

N_ITEMS, WIDTH = 60, 12
SHAPE = ModelSettings(d_model=16, d_ff=32, heads=2, d_head=8, encoder_layers=1, decoder_layers=1, dropout=0.1)
CAUSAL = SHAPE.model_copy(update={"encoder_attention": "causal"})


def _table() -> SidTable:
    codes = np.stack(np.unravel_index(np.arange(N_ITEMS), (4, 4, 4)), axis=1).astype(np.int32)
    return SidTable(codes, (4, 4, 4))


def _host(shape: ModelSettings = SHAPE) -> torch.nn.Module:
    torch.manual_seed(0)
    return build_backbone(shape, _table())


def _plugin(settings: PluginSettings, shape: ModelSettings = SHAPE) -> GenPlugin:
    host = _host(shape)
    embeddings = torch.randn(N_ITEMS, WIDTH, generator=torch.Generator().manual_seed(1))
    return GenPlugin(host, shape, settings, embeddings)


def _batch() -> Batch:
    generator = torch.Generator().manual_seed(2)
    history = torch.randint(0, N_ITEMS, (6, 5), generator=generator)
    history[0, 3:] = -1
    return Batch(history, torch.randint(0, N_ITEMS, (6, 1), generator=generator), users_B=torch.arange(6))


ON = PluginSettings(language=True, substitution=SubstitutionSettings(p1=1.0, p2=1.0, warmup_epochs=0))


def test_everything_off_is_the_host_bit_for_bit() -> None:
    host, plugin, batch = _host(), _plugin(PluginSettings()), _batch()
    torch.manual_seed(5)
    alone = host(batch).logits_BPSV
    torch.manual_seed(5)
    assert torch.equal(plugin(batch).logits_BPSV, alone)
    assert sum(p.numel() for p in plugin.parameters()) == sum(p.numel() for p in host.parameters())


def test_zero_substitution_leaves_the_id_view_as_it_is() -> None:
    batch = _batch()
    never = PluginSettings(language=True, substitution=SubstitutionSettings(p1=0.0))
    plugin = _plugin(never).eval()
    assert torch.equal(plugin(batch).logits_BPSV, plugin.host(batch).logits_BPSV)


@pytest.mark.parametrize("epoch", [0.0, 3.0])
def test_substitution_waits_for_its_warm_up(epoch: float) -> None:
    settings = PluginSettings(language=True, substitution=SubstitutionSettings(p1=1, p2=1, warmup_epochs=2))
    plugin = _plugin(settings)
    plugin.epoch = epoch
    extra = plugin(_batch()).extra
    assert ("substitution_rate" in extra) == (epoch >= 2)
    if epoch >= 2:
        assert extra["substitution_rate"].item() == 1.0


def test_full_substitution_with_top_1_feeds_the_language_views_argmax() -> None:
    settings = PluginSettings(language=True, substitution=SubstitutionSettings(p1=1, p2=1, top_k=1, warmup_epochs=0))
    shape = SHAPE.model_copy(update={"dropout": 0.0})
    plugin, batch = _plugin(settings, shape).train(), _batch()
    outputs = plugin(batch)
    logits = outputs.extra["language_logits"]
    inputs = torch.zeros(6, 1, 3, dtype=torch.int64)
    for level in range(2):
        first = 1 + 4 * level
        inputs[:, :, level + 1] = logits[:, :, level, first : first + 4].argmax(-1) + first
    fed = plugin.decode(inputs, [plugin.encode(batch)])
    torch.testing.assert_close(outputs.logits_BPSV, fed)


def test_both_views_train_one_decoder_and_one_table() -> None:
    plugin, batch = _plugin(ON), _batch()
    assert plugin.token_embedding is plugin.host.token_embedding
    outputs = plugin(batch)
    loss = PLUGIN_LOSSES["language-next-item"](outputs, batch, LossTerm(name="language-next-item"))
    loss["language-next-item"].backward()
    graded = {name for name, p in plugin.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    assert any(name.startswith("host.decoder") for name in graded)
    assert any(name.startswith("language.encoder") for name in graded)
    assert not any(name.startswith("host.encoder") for name in graded)


def test_all_losses_are_finite_and_reach_both_encoders() -> None:
    plugin, batch = _plugin(ON, CAUSAL), _batch()
    terms = (LossTerm(name="next-item"), *plugin_terms(ON))
    parts = total_loss(plugin(batch), batch, terms, PLUGIN_LOSSES)
    assert {"next-item", "language-next-item", "item-alignment", "user-alignment", "view-divergence"} < set(parts)
    assert all(torch.isfinite(value) for value in parts.values())
    parts["loss"].backward()
    assert all(p.grad is not None for p in plugin.parameters())


def test_a_plugins_checkpoint_loads_back_into_the_bare_host(tmp_path: Path) -> None:
    plugin, host, batch = _plugin(ON).eval(), _host().eval(), _batch()
    with torch.no_grad():
        for parameter in plugin.parameters():
            parameter.add_(0.01)
    host.load_state_dict(host_weights(plugin.state_dict()))
    assert torch.equal(host(batch).logits_BPSV, plugin(batch).logits_BPSV)


def test_the_plugin_is_a_backbone_that_decodes_as_its_host() -> None:
    plugin, batch = _plugin(ON).eval(), _batch()
    assert isinstance(plugin, Backbone)
    ours, theirs = generate(plugin, batch, 5, beams=10), generate(plugin.host, batch, 5, beams=10)
    assert torch.equal(ours.items_BK, theirs.items_BK)
    assert torch.equal(ours.scores_BK, theirs.scores_BK)


def test_no_host_names_the_plugin() -> None:
    folder = Path(__file__).parents[3] / "genrec" / "models"
    naming = [path.name for path in folder.glob("*.py") if "genplugin" in path.read_text().lower().split('"""', 2)[-1]]
    assert naming == []


def test_embeddings_are_kept_as_given_and_padding_reads_zeros() -> None:
    """No copy of the catalog's embeddings: a mapped file stays mapped, so all workers of a node share it."""
    table_NE = torch.randn(N_ITEMS, WIDTH, generator=torch.Generator().manual_seed(1))
    view, batch = LanguageView(SHAPE, table_NE).eval(), _batch()
    kept: torch.Tensor = view.embeddings  # type: ignore[assignment]
    assert kept.data_ptr() == table_NE.data_ptr()
    padded = torch.cat([table_NE, torch.zeros(1, WIDTH)])  # PAD_ITEM = -1 reads the last row
    given = replace(batch, language_BTE=padded[batch.history_BT])
    assert torch.equal(view.encode(batch).states_BTD, view.encode(given).states_BTD)


def test_saved_embeddings_are_mapped_not_read(tmp_path: Path) -> None:
    rows_NE = np.random.default_rng(0).random((50_000, 64), dtype=np.float32)
    save_vectors(tmp_path, rows_NE, None)
    maps = Path("/proc/self/maps")
    if not maps.is_file():
        pytest.skip("mappings are listed on Linux only")
    loaded = load_text_vectors(tmp_path)
    assert str(tmp_path / TEXT_FILE) in maps.read_text()
    assert np.array_equal(loaded.numpy(), rows_NE)
