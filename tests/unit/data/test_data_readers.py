"""Every reader on the same twelve interactions, in one piece and in many."""

import importlib.util
import sys

import pytest

from genrec.data.load import load_catalog, load_interactions
from genrec.data.prepare import prepare, raw_files
from genrec.data.readers import base, open_reader, table, text
from genrec.data.readers.base import item_text
from tests.unit.data import raw_samples as raw


@pytest.fixture(params=list(raw.FORMS))
def form(request):
    return request.param


def prepared(settings, out):
    out.mkdir()
    metrics = prepare(settings, out, use_ray=False)
    return metrics, load_interactions(out), load_catalog(out)


def test_same_events_from_every_form(form, tmp_path):
    metrics, interactions, catalog = prepared(raw.sample(form, tmp_path / "raw"), tmp_path / "out")
    assert (metrics["users"], metrics["items"], metrics["interactions"]) == (3, 4, 12)
    for index, user_id in enumerate(interactions.user_ids):
        number = int(user_id.removeprefix("u"))
        own = raw.sorted_events()[number]
        found = [catalog.item_ids[item].removeprefix("B") for item in interactions.sequence(index)]
        assert found == [str(item) for _, item in own]
        if interactions.times is not None:
            begin = interactions.offsets[index]
            assert interactions.times[begin : begin + 4].tolist() == [time for time, _ in own]
    assert (interactions.times is None) == (form == "research-json")
    year = " (1999)" if form in ("ml-100k", "u.data", "ml-1m") else ""
    assert catalog.titles == [raw.TITLES[int(i.removeprefix("B"))] + year for i in catalog.item_ids]
    assert all(text.startswith(title) for text, title in zip(catalog.texts, catalog.titles, strict=True))


@pytest.mark.parametrize("form", ["amazon-2014", "amazon-2018", "amazon-2023"])
def test_amazon_metadata(form, tmp_path):
    _, _, catalog = prepared(raw.sample(form, tmp_path / "raw"), tmp_path / "out")
    assert set(catalog.brands) == {"O'Hara & Co"}
    assert catalog.categories == [["Toys", "Cars"]] * 4
    assert catalog.image_urls == ["u"] * 4
    assert catalog.texts[0] == "Élan. Brand: O'Hara & Co. Categories: Toys, Cars"


@pytest.mark.parametrize("form", ["u.data", "ml-100k", "ml-1m"])
def test_movielens_forms_agree_on_genres(form, tmp_path):
    _, _, catalog = prepared(raw.sample(form, tmp_path / "raw"), tmp_path / "out")
    assert catalog.categories == [["Drama", "Sci-Fi"]] * 4
    assert catalog.item_ids == ["1", "2", "3", "4"]


def test_pieces_and_chunks_change_nothing(form, tmp_path, monkeypatch):
    settings = raw.sample(form, tmp_path / "raw")
    prepared(settings, tmp_path / "whole")
    monkeypatch.setattr(text, "PIECE_BYTES", 37)
    monkeypatch.setattr(text, "CHUNK_BYTES", 11)
    monkeypatch.setattr(table, "BATCH_ROWS", 2)
    monkeypatch.setattr(table, "GROUPS_A_PIECE_ROWS", 4)
    if form not in ("amazon-2014", "amazon-2023", "research", "research-json"):  # those are read as one
        assert len(open_reader(settings).interaction_pieces()) > 1
    prepared(settings, tmp_path / "pieces")
    for file in (tmp_path / "whole").iterdir():
        assert file.read_bytes() == (tmp_path / "pieces" / file.name).read_bytes()


@pytest.mark.parametrize("size", range(1, 30))
def test_each_line_belongs_to_one_piece(size, tmp_path, monkeypatch):
    monkeypatch.setattr(text, "PIECE_BYTES", size)
    monkeypatch.setattr(text, "CHUNK_BYTES", 4)
    path = tmp_path / "lines.txt"
    content = [f"{'x' * (n % 7)}{n}" for n in range(40)]
    path.write_text("\n".join(content))
    found = []
    for piece in text.text_pieces(path):
        for first, data in text.line_chunks(piece):
            for offset, line in enumerate(data.decode().rstrip("\n").split("\n")):
                assert text.locate(piece, first + offset) == f"{path}:{len(found) + 1}"
                found.append(line)
    assert found == content


def test_windows_line_ends_are_read(tmp_path):
    settings = raw.sample("csv", tmp_path / "raw")
    for path in (tmp_path / "raw").iterdir():
        path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    metrics, _, catalog = prepared(settings, tmp_path / "out")
    assert metrics["interactions"] == 12
    assert catalog.categories[0] == ["Toys", "Cars"]


def test_research_order_and_repetitions_are_kept(tmp_path):
    settings = raw.sample("research", tmp_path / "raw")
    (tmp_path / "raw" / "sequences.txt").write_text("2 4 1 1 2\n1 3 1\n")
    (tmp_path / "raw" / "timestamps.jsonl").write_text("[2, [9, 9, 9, 5]]\n")
    _, interactions, catalog = prepared(settings, tmp_path / "out")
    assert list(interactions.user_ids) == ["1", "2"]
    assert [catalog.item_ids[i] for i in interactions.sequence(1)] == ["4", "1", "1", "2"]
    assert interactions.times is None  # user 1 has none


def test_other_amazon_items_and_missing_metadata(tmp_path):
    settings = raw.sample("amazon-2018", tmp_path / "raw")
    meta = tmp_path / "raw" / "meta_Toys.json.gz"
    meta.unlink()
    raw.write(meta, raw.lines(['{"asin": "B1", "title": "", "description": ["a", "b"]}', '{"asin": "ZZ"}']))
    metrics, _, catalog = prepared(settings, tmp_path / "out")
    assert metrics["items_without_metadata"] == 3
    assert catalog.titles == catalog.item_ids
    assert catalog.texts[catalog.index["B1"]] == "B1. a b"


def test_repeated_2018_metadata_is_one_if_identical(tmp_path):
    settings = raw.sample("amazon-2018", tmp_path / "raw")
    meta = tmp_path / "raw" / "meta_Toys.json.gz"
    plain = text.gzip.decompress(meta.read_bytes())
    raw.write(meta, plain + plain)
    metrics, _, _ = prepared(settings, tmp_path / "out")
    assert metrics["items"] == 4


def test_packaged_ml_100k_is_found_without_importing(tmp_path):
    if importlib.util.find_spec("recbole") is None:
        pytest.skip("the recbole wheel is not installed")
    from genrec.config import DataSettings

    files = raw_files(DataSettings())
    assert [path.name for path in files] == ["ml-100k.inter", "ml-100k.item"]
    assert "recbole" not in sys.modules


def test_item_text_is_cut_and_joined():
    words = [f"w{n}" for n in range(200)]
    joined = item_text("T.", "B", ["c", "d"], " ".join(words))
    assert joined == "T. Brand: B. Categories: c, d. " + " ".join(words[: base.DESCRIPTION_WORDS])
