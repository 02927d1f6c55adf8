"""A change of each settings leaf changes exactly the keys that depend on it, along the whole chain."""

from __future__ import annotations

import dataclasses
import types
import typing
from pathlib import Path
from typing import Any, Literal

import pytest
from pydantic import BaseModel

from genrec.cli import STAGE_VERBS
from genrec.config import Settings, load_settings
from genrec.stages import STAGES, plan
from genrec.stages.stage import flatten, nested

CHAIN = {
    "prepare": [],
    "tokenize": ["prepare"],
    "item-knn": ["prepare"],
    "linear": ["prepare"],
    "sasrec": ["prepare"],
    "content-knn": ["prepare", "tokenize"],
    "pretrain": ["prepare", "tokenize"],
    "finetune": ["prepare", "tokenize", "item-knn", "linear", "content-knn", "sasrec", "pretrain"],
    "evaluate": ["prepare", "tokenize", "item-knn", "linear", "content-knn", "sasrec", "pretrain", "finetune"],
    "bundle": ["prepare", "tokenize", "pretrain", "finetune", "evaluate"],
}
NOTHING = {
    "run.name", "run.directory", "run.mirror", "data.path", "data.feedback", "encoder.path", "encoder.batch_size",
    "tokenizer.published",
    "tokenizer.published_first_id",  # unless the codes are published, see below
    "training.cpus_per_worker", "training.gpus_per_worker", "training.max_failures", "training.checkpoint_every",
    "training.wait_minutes", "training.resize_check_s",
    "training.checkpoint_steps", "training.upload", "training.log_every", "training.tensorboard", "training.mlflow_uri",
    "training.deepspeed.nvme_path", "evaluation.batch_size", "bundle.name",
    "retrieval.train_positions", "retrieval.block_queries", "retrieval.shard_users", "retrieval.workers",
}  # fmt: skip
SPECIAL = {
    "run.seed": {"sasrec", "pretrain", "finetune"},
    "data.max_history": {"item-knn", "linear", "content-knn", "sasrec", "pretrain", "finetune", "evaluate"},
    "evaluation.seen_items": {"item-knn", "linear", "content-knn", "sasrec", "pretrain", "finetune", "evaluate"},
    "retrieval.ivf_from": {"content-knn", "finetune", "evaluate"},
    "retrieval.ivf_probes": {"content-knn", "finetune", "evaluate"},
    "plugin.retrieval": {"finetune"},
    "plugin.gate.balance": {"finetune"},
    "plugin.gate.list_users": {"finetune"},
    "plugin.gate.generator": {"finetune"},
    "plugin.gate.steps": {"finetune"},
    "plugin.gate.users": {"finetune"},
    "plugin.memory.finetune": {"finetune"},
    "plugin.memory.neighbours": {"finetune"},
    "plugin.memory.entry": {"finetune"},
    "plugin.memory.train_positions": {"finetune"},
    "plugin.memory.epochs": {"finetune"},
    "plugin.memory.max_steps": {"finetune"},
    "plugin.memory.max_minutes": {"finetune"},
    "plugin.memory.learning_rate": {"finetune"},
    "plugin.memory.patience": {"finetune"},
    "evaluation.beams": {"pretrain", "evaluate"},
    "training.strategy": {"sasrec", "pretrain"},
    "training.workers": {"sasrec", "pretrain"},
    "training.workers_min": {"sasrec", "pretrain"},
    "training.warmup_share": {"sasrec", "pretrain"},
    "training.schedule": {"sasrec", "pretrain"},
    "training.clip_norm": {"sasrec", "pretrain"},
    "training.precision": {"sasrec", "pretrain"},
    "training.validate_every": {"sasrec", "pretrain"},
    "training.validation_users": {"sasrec", "pretrain"},
}
SECTIONS = {
    "data": {"prepare"},
    "encoder": {"tokenize", "content-knn"},
    "tokenizer": {"tokenize"},
    "model": {"pretrain"},
    "training": {"pretrain"},
    "baselines.sasrec": {"sasrec"},
    "baselines.item_knn": {"item-knn"},
    "baselines.content_knn": {"content-knn"},
    "baselines.linear": {"linear"},
    "evaluation": {"evaluate"},
    "bundle": {"bundle"},
    "plugin": {"pretrain"},
    "retrieval": {"finetune", "evaluate"},
    "ray": set(),
    "serve": set(),
}
# Leaves whose other values need company to be valid, or to be read.
SEVERAL = {"model": {"backbone": "mql4grec"}, "tokenizer": {"tables": {"other": {"seed": 1}}}}
TASKS = ("prompt_length", "weight", "next", "cross", "fused", "translate", "ensemble")
COMPANY = {
    **{f"model.tasks.{name}": SEVERAL for name in TASKS},
    "data.reader": {"data": {"path": "somewhere"}},
    "model.backbone": {"model": {"encoder_attention": "causal"}},
    "plugin.substitution.p1": {"plugin": {"language": True}},
    "retrieval.paths": {"retrieval": {"vote_sources": ["item-knn"]}},
    "training.workers_min": {"training": {"workers": 8}},
    "training.deepspeed.offload_optimizer": {"training": {"deepspeed": {"zero_stage": 3}}},
    "training.deepspeed.offload_parameters": {"training": {"deepspeed": {"zero_stage": 3}}},
}


