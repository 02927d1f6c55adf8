"""One history by the compiled library against the same network in torch, and what happens without a compiler."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from genrec.config import ModelSettings
from genrec.decoding import generate
from genrec.models import Batch, Tiger, native
from genrec.models.native import OneMemory
from genrec.tokenizer.sid_table import SidTable

pytestmark = pytest.mark.skipif(native.library() is None, reason="no C compiler here")


@pytest.fixture
def switched(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """An environment in which the library is looked for anew, then and afterwards."""
    native.library.cache_clear()
    yield monkeypatch
    monkeypatch.undo()
    native.library.cache_clear()


def host(table: SidTable, d_model: int, d_head: int, heads: int, d_ff: int) -> Tiger:
    torch.manual_seed(0)
    shape = dict(d_model=d_model, d_head=d_head, heads=heads, d_ff=d_ff, encoder_layers=2, decoder_layers=2)
    return Tiger(ModelSettings(**shape), table).eval()


def logits(model: Tiger, batch: Batch, beams: int) -> torch.Tensor:
    """Of two steps; the cache tells by whom."""
    draw = torch.Generator().manual_seed(1)
    with torch.inference_mode():
        cache = model.start([model.encode(batch)])
        first = model.step(torch.zeros(1, 1, dtype=torch.int64), cache)
        cache.reorder(torch.zeros(1, beams, dtype=torch.int64))
        second = model.step(torch.randint(model.sid_table.vocab_size, (1, beams), generator=draw), cache)
    by_library = isinstance(cache.memory, OneMemory)
    assert by_library == (native.library() is not None)
    return torch.cat([first, second], dim=1)[0]


@pytest.mark.parametrize("beams", [1, 12, 13, 37, 100])
@pytest.mark.parametrize("shape", [(8, 4, 2, 8), (32, 16, 2, 64), (40, 24, 3, 33), (128, 64, 6, 1024)])
@pytest.mark.parametrize("items", [1, 7, 30])
def test_numbers_are_torchs(
    table: SidTable, shape: tuple[int, int, int, int], beams: int, items: int, switched: pytest.MonkeyPatch
):
    model = host(table, *shape)
    batch = Batch(torch.arange(items)[None] % table.n_items)
    found = logits(model, batch, beams)
    switched.setenv(native.SWITCH, "off")
    native.library.cache_clear()
    expected = logits(host(table, *shape), batch, beams)
    scale = float(expected.abs().max())
    torch.testing.assert_close(found / scale, expected / scale, rtol=0, atol=2e-6)


def test_lists_are_torchs(table: SidTable, switched: pytest.MonkeyPatch):
    batch = Batch(torch.tensor([[1, 4, 2, 5]]))
    exclude = torch.tensor([[1, 4]])
    found = generate(host(table, 32, 16, 2, 64), batch, 6, beams=8, exclude_BS=exclude)
    switched.setenv(native.SWITCH, "off")
    native.library.cache_clear()
    expected = generate(host(table, 32, 16, 2, 64), batch, 6, beams=8, exclude_BS=exclude)
    assert found.items_BK.tolist() == expected.items_BK.tolist()
    torch.testing.assert_close(found.scores_BK, expected.scores_BK, rtol=1e-5, atol=1e-5)


def test_threads_share_a_network(table: SidTable):
    model = host(table, 32, 16, 2, 64)
    batches = [Batch(torch.arange(begin, begin + 5)[None] % table.n_items) for begin in range(4)]
    expected = [generate(model, batch, 6, beams=8).scores_BK for batch in batches]
    wrong: list[int] = []

    def decode(number: int) -> None:
        for _ in range(50):
            if not torch.equal(generate(model, batches[number], 6, beams=8).scores_BK, expected[number]):
                wrong.append(number)

    threads = [threading.Thread(target=decode, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_compiled_once(tmp_path: Path, switched: pytest.MonkeyPatch):
    switched.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert native.library() is not None
    (made,) = (tmp_path / "genrec").iterdir()
    written = made.stat().st_mtime_ns
    native.library.cache_clear()
    assert native.library() is not None
    assert [each.stat().st_mtime_ns for each in (tmp_path / "genrec").iterdir()] == [written]


@pytest.mark.parametrize("compiler", ["false", "/no/such/compiler"])
def test_torch_decodes_where_nothing_can_be_compiled(
    compiler: str, table: SidTable, tmp_path: Path, switched: pytest.MonkeyPatch
):
    switched.setenv("CC", compiler)
    switched.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert native.library() is None
    ranked = generate(host(table, 8, 4, 2, 8), Batch(torch.tensor([[1, 2]])), 3, beams=5)
    assert (ranked.items_BK >= 0).all()


def test_a_folder_that_cannot_be_written_is_no_error(table: SidTable, tmp_path: Path, switched: pytest.MonkeyPatch):
    (tmp_path / "file").write_text("not a folder")
    switched.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert native.library() is None
