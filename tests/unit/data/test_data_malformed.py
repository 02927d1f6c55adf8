"""Broken raw files: an error with file and line, and nothing written."""

import gzip

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from genrec.data.prepare import prepare, raw_files
from genrec.data.readers import text
from genrec.errors import DataError
from tests.unit.data import raw_samples as raw

INTERACTIONS = {
    "ml-100k": "ml-100k.inter",
    "u.data": "u.data",
    "ml-1m": "ratings.dat",
    "amazon-2014": "reviews_Toys_5.json.gz",
    "amazon-2018": "Toys_5.json",
    "amazon-2023": "Toys.jsonl.gz",
    "research": "sequences.txt",
    "research-json": "Toys.inter.json",
    "csv": "log.csv",
    "parquet": "log.parquet",
}
METADATA = {
    "ml-100k": "ml-100k.item",
    "u.data": "u.item",
    "ml-1m": "movies.dat",
    "amazon-2014": "meta_Toys.json.gz",
    "amazon-2018": "meta_Toys.json.gz",
    "amazon-2023": "meta_Toys.jsonl",
    "research": "items.jsonl",
    "csv": "items.csv",
}
LATIN = ("u.data", "ml-1m")


def refused(settings, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    with pytest.raises(DataError) as caught:
        prepare(settings, out, use_ray=False)
    assert list(out.iterdir()) == []
    return str(caught.value)


def edit(path, change):
    data = path.read_bytes()
    data = gzip.decompress(data) if path.suffix == ".gz" else data
    raw.write(path, change(data))


def replace_line(number, new):
    def change(data):
        lines = data.split(b"\n")
        lines[number - 1] = new(lines[number - 1]) if callable(new) else new
        return b"\n".join(lines)

    return change


def break_line(form, name, number, new, tmp_path):
    settings = raw.sample(form, tmp_path / "raw")
    path = tmp_path / "raw" / name
    edit(path, replace_line(number, new))
    message = refused(settings, tmp_path)
    assert message.startswith(f"{path}:{number}: "), message
    return message


@pytest.mark.parametrize("form", [form for form in INTERACTIONS if form not in ("research-json", "parquet")])
@pytest.mark.parametrize("small", [False, True])
def test_wrong_columns_or_bad_json_line(form, small, tmp_path, monkeypatch):
    if small:  # the broken line is then in a later chunk and piece
        monkeypatch.setattr(text, "PIECE_BYTES", 40)
        monkeypatch.setattr(text, "CHUNK_BYTES", 16)
    break_line(form, INTERACTIONS[form], 3, b'{"reviewerID": "u1', tmp_path)


@pytest.mark.parametrize("form", METADATA)
def test_wrong_metadata_line(form, tmp_path):
    break_line(form, METADATA[form], 4, b'{"asin": ', tmp_path)


@pytest.mark.parametrize(("form", "name"), [*INTERACTIONS.items(), *METADATA.items()])
def test_empty_file(form, name, tmp_path):
    settings = raw.sample(form, tmp_path / "raw")
    path = tmp_path / "raw" / name
    path.write_bytes(b"")
    assert refused(settings, tmp_path).startswith(f"{path}:")


@pytest.mark.parametrize("form", ["amazon-2014", "amazon-2023"])
def test_gzip_without_a_line(form, tmp_path):
    settings = raw.sample(form, tmp_path / "raw")
    path = tmp_path / "raw" / INTERACTIONS[form]
    edit(path, lambda data: b"")
    assert refused(settings, tmp_path).startswith(f"{path}:1: ")


@pytest.mark.parametrize(
    ("form", "name"),
    [(f, n) for names in (INTERACTIONS, METADATA) for f, n in names.items() if f not in LATIN and "parquet" not in n],
)
def test_not_utf8(form, name, tmp_path):
    if name in ("u.item", "movies.dat"):
        pytest.skip("a Latin-1 file: every byte is a character")
    settings = raw.sample(form, tmp_path / "raw")
    path = tmp_path / "raw" / name
    edit(path, lambda data: data[:-3] + b"\xff" + data[-3:])
    message = refused(settings, tmp_path)
    lines = (gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()).rstrip(b"\n")
    assert message.startswith(f"{path}:{lines.count(bytes([10])) + 1}: "), message
    assert "utf-8" in message.lower()


@pytest.mark.parametrize("form", ["amazon-2014", "amazon-2018", "amazon-2023"])
@pytest.mark.parametrize("cut", [1, 12, 40])
def test_truncated_gzip(form, cut, tmp_path):
    settings = raw.sample(form, tmp_path / "raw")
    name = next(n for n in (INTERACTIONS[form], METADATA[form]) if n.endswith(".gz"))
    path = tmp_path / "raw" / name
    path.write_bytes(path.read_bytes()[:-cut])
    message = refused(settings, tmp_path)
    assert message.startswith(f"{path}:")
    assert message.removeprefix(f"{path}:").partition(":")[0].isdigit()
    assert "gzip" in message


def test_truncated_gzip_names_the_line(tmp_path):
    settings = raw.sample("amazon-2014", tmp_path / "raw")
    path = tmp_path / "raw" / "reviews_Toys_5.json.gz"
    whole = gzip.decompress(path.read_bytes())
    # Two gzip members of whole lines, the second without its end.
    lines = whole.split(b"\n")
    first, second = b"\n".join(lines[:5]) + b"\n", b"\n".join(lines[5:])
    path.write_bytes(gzip.compress(first) + gzip.compress(second)[:14])
    assert refused(settings, tmp_path).startswith(f"{path}:6: ")


def test_file_named_gz_that_is_none(tmp_path):
    settings = raw.sample("amazon-2023", tmp_path / "raw")
    path = tmp_path / "raw" / "Toys.jsonl.gz"
    path.write_bytes(gzip.decompress(path.read_bytes()))
    assert refused(settings, tmp_path).startswith(f"{path}:1: the gzip data is damaged")


@pytest.mark.parametrize("form", METADATA)
def test_duplicate_metadata(form, tmp_path):
    settings = raw.sample(form, tmp_path / "raw")
    path = tmp_path / "raw" / METADATA[form]
    header = 1 if form in ("ml-100k", "csv") else 0
    edit(path, lambda data: data + data.split(b"\n")[header + 1].replace(b"Two", b"Zwei") + b"\n")
    message = refused(settings, tmp_path)
    assert message.startswith(f"{path}:{header + 6}: "), message
    assert f"{path}:{header + 2};" in message


def test_duplicate_metadata_of_an_item_that_nobody_used(tmp_path):
    settings = raw.sample("research", tmp_path / "raw")
    path = tmp_path / "raw" / "items.jsonl"
    edit(path, lambda data: data + data.split(b"\n")[4] + b"\n")
    assert refused(settings, tmp_path).startswith(f"{path}:6: item '5' was already described at {path}:5")


@pytest.mark.parametrize(
    ("form", "old", "new", "word"),
    [
        ("ml-100k", b"\t4.0\t", b"\tnan\t", "rating"),
        ("u.data", b"\t4\t", b"\tNaN\t", "rating"),
        ("ml-1m", b"::4::", b"::good::", "rating"),
        ("amazon-2014", b'"overall": 4.0', b'"overall": NaN', "overall"),
        ("amazon-2018", b'"overall": 4.0', b'"overall": Infinity', "overall"),
        ("amazon-2023", b'"rating": 4.0', b'"rating": "4"', "rating"),
        ("csv", b'",B2,', b'",B2,nan', "rating"),
        ("amazon-2014", b'"unixReviewTime": ', b'"unixReviewTime": 0.', "unixReviewTime"),
        ("amazon-2018", b'"unixReviewTime": ', b'"unixReview": ', "unixReviewTime"),
        ("amazon-2023", b'"timestamp": ', b'"timestamp": true, "x": ', "timestamp"),
        ("amazon-2018", b'"reviewerID": "u', b'"reviewerID": null, "x": "u', "reviewerID"),
        ("ml-100k", b"\t4.0\t", b"\t4.0\t1.5e", "time"),
        ("u.data", b"\t4\t", b"\t4\tyesterday", "time"),
        ("ml-1m", b"::4::", b"::4::0.", "time"),
        ("csv", b",u", b"0.5,u", "time"),
        ("csv", b",u1,", b",,", "user id is missing"),
        ("research", b" ", b" x", "numbers"),
        ("research", b" ", b"  ", "numbers"),
    ],
)
def test_bad_value(form, old, new, word, tmp_path):
    number = 2 if form == "research" else 6
    message = break_line(form, INTERACTIONS[form], number, lambda line: _replaced(line, old, new), tmp_path)
    assert word in message


def _replaced(line, old, new):
    if old == b",u1,":
        line = line.replace(b",u3,", old).replace(b",u2,", old)
    assert old in line, line
    return line.replace(old, new, 1)


@pytest.mark.parametrize("form", ["csv", "ml-100k"])
def test_missing_column(form, tmp_path):
    message = break_line(
        form, INTERACTIONS[form], 1, lambda h: h.replace(b"time", b"when").replace(b"stamp", b"x"), tmp_path
    )
    assert "time" in message


def test_columns_come_from_the_settings(tmp_path):
    message = refused(raw.sample("parquet", tmp_path / "raw", user_column="customer"), tmp_path)
    assert "data.user_column" in message
    assert "'customer'" in message


@pytest.mark.parametrize(
    ("column", "values", "word"),
    [
        ("time", pa.array([1.0, 2.0, 2.5]), "row 3: time 2.5"),
        ("time", pa.array([1, None, 3]), "row 2: time is missing"),
        ("time", pa.array(["1", "2", "x"]), "row 3: time 'x'"),
        ("time", pa.array([True, False, True]), "bool"),
        ("rating", pa.array([1.0, float("nan"), None]), "row 2: rating nan"),
        ("user", pa.array(["a", "", "b"]), "row 2: user id is missing"),
        ("item", pa.array([1.5, 2.0, 3.0]), "item ids are double"),
    ],
)
def test_bad_parquet_value(column, values, word, tmp_path, monkeypatch):
    from genrec.data.readers import table

    monkeypatch.setattr(table, "BATCH_ROWS", 1)
    monkeypatch.setattr(table, "GROUPS_A_PIECE_ROWS", 1)
    settings = raw.sample("parquet", tmp_path / "raw")
    columns = {"user": pa.array(["a", "b", "c"]), "item": pa.array([1, 2, 3]), "time": pa.array([1, 2, 3])}
    path = tmp_path / "raw" / "log.parquet"
    pq.write_table(pa.table({**columns, column: values}), path, row_group_size=1)
    message = refused(settings, tmp_path)
    assert message.startswith(f"{path}: row ")
    assert word in message


def test_parquet_strings_that_are_no_utf8(tmp_path):
    settings = raw.sample("parquet", tmp_path / "raw")
    bad = pa.Array.from_buffers(pa.string(), 1, [None, pa.py_buffer(b"\0\0\0\0\1\0\0\0"), pa.py_buffer(b"\xff")])
    path = tmp_path / "raw" / "log.parquet"
    pq.write_table(pa.table({"user": bad, "item": ["x"], "time": [1]}), path)
    assert str(path) in refused(settings, tmp_path)


@pytest.mark.parametrize("change", [lambda data: data[: len(data) // 2], lambda data: data[:-6] + b"\xff" * 6])
def test_damaged_parquet(change, tmp_path):
    settings = raw.sample("parquet", tmp_path / "raw")
    path = tmp_path / "raw" / "log.parquet"
    edit(path, change)
    assert refused(settings, tmp_path).startswith(f"{path}: not a readable Parquet file")


def test_flipped_parquet_bytes_never_leave_half_a_result(tmp_path):
    # Plain Parquet has no checksums: a flip is refused by name or makes a whole, if other, result.
    settings = raw.sample("parquet", tmp_path / "raw")
    path = tmp_path / "raw" / "log.parquet"
    whole = path.read_bytes()
    refusals = 0
    for at in range(0, len(whole), 23):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :])
        out = tmp_path / str(at)
        out.mkdir()
        try:
            prepare(settings, out, use_ray=False)
        except DataError:
            refusals += 1
        assert len(list(out.iterdir())) in (0, 3)
    assert refusals > 10


def test_research_contradictions(tmp_path):
    settings = raw.sample("research", tmp_path / "raw")
    path = tmp_path / "raw" / "sequences.txt"
    path.write_text("1 2 3\n2 3 4 1 2\n")
    assert refused(settings, tmp_path).startswith(f"{path}:1: user 1 has 2 items but 4 times")
    (tmp_path / "raw" / "timestamps.jsonl").unlink()
    (tmp_path / "out").rmdir()
    path.write_text("1 2 3\n2 3 4 1 2\n1 4\n")
    assert refused(settings, tmp_path).startswith(f"{path}:3: user 1 has a second sequence")


def test_research_json_contradictions(tmp_path):
    settings = raw.sample("research-json", tmp_path / "raw")
    path = tmp_path / "raw" / "Toys.inter.json"
    for number, content in enumerate(('{"1": [1], "1": [2]}', '{"1": 5}', "[]", '{"1": [1],\n "2": [', '{"1": [1.5]}')):
        path.write_text(content)
        other = tmp_path / str(number)
        other.mkdir()
        assert refused(settings, other).startswith(f"{path}:{1 + content.count(chr(10))}: ")


def test_metadata_literals_run_no_code(tmp_path):
    settings = raw.sample("amazon-2014", tmp_path / "raw")
    mark = tmp_path / "mark"
    row = f"{{'asin': open({str(mark)!r}, 'w').name}}".encode()
    edit(tmp_path / "raw" / "meta_Toys.json.gz", replace_line(2, row))
    assert "meta_Toys.json.gz:2: " in refused(settings, tmp_path)
    assert not mark.exists()


@pytest.mark.parametrize("form", raw.FORMS)
def test_absent_files(form, tmp_path):
    settings = raw.sample(form, tmp_path / "raw")
    for path in (tmp_path / "raw").iterdir():
        path.unlink()
    with pytest.raises(DataError, match="raw"):
        raw_files(settings)
    (tmp_path / "raw").rmdir()
    with pytest.raises(DataError, match="raw"):
        raw_files(settings)


def test_nothing_left_names_the_settings(tmp_path):
    settings = raw.sample("csv", tmp_path / "raw", min_user_interactions=50)
    assert "data.min_user_interactions (50)" in refused(settings, tmp_path)
