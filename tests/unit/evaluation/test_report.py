"""The results table and the self-contained report."""

from __future__ import annotations

import io
import re
from html.parser import HTMLParser
from xml.etree import ElementTree

import numpy as np
import pytest
from rich.console import Console

from genrec.config import ItemKNNSettings, Settings
from genrec.data.interactions import Interactions
from genrec.errors import ArtifactError
from genrec.evaluation.metrics import MetricRow, evaluate_frames, paired_difference, read_metrics, write_metrics
from genrec.evaluation.plots import codebook_use
from genrec.evaluation.rank import rank_dense
from genrec.evaluation.report import write_report
from genrec.evaluation.tables import cells, results_table
from genrec.models.item_knn import ItemKNN
from genrec.models.popularity import Popularity
from genrec.tokenizer.sid_table import SidTable

SETTINGS = Settings()
CURVES = {"tiger": [{"step": 1, "loss": 5.0}, {"step": 2, "loss": 4.0}, {"step": 2, "validation/ndcg@10": 0.1}]}


@pytest.fixture(scope="module")
def data() -> Interactions:
    rng = np.random.default_rng(0)
    lengths = rng.integers(5, 15, size=60).astype(np.int32)
    head = np.zeros(40, dtype=bool)
    head[:8] = True
    return Interactions(
        items=np.minimum(rng.geometric(0.08, size=lengths.sum()) - 1, 39).astype(np.int32),
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        train_end=lengths - 2,
        valid_at=lengths - 2,
        test_at=lengths - 1,
        n_items=40,
        head_items=head,
    )


@pytest.fixture(scope="module")
def frames(data):
    scorers = {"popularity": Popularity.fit(data), "item-kNN <b>[x]": ItemKNN.fit(data, ItemKNNSettings())}
    return {
        name: [rank_dense(scorer, data, "test", SETTINGS.evaluation, max_history=20, model=name)]
        for name, scorer in scorers.items()
    }


@pytest.fixture(scope="module")
def rows(frames) -> list[MetricRow]:
    return [row for runs in frames.values() for row in evaluate_frames(runs, "tiny", SETTINGS.evaluation)]


class Page(HTMLParser):
    """What a browser would fetch, and whether every element is closed."""

    def __init__(self):
        super().__init__()
        self.open, self.fetched, self.ids, self.text = [], [], [], []

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        if tag not in ("meta", "br"):
            self.open.append(tag)
        self.fetched += [attrs[key] for key in ("src", "href", "xlink:href") if key in attrs]
        self.ids += [attrs["id"]] if "id" in attrs else []

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in ("meta", "br"):
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def test_report_is_one_page_that_fetches_nothing(tmp_path, data, frames, rows):
    difference = paired_difference(*reversed(list(frames.values())), "hit@10", "all", SETTINGS.evaluation)
    codes = np.stack(np.unravel_index(np.arange(40), (8, 8)), axis=1).astype(np.int32)
    write_report(
        tmp_path / "report.html",
        rows=rows,
        frames=frames,
        interactions=data,
        settings=SETTINGS,
        sid_table=SidTable(codes, (8, 8)),
        curves=CURVES,
        differences=[("item-kNN <b>[x]", "popularity", difference)],
        commands=["python -m genrec run --set data.min_user_interactions=5 && echo '<done>'"],
    )
    page = Page()
    html = (tmp_path / "report.html").read_text()
    page.feed(html)
    assert page.open == []
    assert [target for target in page.fetched if not target.startswith(("#", "data:"))] == []
    assert not re.search(r"url\((?!#)", html)
    assert len(page.ids) == len(set(page.ids))
    assert html.count("<svg") == 4
    text = " ".join(page.text)
    value = next(r.value for r in rows if (r.model, r.segment, r.metric) == ("item-kNN <b>[x]", "all", "hit@10"))
    for shown in (f"{value:.4f}", "item-kNN <b>[x]", "'<done>'", "N@10", "training prefixes", f"{difference.p:.3f}"):
        assert shown in text


def test_report_of_a_model_without_ids_and_curves(tmp_path, data, frames, rows):
    write_report(tmp_path / "report.html", rows=rows, frames=frames, interactions=data, settings=SETTINGS)
    assert (tmp_path / "report.html").read_text().count("<svg") == 2


def test_plots_are_xml_in_the_ink_of_the_page():
    codes = np.array([[0, 0], [0, 1], [1, 0]], dtype=np.int32)
    svg = codebook_use(SidTable(codes, (4, 2), collision_level=True))
    root = ElementTree.fromstring(svg)
    words = " ".join(element.text or "" for element in root.iter("{http://www.w3.org/2000/svg}text"))
    assert "level 1: 2 of 4 used" in words
    assert "collisions: 2 of 2 used" in words
    assert "perplexity 2" in words  # exp of the entropy of (2/3, 1/3) is 1.89
    assert "currentColor" in svg
    assert svg == codebook_use(SidTable(codes, (4, 2), collision_level=True))


def test_table_marks_the_best_of_each_column_and_leaves_gaps():
    def row(model, segment, value):
        return MetricRow(model, "d", segment, "hit@10", value, value - 0.01, value + 0.01, [])

    columns, lines = cells([row("a", "all", 0.2), row("b", "all", 0.3), row("a", "tail", 0.0)], ["hit@10"])
    assert columns == [("all", "hit@10"), ("tail", "hit@10")]
    assert [cell.best for cell in lines["a"]] == [False, False]
    assert lines["b"][0].best
    assert lines["b"][1] is None
    assert lines["b"][0].interval == "[0.2900, 0.3100]"


def test_terminal_table_shows_values_and_intervals(rows):
    stream = io.StringIO()
    Console(file=stream, width=100).print(results_table(rows))
    shown = stream.getvalue()
    for row in rows:
        if row.metric in ("hit@10", "ndcg@10") and row.segment in ("all", "head", "tail"):
            assert f"{row.value:.4f}" in shown
        if row.metric == "ndcg@10" and row.segment == "all":
            assert f"{row.low:.4f}–{row.high:.4f}".replace("0.", ".") in shown
    assert "item-kNN <b>[x]" in shown


def test_metrics_come_back_from_disk(tmp_path, rows):
    write_metrics(tmp_path / "metrics.json", rows)
    loaded = read_metrics(tmp_path / "metrics.json")
    assert [(r.model, r.segment, r.metric, r.value, r.low, r.high, r.seeds) for r in loaded] == [
        (r.model, r.segment, r.metric, r.value, r.low, r.high, r.seeds) for r in rows
    ]
    for text in ("", "[1]", '[{"model": "a"}]'):
        (tmp_path / "broken.json").write_text(text)
        with pytest.raises(ArtifactError, match=r"broken\.json"):
            read_metrics(tmp_path / "broken.json")
