"""Grid definitions: what they expand to, and how mistakes in them are told."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from genrec.config import grid_cells, load_grids, load_settings
from genrec.errors import SettingsError

ROOT = Path(__file__).parents[3]
ARMS = {"bare": {}, "language": {"overrides": {"plugin": {"language": True}}}}


@pytest.fixture
def written(tmp_path):
    def write(**changes) -> Path:
        grid = {"control": "bare", "seeds": [0, 5], "arms": ARMS, **changes}
        tree = {
            "run": {"directory": str(tmp_path / "runs")},
            "training": {"epochs": 9},
            "presets": {"small": {"model": {"d_model": 16}, "training": {"epochs": 3, "batch_size": 8}}},
            "grids": {"first": {k: v for k, v in grid.items() if v is not None}},
        }
        (tmp_path / "s.yaml").write_text(yaml.safe_dump(tree, sort_keys=False))
        return tmp_path / "s.yaml"

    return write


def test_cells_are_merged_in_order_and_seeds_come_one_after_another(written):
    path = written(
        preset="small",
        overrides={"training": {"batch_size": 4}},
        arms={**ARMS, "long": {"overrides": {"training": {"epochs": 7}}, "against": ["language"]}},
    )
    grid = load_grids(path)["first"]
    cells = grid_cells("first", grid, path, overrides=["model.dropout=0.3"])
    assert [(cell.arm, cell.seed) for cell in cells] == [
        *(("bare", 0), ("language", 0), ("long", 0)),
        *(("bare", 5), ("language", 5), ("long", 5)),
    ]
    last = cells[-1].settings
    assert (last.model.d_model, last.training.epochs, last.training.batch_size) == (16, 7, 4)
    assert (last.model.dropout, last.run.seed, last.run.name) == (0.3, 5, "first.long.5")
    assert [grid.against(arm) for arm in grid.arms] == [(), ("bare",), ("language",)]


def test_grids_are_no_part_of_the_settings(written):
    path = written()
    assert load_settings(path).training.epochs == 9
    assert load_grids(path)["first"].seeds == (0, 5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sedes": [1]}, "grids.first.sedes: unknown key; did you mean 'seeds'?"),
        (
            {"arms": {"bare": {"overides": {}}}},
            "grids.first.arms.bare.overides: unknown key; did you mean 'overrides'?",
        ),
        ({"control": "nothing"}, "grids.first.control: 'nothing' is not an arm; it may be one of: bare, language"),
        ({"control": None}, "grids.first.control: Field required"),
        ({"arms": {}}, "grids.first.arms: Dictionary should have at least 1 item"),
        ({"seeds": [1, 1]}, "grids.first.seeds: [1, 1] names one twice"),
        ({"seeds": [-1]}, "grids.first.seeds.0: Input should be greater than or equal to 0 (got -1)"),
        (
            {"arms": {"bare": {}, "x": {"against": ["y"]}}},
            "grids.first.arms.x.against: 'y' is not another arm; there are: bare, x",
        ),
        ({"arms": {"bare": {}, "a b": {}}}, "grids.first.arms: 'a b' is no name; use letters, digits"),
        ({"overrides": {"run": {"seed": 1}}}, "grids.first.overrides.run: a grid seeds and names its runs itself"),
        (
            {"arms": {"bare": {"overrides": {"run": {"name": "x"}}}}},
            "grids.first.arms.bare.overrides.run: a grid seeds and names its runs itself",
        ),
        ({"preset": "huge"}, "grids.first.arms.bare: preset 'huge' is not in the file; it has: small"),
        (
            {"arms": {"bare": {}, "x": {"overrides": {"plugin": {"langage": True}}}}},
            "grids.first.arms.x: plugin.langage: unknown key; did you mean 'language'?",
        ),
        (
            {"arms": {"bare": {}, "x": {"overrides": {"plugin": {"substitution": {"p1": 0.5}}}}}},
            "grids.first.arms.x: plugin.substitution.p1: 0.5 needs the language view's predictions",
        ),
        ({"arms": {"bare": {}, "x": {}}}, "grids.first.arms.x: has the same settings as arm 'bare'"),
    ],
)
def test_mistakes_name_key_and_mend(written, changes, message):
    path = written(**changes)
    with pytest.raises(SettingsError) as told:
        grid_cells("first", load_grids(path)["first"], path)
    assert message in str(told.value)


def test_an_override_that_levels_two_arms_is_refused(written):
    path = written()
    with pytest.raises(SettingsError, match="has the same settings as arm 'bare'"):
        grid_cells("first", load_grids(path)["first"], path, overrides=["plugin.language=false"])


@pytest.mark.parametrize("override", ["run.seed=3", "run.name=mine"])
def test_seed_and_name_of_the_runs_are_the_grids(written, override):
    path = written()
    with pytest.raises(SettingsError, match=r"a grid seeds and names its runs itself; choose with --seeds"):
        grid_cells("first", load_grids(path)["first"], path, overrides=[override])


@pytest.mark.parametrize("grids", [["first"], {"first": ["bare"]}])
def test_grids_of_another_shape(tmp_path, grids):
    (tmp_path / "s.yaml").write_text(yaml.safe_dump({"grids": grids}))
    with pytest.raises(SettingsError, match=r"^grids.*expected .*, got list"):
        load_grids(tmp_path / "s.yaml")


def test_the_shipped_grids_expand():
    path = ROOT / "ray_config.yaml"
    for name, grid in load_grids(path).items():
        cells = grid_cells(name, grid, path)
        assert len(cells) == len(grid.arms) * len(grid.seeds)
        assert len(grid.seeds) >= 3
        for cell in cells:
            training = cell.settings.training
            assert training.patience is not None, f"{cell.name}: arms are trained until early stopping"
            assert (training.max_steps, training.max_minutes) == (None, None), f"{cell.name}: cut short"
