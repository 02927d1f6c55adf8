"""The settings tree: what it accepts, and what it says when it does not."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from genrec.config import Settings, load_settings, resolved_yaml
from genrec.errors import SettingsError

ROOT = Path(__file__).parents[3]


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "settings.yaml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    """Away from the project's own ray_config.yaml."""
    monkeypatch.chdir(tmp_path)


def test_order_of_layers_is_base_preset_overrides(tmp_path):
    path = write(
        tmp_path,
        """
        training: {epochs: 1, batch_size: 11, learning_rate: 0.1}
        presets:
          small: {training: {epochs: 2, batch_size: 22}}
        """,
    )
    settings = load_settings(path, preset="small", overrides=["training.epochs=3"])
    assert (settings.training.epochs, settings.training.batch_size) == (3, 22)
    assert settings.training.learning_rate == 0.1
    assert load_settings(path).training.epochs == 1


def test_later_overrides_win():
    assert load_settings(overrides=["run.seed=1", "run.seed=2"]).run.seed == 2


def test_ray_config_here_is_read_by_default(tmp_path):
    (tmp_path / "ray_config.yaml").write_text("run: {seed: 7}")
    assert load_settings().run.seed == 7


@pytest.mark.parametrize("text", ["", "# nothing\n", "presets:\n"])
def test_empty_files_give_the_defaults(tmp_path, text):
    assert load_settings(write(tmp_path, text)) == Settings()


def test_scientific_notation_is_a_number():
    assert load_settings(overrides=["training.learning_rate=1e-3"]).training.learning_rate == 1e-3


def test_null_and_lists_are_yaml_values():
    settings = load_settings(overrides=["training.patience=null", "tokenizer.level_sizes=[8, 8]"])
    assert settings.training.patience is None
    assert settings.tokenizer.level_sizes == (8, 8)


def test_settings_cannot_be_changed_afterwards():
    with pytest.raises(ValueError, match="frozen"):
        Settings().run.seed = 3


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("training.epoch=5", "training.epoch: unknown key; did you mean 'epochs'?"),
        ("trainning.epochs=5", "trainning: unknown key; did you mean 'training'?"),
        ("model.zzzzzz=5", "model.zzzzzz: unknown key; known keys: backbone, code_embeddings, d_ff"),
        ("training.epochs=0", r"training.epochs: Input should be greater than 0 \(got 0\)"),
        ("training.epochs=many", r"training.epochs: .*valid integer.* \(got 'many'\)"),
        ("model.dropout=1.5", r"model.dropout: Input should be less than 1 \(got 1.5\)"),
        ("data.reader=ml", "data.reader: Input should be 'ml-100k', 'ml-1m'.* \\(got 'ml'\\)"),
        ("training.strategy=fsdp", "training.strategy: Input should be 'single', 'ddp' or 'deepspeed'"),
        ("tokenizer.level_sizes=[]", "tokenizer.level_sizes: .*at least 1 item"),
        ("run.name=../up", r"run.name: String should match pattern .* \(got '../up'\)"),
        ("run=5", r"run: .*dictionary.* \(got 5\)"),
        ("run.seed.deep=5", "run.seed: .*valid integer"),
        ("data.reader=ml-1m", "data.path: reader 'ml-1m' needs a file or directory"),
        ("tokenizer.kind=published", "tokenizer.published: kind 'published' needs the JSON file of codes"),
        ("evaluation.beams=3", "evaluation.beams: 3 beams cannot fill a list of 20"),
        ("serve.max_ongoing_requests=3", "serve.max_ongoing_requests: 3 in flight can never fill a batch of 32"),
        ("training.epochs", "--set 'training.epochs': write section.key=value"),
        ("=5", "--set '=5': write section.key=value"),
        ("training..epochs=5", "write section.key=value"),
        ("training.epochs=[1", r"--set 'training.epochs=\[1': the value is not YAML"),
    ],
)
def test_each_mistake_names_key_value_and_mend(override, message):
    with pytest.raises(SettingsError, match=message):
        load_settings(overrides=[override])


def test_a_service_cannot_follow_a_link_on_an_object_store():
    with pytest.raises(SettingsError, match=r"serve.watch: .*'s3://shop/runs' is a URI"):
        load_settings(overrides=["serve.watch=true", "run.directory=s3://shop/runs"])


@pytest.mark.parametrize("strategy", ["single", "deepspeed"])
def test_elastic_workers_are_for_ddp(strategy):
    workers = [] if strategy == "single" else ["training.workers=2"]
    with pytest.raises(
        SettingsError, match=r"training.workers_min: 1 needs strategy 'ddp' .* cannot change their number"
    ):
        load_settings(overrides=[f"training.strategy={strategy}", "training.workers_min=1", *workers])
    assert load_settings(overrides=["training.workers=2", "training.workers_min=1"]).training.workers_min == 1


def test_single_strategy_with_workers_is_refused():
    with pytest.raises(SettingsError, match=r"training.workers: strategy 'single' is one process, got 2"):
        load_settings(overrides=["training.strategy=single", "training.workers=2"])


def test_all_mistakes_are_told_at_once():
    with pytest.raises(SettingsError) as caught:
        load_settings(overrides=["training.epochs=0", "model.heads=-1", "nothing.here=1"])
    assert len(str(caught.value).splitlines()) == 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- a list", "expected sections .* got list"),
        ("just words", "expected sections .* got str"),
        ("a: [1", "not YAML"),
        ("run: {seed: 1}\nrun: {seed: 2}\n", "key 'run' is there twice"),
        ("run:\n  seed: 1\n  seed: 2\n", "key 'seed' is there twice"),
        ("run: !!python/object/apply:os.system [ls]\n", "not YAML"),
        ("presets: 5\n", "presets: expected name: sections, got int"),
        ("presets: {small: [1]}\n", "presets.small: expected sections, got list"),
        ("1: {seed: 2}\n", "1: "),
    ],
)
def test_broken_files_are_named(tmp_path, text, message):
    with pytest.raises(SettingsError, match=message):
        load_settings(write(tmp_path, text), preset="small" if "small" in text else None)


