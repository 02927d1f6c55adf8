"""The bundle: complete, versioned by content, and refused if one byte of it is wrong."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from safetensors.torch import load_file, save_file

from genrec.artifacts import Manifest, write_manifest
from genrec.bundle import load_bundle, require_floor, write_bundle
from genrec.config import Settings, load_settings
from genrec.errors import ArtifactError, VersionMismatchError
from genrec.tokenizer.sid_table import SidTable
from tests.serving import ITEMS, MODEL, USERS, assembled_bundle


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    return assembled_bundle(tmp_path_factory.mktemp("bundle"), neighbours=True)


@pytest.fixture
def copied(made, tmp_path) -> Path:
    return shutil.copytree(made, tmp_path / "copy")


def test_holds_all_that_serving_needs(made):
    bundle = load_bundle(made)
    assert bundle.sid_table.n_items == len(bundle.catalog) == ITEMS
    assert bundle.interactions.n_users == USERS
    assert bundle.card["metrics"][0]["metric"] == "hit@10"
    weights = load_file(made / "weights.safetensors")
    state = bundle.backbone().state_dict()
    assert all((state[name] == tensor).all() for name, tensor in weights.items())


def test_version_is_that_of_the_content(made, copied, tmp_path):
    assert load_bundle(copied).version == load_bundle(made).version
    assert load_bundle(assembled_bundle(tmp_path / "other", seed=1)).version != load_bundle(made).version


def test_a_link_is_followed_to_the_bundle_itself(made, tmp_path):
    (tmp_path / "newest").symlink_to(made)
    assert load_bundle(tmp_path / "newest").path == made.resolve()


def test_byte_flips_are_each_refused(made, copied):
    files = [path for path in sorted(copied.rglob("*")) if path.is_file()]
    assert {"manifest.json", "weights.safetensors", "settings.yaml", "catalog.parquet"} <= {f.name for f in files}
    neighbours = ("gate", "item_knn", "content_knn", "linear", "sasrec")
    assert {f"{name}.safetensors" for name in neighbours} <= {f.name for f in files}
    rng = np.random.default_rng(1)
    for trial in range(40 * len(files)):
        file = files[trial % len(files)]
        sound = file.read_bytes()
        broken = bytearray(sound)
        broken[rng.integers(len(broken))] ^= 1 << int(rng.integers(8))
        file.write_bytes(broken)
        with pytest.raises(ArtifactError, match=r"altered|differ|not a genrec manifest|schema"):
            load_bundle(copied)
        file.write_bytes(sound)
    assert trial >= 200
    assert load_bundle(copied).version == load_bundle(made).version


def test_truncated_or_stray_files_are_refused(copied):
    weights = copied / "weights.safetensors"
    sound = weights.read_bytes()
    weights.write_bytes(sound[:-1])
    with pytest.raises(ArtifactError, match="differ"):
        load_bundle(copied)
    weights.write_bytes(sound)
    (copied / "model.pkl").write_bytes(b"")
    with pytest.raises(ArtifactError, match=r"model\.pkl: is not in the manifest"):
        load_bundle(copied)


def test_what_is_no_bundle_is_named(tmp_path, copied):
    with pytest.raises(ArtifactError, match="no bundle there"):
        load_bundle(tmp_path / "absent")
    with pytest.raises(ArtifactError, match="never finished"):
        load_bundle(tmp_path)
    write_manifest(copied, Manifest(stage="evaluate", key="k"))
    with pytest.raises(ArtifactError, match="stage 'evaluate', not a bundle"):
        load_bundle(copied)


def test_parts_that_do_not_fit_are_refused_though_the_manifest_is_sound(copied):
    table = SidTable.load(copied)
    shuffled = SidTable(table.codes_NL[::-1].copy(), table.level_sizes)
    shuffled.save(copied)
    write_manifest(copied, Manifest(stage="bundle", key="k"))
    with pytest.raises(VersionMismatchError, match="was made with semantic IDs"):
        load_bundle(copied)


def test_weights_of_another_shape_are_refused(copied):
    (copied / "settings.yaml").write_text("model: {d_model: 16}")
    write_manifest(copied, Manifest(stage="bundle", key="k"))
    with pytest.raises(ArtifactError, match="does not fit the model"):
        load_bundle(copied).backbone()


def test_neighbours_that_do_not_fit_are_refused(copied):
    bundle = load_bundle(copied)
    gate = copied / "neighbours" / "gate.safetensors"
    save_file(load_file(gate), gate, {"sid_version": "f" * 16})
    with pytest.raises(VersionMismatchError, match="semantic IDs ffff"):
        bundle.augmented(bundle.backbone())
    (copied / "settings.yaml").write_text(yaml.safe_dump({"model": MODEL, "retrieval": {"vote_sources": ["text"]}}))
    write_manifest(copied, Manifest(stage="bundle", key="k"))
    fewer = load_bundle(copied)
    with pytest.raises(ArtifactError, match=r"gate\.safetensors: does not fit these settings"):
        fewer.augmented(fewer.backbone())


def test_a_bundle_without_neighbours_has_no_mixture(tmp_path):
    bundle = load_bundle(assembled_bundle(tmp_path))
    assert bundle.augmented(bundle.backbone()) is None


def test_weights_of_another_table_cannot_be_bundled(made, tmp_path):
    table = SidTable.load(made)
    save_file(load_file(made / "weights.safetensors"), tmp_path / "w.safetensors", {"sid_version": "f" * 16})
    out = tmp_path / "out"
    out.mkdir()
    with pytest.raises(VersionMismatchError, match="semantic IDs ffff"):
        write_bundle(out, weights=tmp_path / "w.safetensors", prepared=made / "prepared", sid_table=table, settings={})
    assert list(out.iterdir()) == []
    with pytest.raises(ArtifactError, match="no weights there"):
        write_bundle(out, weights=tmp_path / "none", prepared=made / "prepared", sid_table=table, settings={})


def test_settings_and_card_read_back(made):
    assert load_settings(made / "settings.yaml").model.d_model == 32
    card = json.loads((made / "model_card.json").read_text())
    assert card["sid_version"] == SidTable.load(made).version


def rows(tiger: float, popularity: float) -> list[dict[str, object]]:
    base = {"dataset": "d", "segment": "all", "metric": "ndcg@20"}
    other = {"model": "tiger", "dataset": "d", "segment": "tail", "metric": "ndcg@20", "value": 0.0}
    return [{**base, "model": "tiger", "value": tiger}, {**base, "model": "popularity", "value": popularity}, other]


def test_floor_refuses_a_model_below_popularity():
    gated = Settings.model_validate({"bundle": {"floor": "popularity"}})
    require_floor(rows(0.2, 0.1), gated)
    with pytest.raises(ArtifactError, match=r"ndcg@20 of tiger is 0\.1000, of popularity 0\.1000.*bundle\.floor=none"):
        require_floor(rows(0.1, 0.1), gated)
    require_floor(rows(0.1, 0.2), Settings())


def test_floor_judges_what_will_be_served():
    gated = Settings.model_validate({"bundle": {"floor": "popularity"}})
    whole = {**rows(0.3, 0.2)[0], "model": "tiger+neighbours"}
    require_floor([*rows(0.1, 0.2), whole], gated)
    with pytest.raises(ArtifactError, match=r"of tiger\+neighbours is 0\.1500"):
        require_floor([*rows(0.3, 0.2), {**whole, "value": 0.15}], gated)
