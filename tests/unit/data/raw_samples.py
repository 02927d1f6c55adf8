"""Small raw files in every form that a reader knows, all of the same 12 interactions.

Users u1..u3 (numbered 1..3 where a form wants numbers) each have four items; times are out of file order.
"""

import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from genrec.config import DataSettings

EVENTS = [(u, i, 100 * u + 10 * (7 * i % 5) + i, 4.0) for i in (1, 2, 3, 4) for u in (3, 1, 2)]
TITLES = {1: "Élan", 2: "Two", 3: "Three", 4: "Four", 5: "Never used"}


def lines(rows) -> bytes:
    return "".join(f"{row}\n" for row in rows).encode()


def write(path: Path, data: bytes) -> None:
    path.write_bytes(gzip.compress(data, mtime=0) if path.suffix == ".gz" else data)


def ml_100k(folder: Path) -> None:
    head = "user_id:token\titem_id:token\trating:float\ttimestamp:float"
    write(folder / "ml-100k.inter", lines([head, *(f"{u}\t{i}\t{r}\t{t}" for u, i, t, r in EVENTS)]))
    head = "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq"
    write(folder / "ml-100k.item", lines([head, *(f"{i}\t{t}\t1999\tDrama Sci-Fi" for i, t in TITLES.items())]))


def u_data(folder: Path) -> None:
    write(folder / "u.data", lines(f"{u}\t{i}\t{r:.0f}\t{t}" for u, i, t, r in EVENTS))
    flags = "|".join("1" if genre in (8, 15) else "0" for genre in range(19))
    rows = [f"{i}|{t} (1999)|01-Jan-1999||http://x|{flags}" for i, t in TITLES.items()]
    (folder / "u.item").write_bytes("".join(f"{row}\n" for row in rows).encode("latin-1"))


def ml_1m(folder: Path) -> None:
    write(folder / "ratings.dat", lines(f"{u}::{i}::{r:.0f}::{t}" for u, i, t, r in EVENTS))
    rows = [f"{i}::{t} (1999)::Drama|Sci-Fi" for i, t in TITLES.items()]
    (folder / "movies.dat").write_bytes("".join(f"{row}\n" for row in rows).encode("latin-1"))


def reviews(key_user, key_item, key_time, key_rating, unit=1):
    for u, i, t, r in EVENTS:
        record = {key_user: f"u{u}", key_item: f"B{i}", key_rating: r, key_time: t * unit, "text": "x\ny"}
        yield json.dumps(record)


def amazon_2014(folder: Path) -> None:
    write(folder / "reviews_Toys_5.json.gz", lines(reviews("reviewerID", "asin", "unixReviewTime", "overall")))
    rows = [
        repr({"asin": f"B{i}", "title": t, "brand": "O'Hara &amp; Co", "categories": [["Toys", "Cars"]], "imUrl": "u"})
        for i, t in TITLES.items()
    ]
    write(folder / "meta_Toys.json.gz", lines(rows))


def amazon_2018(folder: Path) -> None:
    write(folder / "Toys_5.json", lines(reviews("reviewerID", "asin", "unixReviewTime", "overall")))
    rows = [
        json.dumps(
            {"asin": f"B{i}", "title": t, "brand": "O'Hara &amp; Co", "category": ["Toys", "Cars"], "imageURL": ["u"]}
        )
        for i, t in TITLES.items()
    ]
    write(folder / "meta_Toys.json.gz", lines(rows))


def amazon_2023(folder: Path) -> None:
    write(folder / "Toys.jsonl.gz", lines(reviews("user_id", "parent_asin", "timestamp", "rating", unit=1000)))
    rows = [
        json.dumps(
            {
                "parent_asin": f"B{i}",
                "title": t,
                "store": "O'Hara & Co",
                "categories": ["Toys", "Cars"],
                "images": [{"thumb": "s", "large": "u", "hi_res": None}],
            }
        )
        for i, t in TITLES.items()
    ]
    write(folder / "meta_Toys.jsonl", lines(rows))


def sorted_events():
    return {u: sorted((t, i) for v, i, t, _ in EVENTS if v == u) for u in (1, 2, 3)}


def research_items(folder: Path) -> None:
    rows = [json.dumps({"id": i, "title": t, "brand": None, "categories": [["Toys"]]}) for i, t in TITLES.items()]
    write(folder / "items.jsonl", lines(rows))


def research(folder: Path) -> None:
    own = sorted_events()
    write(folder / "sequences.txt", lines(" ".join(map(str, [u, *(i for _, i in own[u])])) for u in own))
    write(folder / "timestamps.jsonl", lines(json.dumps([u, [t for t, _ in own[u]]]) for u in own))
    research_items(folder)


def research_json(folder: Path) -> None:
    own = {str(u): [i for _, i in rows] for u, rows in sorted_events().items()}
    write(folder / "Toys.inter.json", json.dumps(own).encode())
    research_items(folder)


def table_csv(folder: Path) -> None:
    rows = ["time,user,note,item,rating", *(f'{t},u{u},"a, b",B{i},' for u, i, t, _ in EVENTS)]
    write(folder / "log.csv", lines(rows))
    write(folder / "items.csv", lines(["item,title,categories", *(f"B{i},{t},Toys|Cars" for i, t in TITLES.items())]))


def table_parquet(folder: Path) -> None:
    user, item, time, rating = zip(*EVENTS, strict=True)
    log = pa.table(
        {"user": user, "item": [f"B{i}" for i in item], "time": pa.array(time, pa.timestamp("s")), "rating": rating}
    )
    pq.write_table(log, folder / "log.parquet", row_group_size=5)
    items = pa.table({"item_id": [f"B{i}" for i in TITLES], "title": list(TITLES.values())})
    pq.write_table(items, folder / "items.parquet", row_group_size=2)


FORMS = {
    "ml-100k": ("ml-100k", ml_100k),
    "u.data": ("ml-100k", u_data),
    "ml-1m": ("ml-1m", ml_1m),
    "amazon-2014": ("amazon-2014", amazon_2014),
    "amazon-2018": ("amazon-2018", amazon_2018),
    "amazon-2023": ("amazon-2023", amazon_2023),
    "research": ("research", research),
    "research-json": ("research", research_json),
    "csv": ("table", table_csv),
    "parquet": ("table", table_parquet),
}


def sample(form: str, folder: Path, **settings) -> DataSettings:
    reader, make = FORMS[form]
    folder.mkdir()
    make(folder)
    return DataSettings(
        **{"reader": reader, "path": str(folder), "min_user_interactions": 1, "min_item_interactions": 1, **settings}
    )