def test_file_that_is_not_text_is_named(tmp_path):
    path = tmp_path / "settings.yaml"
    path.write_bytes(b"\xff\xfe\x00run")
    with pytest.raises(SettingsError, match=r"settings\.yaml: not YAML"):
        load_settings(path)


def test_missing_file_is_named(tmp_path):
    with pytest.raises(SettingsError, match=r"--config .*absent\.yaml: No such file"):
        load_settings(tmp_path / "absent.yaml")


def test_unknown_preset_lists_those_there_are(tmp_path):
    with pytest.raises(SettingsError, match="preset 'big' is not in the file; it has: demo, paper"):
        load_settings(write(tmp_path, "presets: {paper: {}, demo: }"), preset="big")
    with pytest.raises(SettingsError, match="it has: none"):
        load_settings(preset="big")


def test_merge_keys_still_work(tmp_path):
    text = "presets:\n  a: &a {run: {seed: 5}}\n  b: {<<: *a, training: {epochs: 3}}\n"
    settings = load_settings(write(tmp_path, text), preset="b")
    assert (settings.run.seed, settings.training.epochs) == (5, 3)


def test_project_file_and_every_preset_are_valid():
    path = ROOT / "ray_config.yaml"
    presets = yaml.safe_load(path.read_text(encoding="utf-8"))["presets"]
    assert {"demo", "paper", "beauty", "beauty-dense", "scientific"} <= set(presets)
    for preset in (None, *presets):
        load_settings(path, preset=preset)


VALID = {
    "run.seed": st.integers(0, 2**31),
    "run.name": st.from_regex(r"\A[A-Za-z][A-Za-z._-]{0,12}\Z").filter(lambda s: not _yaml_word(s)),
    "data.head_share": st.floats(0.01, 0.99),
    "data.max_history": st.integers(1, 500),
    "tokenizer.level_sizes": st.lists(st.integers(1, 1024), min_size=1, max_size=8),
    "training.learning_rate": st.floats(1e-9, 1.0),
    "training.patience": st.none() | st.integers(1, 100),
    "training.tensorboard": st.booleans(),
    "evaluation.seen_items": st.sampled_from(["exclude", "keep"]),
    "model.dropout": st.floats(0, 0.99),
}


def _yaml_word(text: str) -> bool:
    """True for names that YAML or float() reads as something else ("yes", "null", "inf", ...)."""
    try:
        float(text)
    except ValueError:
        return not isinstance(yaml.safe_load(text), str)
    return True


@given(st.fixed_dictionaries({}, optional=VALID))
def test_overrides_arrive_and_the_resolved_tree_reads_back(tmp_path_factory, values):
    settings = load_settings(
        overrides=[
            f"{key}={yaml.safe_dump(value).split(chr(10) + '...')[0].strip()}"
            if not isinstance(value, str)
            else f"{key}={value}"
            for key, value in values.items()
        ]
    )
    for key, value in values.items():
        section, leaf = key.split(".")
        found = getattr(getattr(settings, section), leaf)
        assert found == (tuple(value) if isinstance(value, list) else value)
    path = tmp_path_factory.mktemp("resolved") / "settings.yaml"
    path.write_text(resolved_yaml(settings), encoding="utf-8")
    assert load_settings(path) == settings


def outcome(override: str) -> Settings | str:
    """The settings, or the text with which the override is refused."""
    try:
        return load_settings(overrides=[override])
    except SettingsError as error:
        return str(error)


@given(st.text(max_size=60))
def test_any_override_is_settled_or_refused_politely(text):
    assert outcome(text)


@given(st.text(max_size=40))
def test_any_value_of_a_key_is_settled_or_refused_politely(text):
    found = outcome(f"training.epochs={text}")
    assert "training.epochs" in found if isinstance(found, str) else found.training.epochs >= 1


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["model.backbone=mql4grec"], ["tokenizer.tables", "'mql4grec'", "embeddings=collaborative"]),
        (["tokenizer.tables.image.seed=1"], ["tokenizer.tables", "'tiger'", "image", "model.backbone=mql4grec"]),
        (
            ["model.backbone=mql4grec", "tokenizer.tables.image.kind=published"],
            ["tokenizer.tables.image.published", "JSON"],
        ),
        (["model.backbone=mql4grec", "tokenizer.tables.text.seed=1"], ["tokenizer.tables", "'text'", "another"]),
        (["model.backbone=mql4grec", "tokenizer.tables.image.sed=1"], ["tokenizer.tables.image.sed", "'seed'"]),
        (["model.backbone=mql4grec", "tokenizer.tables.A b.seed=1"], ["tokenizer.tables", "pattern"]),
    ],
)
def test_tables_of_semantic_ids_that_cannot_be_are_refused_with_key_and_mend(overrides, words):
    with pytest.raises(SettingsError) as caught:
        load_settings(overrides=overrides)
    assert [word for word in words if word not in str(caught.value)] == []


def test_further_tables_have_one_order_whatever_the_files():
    tables = [f"tokenizer.tables.{name}.seed=1" for name in ("sound", "image")]
    settings = load_settings(overrides=["model.backbone=mql4grec", *tables])
    assert list(settings.tokenizer.tables) == ["image", "sound"]
    assert settings.tokenizer.tables["image"].codes().seed == 1
