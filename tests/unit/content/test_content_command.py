"""``python -m genrec content``: what is missing is told before anything is loaded."""

from __future__ import annotations

import argparse
import base64
import json
import re

import pytest
from PIL import Image
from rich.console import Console

from genrec.config import Settings
from genrec.content.evaluation_page import write_page
from genrec.content_command import ALL, EVALUATED, NEED_CORPUS, TRAINERS, add_options, run_content
from genrec.errors import SettingsError


@pytest.mark.parametrize(("verb", "part"), sorted(NEED_CORPUS))
def test_a_part_that_needs_a_corpus_says_how_to_build_one(verb, part, tmp_path):
    parser = argparse.ArgumentParser()
    add_options(parser)
    options = parser.parse_args([verb, part, "--out", str(tmp_path / "out")])
    with pytest.raises(SettingsError, match=f"content {verb} {part}: --corpus is missing; build one with"):
        run_content(options, Settings(), Console())
    assert not (tmp_path / "out").exists()
    assert part in (TRAINERS if verb == "train" else (*EVALUATED, ALL))


def test_the_page_holds_what_lies_beside_it_and_its_sheets(tmp_path):
    assert "<h2>Creations" not in write_page(tmp_path).read_text()
    row = {"group": "seen & known", "prompts": 2, "precision_1": 0.5, "precision_5": 1.0, "interval": 0.1,
           "alignment": 0.2, "nearest": None, "drawing_1": 0.75}  # fmt: skip
    told = {"rows": [row], "model": "m", "seed": 0, "seconds_median_best": 0.5}
    (tmp_path / "creator.json").write_text(json.dumps(told))
    Image.new("RGB", (4, 4), "red").save(tmp_path / "creator.png")
    estimate = {"value": 0.25, "low": 0.125, "high": 0.375}
    line = {"method": "Ours", "cosine": estimate, "score": estimate, "over_original": None, "frechet": 1.0,
            "precision": 1.0, "recall": 1.0, "diversity": 1.0, "nearest": 1.0}  # fmt: skip
    (tmp_path / "editor.json").write_text(
        json.dumps({"creations": [line], "restyling": {"gain": estimate, "pairs": 3}})
    )
    page = write_page(tmp_path).read_text()
    assert "seen &amp; known" in page
    assert page.count("0.250 [0.125, 0.375]") == 3
    inlined = re.findall(r'src="data:image/png;base64,([^"]+)"', page)
    assert [base64.b64decode(each) for each in inlined] == [(tmp_path / "creator.png").read_bytes()]
