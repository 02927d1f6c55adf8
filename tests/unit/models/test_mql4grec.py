"""MQL4GRec beyond the contract: its tasks and prompts, its tables as backbones, the ensemble against brute force."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from genrec.config import LossTerm, ModelSettings, TaskMixSettings
from genrec.decoding import generate, generate_ensemble, recommend, score
from genrec.decoding.ensemble import averaged
from genrec.decoding.search import Ranked
from genrec.losses import total_loss
from genrec.models import PAD_ITEM, Backbone, Batch, build_backbone
from genrec.models.contracts import MultiTable
from genrec.models.mql4grec import Mql4Grec, tasks_of
from genrec.models.tiger import Tiger
from genrec.tokenizer.joint import JointTable
from genrec.tokenizer.published import read_published
from genrec.tokenizer.sid_table import PAD_TOKEN, SidTable

SHAPE = dict(d_model=32, d_ff=48, heads=2, d_head=16, encoder_layers=1, decoder_layers=2, relative_buckets=8)
HISTORY = torch.tensor([[1, 2, 3], [4, 5, PAD_ITEM], [6, PAD_ITEM, PAD_ITEM]])
CODES = Path(__file__).parents[4] / "shared" / "data" / "amazon-beauty" / "semantic_ids"


@pytest.fixture
def joint(table: SidTable) -> JointTable:
    """The table of the other tests, and one of two levels: 40 items."""
    order = np.random.default_rng(5).permutation(64)[: table.n_items]
    return JointTable.of(
        table, [SidTable(np.stack([order // 8, order % 8], axis=1).astype(np.int32), (8, 8), name="b")]
    )


def build(joint: SidTable, attention: str = "bidirectional", **tasks: object) -> Mql4Grec:
    torch.manual_seed(3)
    mix = TaskMixSettings.model_validate(tasks)
    settings = ModelSettings(backbone="mql4grec", encoder_attention=attention, tasks=mix, **SHAPE)
    model = build_backbone(settings, joint)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() > 1:
                weight.copy_(torch.randn_like(weight) * weight.shape[-1] ** -0.5)
    return model.eval()


def test_the_tables_are_backbones_of_one_network(joint: JointTable):
    host = build(joint)
    assert isinstance(host, MultiTable)
    first, second = host.members()
    assert isinstance(first, Backbone)
    assert isinstance(second, Backbone)
    assert first.sid_table is joint
    assert second.token_embedding is host.token_embedding
    assert host.token_embedding.weight.shape[0] == 1 + 7 + 5 + 4 + 8 + 8
    memory = second.encode(Batch(HISTORY))
    assert memory.states_BTD.shape == (3, 3 * 2, 32)
    for member in (first, second):
        everything = torch.arange(joint.n_items).expand(3, -1)
        with torch.no_grad():
            scores = score(member, Batch(HISTORY), everything)
        torch.testing.assert_close(scores.exp().sum(dim=1), torch.ones(3))
        ranked = generate(member, Batch(HISTORY), joint.n_items, beams=joint.n_items)
        torch.testing.assert_close(ranked.scores_BK, scores.sort(dim=1, descending=True).values, rtol=1e-5, atol=1e-5)


def test_the_first_member_is_the_host(joint: JointTable):
    host = build(joint)
    ours, theirs = (generate(one, Batch(HISTORY), 5, beams=9) for one in (host, host.members()[0]))
    assert torch.equal(ours.items_BK, theirs.items_BK)
    assert torch.equal(ours.scores_BK, theirs.scores_BK)


def test_every_task_of_the_mix_has_a_prompt_of_its_own(joint: JointTable):
    host = build(joint)
    told = [(task.kind, task.sources, task.target) for task in host.tasks]
    assert told == [
        ("next", (0,), 0), ("next", (1,), 1), ("cross", (0,), 1), ("cross", (1,), 0),
        ("fused", (0, 1), 0), ("fused", (0, 1), 1), ("translate", (0,), 1), ("translate", (1,), 0),
    ]  # fmt: skip
    states = torch.stack([host.prompt(task, 2).states_BTD for task in host.tasks])
    assert states.shape == (8, 2, 4, 32)
    apart = (states[:, None] - states[None]).abs().amax(dim=(2, 3, 4)) + torch.eye(8)
    assert apart.min() > 1e-3
    memories = [host.encode(Batch(HISTORY))]
    inputs = torch.full((3, 1, 1), PAD_TOKEN)
    logits = torch.stack([host.decode(inputs, [*memories, host.prompt(task, 3)]) for task in host.tasks])
    assert ((logits[:, None] - logits[None]).abs().amax(dim=(2, 3, 4, 5)) + torch.eye(8)).min() > 1e-4
    assert torch.equal(host.decode(inputs, memories), logits[0])


def test_a_fused_history_is_read_in_all_tables(joint: JointTable):
    host = build(joint)
    fused = next(task for task in host.tasks if task.kind == "fused" and task.target == 1)
    outputs = host.outputs_of(Batch(HISTORY, torch.tensor([[7], [8], [9]])), fused)
    assert [memory.states_BTD.shape[1] for memory in outputs.memories] == [9, 6, 4]
    assert torch.equal(outputs.labels_BPS[:, 0], torch.from_numpy(joint.members[1].tokens_NL[7:10]))
    assert outputs.logits_BPSV.shape == (3, 1, 2, joint.vocab_size)


@pytest.mark.parametrize("attention", ["bidirectional", "causal"])
def test_a_further_task_is_drawn_by_its_weight_and_by_the_seed_alone(joint: JointTable, attention: str):
    batch = Batch(HISTORY, torch.tensor([[7, 8], [9, PAD_ITEM], [1, 2]]), torch.tensor([[2, 3], [2, 0], [1, 1]]))
    off = {"next": 0, "cross": 0, "fused": 0, "translate": 0}
    assert build(joint, attention, **off).side_task(batch) is None
    assert build(joint, attention, weight=0).side_task(batch) is None
    for kind, memories in (("next", 2), ("cross", 2), ("fused", 3), ("translate", 2)):
        outputs, own = build(joint, attention, **{**off, kind: 1}).side_task(batch)
        assert len(outputs.memories) == memories
        assert (own is batch) == (kind != "translate")
        if kind == "translate":
            assert own.history_BT.shape == (5, 1), "as many items as there are targets"
            assert torch.equal(own.history_BT, own.targets_BP)
        assert torch.isfinite(total_loss(outputs, own, [LossTerm(name="next-item")])["loss"])
    host = build(joint, attention)
    drawn = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        drawn.append([host.side_task(batch)[0].logits_BPSV for _ in range(4)])
    assert all(torch.equal(one, other) for one, other in zip(drawn[0], drawn[1], strict=True))
    assert any(one.shape != other.shape or not torch.equal(one, other) for one, other in zip(*drawn[1:], strict=True))
    torch.manual_seed(0)
    weights = torch.tensor(host._side_weights())
    assert weights.sum().item() == pytest.approx(1 + 1 + 0.5 + 0.2)


def test_one_table_alone_is_a_tiger_with_a_prompt(table: SidTable):
    host = build(table)
    assert len(host.tasks) == 1
    assert host.side_task(Batch(HISTORY, torch.tensor([[7], [8], [9]]))) is None
    assert isinstance(host, Tiger)
    assert len(tasks_of(3)) == 3 + 6 + 3 + 6


def test_the_average_of_full_lists_is_brute_force(joint: JointTable):
    host, batch, everything = build(joint), Batch(HISTORY), torch.arange(joint.n_items).expand(3, -1)
    with torch.no_grad():
        each = [score(member, batch, everything) / member.sid_table.n_levels for member in host.members()]
    expected = (each[0] + each[1]) / 2 + 1  # every item is in both lists
    ranked = generate_ensemble(host, batch, joint.n_items, beams=joint.n_items)
    torch.testing.assert_close(ranked.scores_BK, expected.sort(dim=1, descending=True).values, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(expected.gather(1, ranked.items_BK), ranked.scores_BK, rtol=1e-5, atol=1e-5)


def test_the_mixture_is_brute_force_and_a_distribution(joint: JointTable):
    host, batch = build(joint, ensemble="mixture"), Batch(HISTORY)
    everything = torch.arange(joint.n_items).expand(3, -1)
    with torch.no_grad():
        expected = (sum(score(member, batch, everything).exp() for member in host.members()) / 2).log()
    ranked = generate_ensemble(host, batch, joint.n_items, beams=joint.n_items)
    torch.testing.assert_close(ranked.scores_BK.exp().sum(dim=1), torch.ones(3))
    torch.testing.assert_close(expected.gather(1, ranked.items_BK), ranked.scores_BK, rtol=1e-5, atol=1e-5)
    narrow = generate_ensemble(host, batch, 4, beams=6)
    torch.testing.assert_close(expected.gather(1, narrow.items_BK), narrow.scores_BK, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("rule", ["average", "mixture"])
def test_an_ensemble_lists_each_item_once_and_no_excluded_one(joint: JointTable, rule: str):
    host = build(joint, ensemble=rule).train()
    exclude = torch.tensor([[0, 1, 2, PAD_ITEM], [5, 6, 7, 8], [PAD_ITEM] * 4])
    ranked = generate_ensemble(host, Batch(HISTORY), 12, beams=12, exclude_BS=exclude)
    assert host.training, "as it was"
    for row, barred in zip(ranked.items_BK.tolist(), exclude.tolist(), strict=True):
        assert len(set(row)) == 12
        assert not set(row) & set(barred)
    assert (ranked.scores_BK.diff(dim=1) <= 0).all()
    nearly_all = torch.arange(joint.n_items - 2).expand(3, -1)
    short = generate_ensemble(host, Batch(HISTORY), 5, beams=5, exclude_BS=nearly_all)
    assert (short.items_BK[:, 2:] == PAD_ITEM).all()
    assert sorted(short.items_BK[0, :2].tolist()) == [38, 39]


def test_an_item_in_both_lists_is_averaged_and_raised_by_one():
    text = Ranked(torch.tensor([[3, 5, PAD_ITEM]]), torch.tensor([[-2.0, -4.0, -math.inf]]))
    image = Ranked(torch.tensor([[5, 9, 2]]), torch.tensor([[-2.0, -6.0, -8.0]]))
    items, scores = averaged([text, image], [2, 4])
    found = dict(zip(items[0].tolist(), scores[0].tolist(), strict=True))
    found.pop(PAD_ITEM)
    assert found == {3: -1.0, 5: (-2.0 - 0.5) / 2 + 1, 9: -1.5, 2: -2.0}


def test_recommending_goes_by_the_ensemble_unless_the_first_table_is_asked_for(joint: JointTable, table: SidTable):
    batch = Batch(HISTORY)
    for host, call in (
        (build(joint), generate_ensemble),
        (build(joint, ensemble="first"), generate),
        (build_backbone(ModelSettings(**SHAPE), table), generate),
    ):
        ours, theirs = (one(host, batch, 5, beams=8) for one in (recommend, call))
        assert torch.equal(ours.items_BK, theirs.items_BK)
        assert torch.equal(ours.scores_BK, theirs.scores_BK)


def test_published_text_and_image_codes_load_into_one_vocabulary():
    if not CODES.is_dir():
        pytest.skip("the published codes of Amazon Beauty are not at ../shared/data")
    n_items = 12_101
    text, image = (
        SidTable(read_published(CODES / f"{name}.json", n_items), (256,) * 4, name=name) for name in ("text", "image")
    )
    joint = JointTable.of(text, [image])
    assert joint.vocab_size == 1 + 8 * 256
    tokens = [member.tokens_NL for member in joint.members]
    assert not set(np.unique(tokens[0])) & set(np.unique(tokens[1]))
    assert tokens[1].max() < joint.vocab_size
    host = build(joint)
    batch = Batch(torch.tensor([[0, 12_100]]))
    for rule in (generate, generate_ensemble):
        assert (rule(host, batch, 10, beams=20).items_BK >= 0).all()
