"""Several tables in one vocabulary: token ranges, versions, files."""

import json

import numpy as np
import pytest

from genrec.errors import ArtifactError, VersionMismatchError
from genrec.tokenizer.joint import TABLES, JointTable, load_tables, members_of
from genrec.tokenizer.sid_table import SidTable


def table(name: str, sizes: tuple[int, ...], n_items: int = 10, seed: int = 0) -> SidTable:
    every = np.stack(np.meshgrid(*(np.arange(size) for size in sizes), indexing="ij"), axis=-1).reshape(-1, len(sizes))
    return SidTable(np.random.default_rng(seed).permutation(every)[:n_items].astype(np.int32), sizes, name=name)


@pytest.fixture
def joint() -> JointTable:
    return JointTable.of(table("text", (4, 5)), [table("image", (3, 2, 2), seed=1), table("audio", (6, 6), seed=2)])


def test_tokens_of_the_tables_follow_one_another(joint):
    first, image, audio = joint.members
    assert first is joint
    assert np.array_equal(joint.tokens_NL, joint.first.tokens_NL), "the first table's tokens are what they are alone"
    assert image.level_offsets.tolist() == [10, 13, 15]
    assert audio.level_offsets.tolist() == [17, 23]
    assert {member.vocab_size for member in joint.members} == {1 + 9 + 7 + 12}
    assert audio.tokens_NL.max() < joint.vocab_size
    for member, alone in zip(joint.members[1:], joint.further, strict=True):
        assert np.array_equal(member.codes_NL, alone.codes_NL)
        assert member.version == alone.version


def test_the_version_covers_every_table_and_their_order(joint):
    image, audio = joint.further
    versions = {
        joint.version,
        joint.first.version,
        JointTable.of(joint.first, [audio, image]).version,
        JointTable.of(joint.first, [image]).version,
        JointTable.of(joint.first, [table("image", (3, 2, 2), seed=9), audio]).version,
    }
    assert len(versions) == 5


def test_files_make_the_round_trip(joint, tmp_path):
    joint.save(tmp_path)
    loaded = load_tables(tmp_path)
    assert isinstance(loaded, JointTable)
    assert loaded.version == joint.version
    assert [member.name for member in members_of(loaded)] == ["text", "image", "audio"]
    assert SidTable.load(tmp_path).version == joint.version, "a catalog speaks all its tables"
    assert SidTable.load(tmp_path, "text").version == joint.first.version
    assert SidTable.load(tmp_path, "text").vocab_size == 10


def test_one_table_alone_is_itself(tmp_path):
    alone = table("text", (4, 5))
    alone.save(tmp_path)
    assert type(load_tables(tmp_path)) is SidTable
    assert load_tables(tmp_path).version == alone.version


def test_tables_that_do_not_belong_together_are_refused(joint, tmp_path):
    with pytest.raises(ArtifactError, match="'image' holds 9 items"):
        JointTable.of(joint.first, [table("image", (3, 3), 9)])
    with pytest.raises(ArtifactError, match="one name"):
        JointTable.of(joint.first, [table("text", (4, 5), seed=3)])
    with pytest.raises(ArtifactError, match="each of the joint tables"):
        joint.extended(np.array([[0, 0]]))
    joint.save(tmp_path)
    table("image", (3, 2, 2), seed=9).save(tmp_path)
    with pytest.raises(VersionMismatchError, match="joins semantic IDs"):
        load_tables(tmp_path)
    (tmp_path / TABLES).write_text(json.dumps({"tables": []}))
    with pytest.raises(ArtifactError, match="not a list of tables"):
        load_tables(tmp_path)
    (tmp_path / TABLES).write_text(json.dumps({"tables": ["text", "smell"], "version": "x"}))
    with pytest.raises(ArtifactError, match="smell"):
        load_tables(tmp_path)