def directly(leaf: str) -> set[str]:
    if leaf in NOTHING:
        return set()
    if leaf in SPECIAL:
        return SPECIAL[leaf]
    (found,) = [stages for section, stages in SECTIONS.items() if leaf.startswith(section + ".")]
    return found


def closure(stages: set[str]) -> set[str]:
    reached = set(stages)
    for name, inputs in CHAIN.items():
        if reached & set(inputs):
            reached.add(name)
    return reached


def leaves(model: type[BaseModel], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            found |= leaves(field.annotation, f"{prefix}{name}.")
        elif typing.get_origin(field.annotation) is not dict:  # tokenizer.tables has no leaf until it is filled
            found[prefix + name] = field.annotation
    return found


def other(annotation: Any, value: Any) -> Any:
    """A valid value that differs from ``value``."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Literal:
        choices = [choice for choice in arguments if choice not in (value, "published")]
        return choices[0] if choices else pytest.skip(f"{value!r} is the only choice as yet")
    if origin in (types.UnionType, typing.Union):
        return other(next(a for a in arguments if a is not type(None)), value)
    if origin is typing.Annotated:
        return other(arguments[0], value)
    if origin is tuple:
        return value[:-1] if len(value) > 1 else [*value, *value]
    if annotation is bool:
        return not value
    if annotation is int:
        return 7 if value is None else value + 1
    if annotation is float:
        return 0.5 if value is None else value * 0.8 + 0.03
    assert annotation is str, annotation
    return f"{value or ''}x"


def keys(settings: Settings) -> dict[str, str]:
    without_files = {name: dataclasses.replace(stage, sources=None) for name, stage in STAGES.items()}
    return {name: item.key for name, item in plan(without_files, settings).items()}


def merged(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    return nested({**flatten(base), **flatten(over)})


UNREAD = ("cluster.", "content.")
"""Sections that no stage reads."""
LEAVES = {name: kind for name, kind in leaves(Settings).items() if not name.startswith(UNREAD)}
EXAMPLES = {"serve.store_url": "postgresql://reader@host/shop"}
"""Valid values of leaves that not every text will do for."""


def test_every_leaf_is_known_here():
    for leaf in NOTHING | set(SPECIAL) | set(COMPANY):
        assert leaf in LEAVES, f"{leaf} is gone from the settings"


def test_the_chain_is_the_declared_one():
    assert {name: list(stage.inputs) for name, stage in STAGES.items()} == CHAIN
    assert list(STAGE_VERBS) == list(STAGES)


@pytest.mark.parametrize("leaf", LEAVES)
def test_leaf_changes_exactly_the_keys_that_depend_on_it(leaf):
    base = merged(Settings().model_dump(mode="json"), COMPANY.get(leaf, {}))
    before = Settings.model_validate(base)
    value = flatten(before.model_dump(mode="json"))[leaf]
    changed = EXAMPLES.get(leaf) or other(LEAVES[leaf], value)
    after = Settings.model_validate(merged(base, nested({leaf: changed})))
    old, new = keys(before), keys(after)
    assert {name for name in CHAIN if old[name] != new[name]} == closure(directly(leaf))


def test_where_a_run_is_computed_changes_no_key():
    moved = load_settings(overrides=["cluster.name=other", "cluster.cpu_workers.max=9", "content.pictures.steps=7"])
    assert keys(moved) == keys(Settings())


def test_leaves_that_a_host_or_a_kind_of_codes_does_not_read_change_nothing():
    base = keys(Settings())
    assert keys(load_settings(overrides=["model.tasks.cross=0.3", "tokenizer.published_first_id=1"])) == base
    published = ["tokenizer.kind=published", "tokenizer.published=a.json"]
    first, second = (
        keys(load_settings(overrides=[*published, *more])) for more in ([], ["tokenizer.published_first_id=1"])
    )
    assert {name for name in CHAIN if first[name] != second[name]} == closure({"tokenize"})


def test_further_tables_count_by_what_they_are_made_of(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    log = raw(tmp_path / "a", "user,item,time\n1,2,3\n")
    for name, text in (("one.json", "{}"), ("same.json", "{}"), ("other.json", "{ }")):
        (tmp_path / name).write_text(text)

    def with_tables(*more: str) -> Settings:
        return table_settings(log, more=["model.backbone=mql4grec", *more])

    def image(name: str, *more: str) -> dict[str, str]:
        table = "tokenizer.tables.image."
        return real_keys(with_tables(f"{table}kind=published", f"{table}published={tmp_path / name}", *more))

    first = image("one.json")
    assert image("same.json") == first
    for changed in (image("other.json"), image("one.json", "tokenizer.tables.image.published_first_id=1")):
        assert {name for name in first if changed[name] != first[name]} == closure({"tokenize"})
    collaborative = plan(STAGES, with_tables("tokenizer.tables.taste.embeddings=collaborative"))
    assert "sasrec" in collaborative["tokenize"].inputs
    assert "sasrec" not in plan(STAGES, with_tables("tokenizer.tables.b.seed=1"))["tokenize"].inputs
    for space in ("collaborative", "both"):
        first = plan(STAGES, table_settings(log, more=[f"tokenizer.embeddings={space}"]))
        assert "sasrec" in first["tokenize"].inputs


def raw(directory: Path, rows: str) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "log.csv").write_text(rows)
    return directory / "log.csv"


def table_settings(path: Path, **overrides: Any) -> Settings:
    return load_settings(overrides=["data.reader=table", f"data.path={path}", *overrides.get("more", [])])


def real_keys(settings: Settings) -> dict[str, str]:
    return {name: item.key for name, item in plan(STAGES, settings).items()}


def test_raw_files_count_by_content_not_by_place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = "user,item,time\n1,2,3\n"
    first = real_keys(table_settings(raw(tmp_path / "a", rows)))
    assert real_keys(table_settings(raw(tmp_path / "b", rows))) == first
    changed = real_keys(table_settings(raw(tmp_path / "c", rows + "1,3,4\n")))
    assert all(changed[name] != first[name] for name in first)


def test_published_codes_count_by_content(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    log = raw(tmp_path / "a", "user,item,time\n1,2,3\n")

    def with_codes(name: str, text: str) -> dict[str, str]:
        (tmp_path / name).write_text(text)
        more = ["tokenizer.kind=published", f"tokenizer.published={tmp_path / name}"]
        return real_keys(table_settings(log, more=more))

    first = with_codes("a.json", "{}")
    assert with_codes("b.json", "{}") == first
    changed = with_codes("a.json", "{ }")
    assert {name for name in first if changed[name] != first[name]} == closure({"tokenize"})


def test_only_letters_tokenizer_waits_for_sasrec():
    def inputs_and_key(*overrides: str) -> tuple[tuple[str, ...], str]:
        settings = load_settings(overrides=list(overrides))
        item = plan(STAGES, settings)["tokenize"]
        return item.stage.inputs, item.key

    longer = "baselines.sasrec.epochs=7"
    assert inputs_and_key() == inputs_and_key(longer)
    assert inputs_and_key()[0] == ("prepare",)
    letter, other = inputs_and_key("tokenizer.kind=letter"), inputs_and_key("tokenizer.kind=letter", longer)
    assert letter[0] == other[0] == ("prepare", "sasrec")
    assert letter[1] != other[1]
    assert list(plan(STAGES, load_settings(overrides=["tokenizer.kind=letter"]))) == list(STAGES)


def test_flatten_and_nested_are_inverse():
    empty = {"cluster": True, "serve": {"catalogs"}}  # empty mappings have no leaf
    tree = Settings.model_validate(SEVERAL).model_dump(mode="json", exclude=empty)
    assert nested(flatten(tree)) == tree
