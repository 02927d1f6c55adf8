"""The recommender: equals offline generate, and says what is wrong with a request."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from genrec.bundle import load_bundle
from genrec.decoding import generate
from genrec.models.contracts import Batch
from genrec.recommender import Recommender, RecommendRequest, RequestError, UnknownItemError, UnknownUserError
from tests.serving import ITEMS, USERS, assembled_bundle


@pytest.fixture(scope="module")
def recommender(tmp_path_factory) -> Recommender:
    return Recommender(load_bundle(assembled_bundle(tmp_path_factory.mktemp("bundle"))), batch_size=16)


def known(user: int, k: int = 10, **more: tuple[str, ...]) -> RecommendRequest:
    return RecommendRequest(f"u{user}", None, k, **more)


def test_lists_equal_offline_generate_one_by_one(recommender):
    """Batched answers against one plain ``generate`` per user, for 200 users."""
    users = [f"u{user}" for user in range(200)]
    answers = recommender.recommend_batch([RecommendRequest(user, None, 10) for user in users])
    backbone, catalog = recommender.bundle.backbone(), recommender.bundle.catalog
    for user, answer in zip(users, answers, strict=True):
        history = recommender.history_of(user)
        ranked = generate(
            backbone,
            Batch(torch.tensor(history[-20:][None].astype(np.int64))),
            10,
            beams=20,
            exclude_BS=torch.tensor(np.unique(history)[None].astype(np.int64)),
        )
        assert [item.item_id for item in answer] == [catalog.item_ids[i] for i in ranked.items_BK[0]]
        assert [item.score for item in answer] == pytest.approx(ranked.scores_BK[0].tolist(), abs=1e-4)


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Recommender:
    """A recommender whose bundle has neighbours."""
    return Recommender(load_bundle(assembled_bundle(tmp_path_factory.mktemp("whole"), neighbours=True)), batch_size=16)


def test_with_neighbours_lists_equal_the_offline_ones_one_by_one(whole):
    users = [f"u{user}" for user in range(200)]
    answers = whole.recommend_batch([RecommendRequest(user, None, 10) for user in users])
    bundle = whole.bundle
    backbone = bundle.backbone()
    augmented = bundle.augmented(backbone)
    for user, answer in zip(users, answers, strict=True):
        history = whole.history_of(user)
        batch = Batch(
            torch.tensor(history[-20:][None].astype(np.int64)),
            users_B=torch.tensor([bundle.interactions.user_ids.index(user)]),
        )
        seen = torch.tensor(np.unique(history)[None].astype(np.int64))
        ranked = augmented.generate(backbone, batch, 10, beams=20, exclude_BS=seen)
        assert [item.item_id for item in answer] == [bundle.catalog.item_ids[i] for i in ranked.items_BK[0]]
        assert [item.score for item in answer] == pytest.approx(ranked.scores_BK[0].tolist(), abs=1e-4)
        assert {item.evidence["strongest_source"] for item in answer} <= set(augmented.parts)


def test_what_nobody_took_together_is_told_by_its_text(whole):
    """Reasons are counts where there are any, and else the likest items of the history by their texts."""
    counts, texts = (whole.augmented.retriever.scorers[name].weights_NN for name in ("item-knn", "content-knn"))
    index = {item: place for place, item in enumerate(whole.bundle.catalog.item_ids)}
    told = {"counted": 0, "read": 0}
    for request in [known(user, 60) for user in range(40)]:
        history = whole.history_of(request.user_id)[-20:]
        for entry in whole.recommend_batch([request])[0]:
            item, reason = index[entry.item_id], entry.evidence["reason"]
            because = {index[each["item_id"]] for each in entry.evidence["because"]}
            counted, alike = ({int(seen) for seen in history if matrix[seen, item] > 0} for matrix in (counts, texts))
            assert because <= (counted or alike)
            assert bool(because) == bool(counted or alike)
            if because:
                assert reason.startswith("Often taken" if counted else "Like ")
                told["counted" if counted else "read"] += 1
    assert min(told.values()) > 10


def test_with_neighbours_a_history_sent_in_a_known_users_name_equals_the_known_one(whole):
    ids = whole.bundle.catalog.item_ids
    sent = tuple(ids[i] for i in whole.history_of("u3"))
    (a,), (b,) = (whole.recommend_batch([r]) for r in (known(3), RecommendRequest("u3", sent, 10)))
    assert a == b


def test_with_neighbours_batch_mates_change_nothing(whole):
    requests = [known(1, 3), known(2, 30), known(5, 60), RecommendRequest(None, known_items(whole, 40), 7)]
    for request, answer in zip(requests, whole.recommend_batch(requests), strict=True):
        (alone,) = whole.recommend_batch([request])
        assert [item.item_id for item in alone] == [item.item_id for item in answer]


def test_a_history_sent_along_equals_the_known_one(recommender):
    ids = recommender.bundle.catalog.item_ids
    sent = tuple(ids[i] for i in recommender.history_of("u3"))
    (a,), (b,) = (recommender.recommend_batch([r]) for r in (known(3), RecommendRequest(None, sent, 10)))
    assert a == b


def test_indices_and_user_ids_give_the_same(recommender):
    by_index = recommender.recommend([recommender.history_of("u3"), recommender.history_of("u4")], 5)
    assert by_index == recommender.recommend(["u3", "u4"], 5)
    assert by_index == recommender.recommend_batch([known(3, 5), known(4, 5)])


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_invariants_of_any_request(recommender, data):
    ids = recommender.bundle.catalog.item_ids
    history = tuple(data.draw(st.lists(st.sampled_from(ids), min_size=1, max_size=45)))
    exclude = tuple(data.draw(st.lists(st.sampled_from(ids), max_size=30)))
    k = data.draw(st.integers(1, ITEMS))
    (answer,) = recommender.recommend_batch([RecommendRequest(None, history, k, exclude)])
    listed = [item.item_id for item in answer]
    assert len(listed) == len(set(listed)) == min(k, ITEMS - len({*history, *exclude}))
    assert not {*history, *exclude} & set(listed)
    assert [item.score for item in answer] == sorted((item.score for item in answer), reverse=True)


def test_batch_mates_change_nothing(recommender):
    requests = [known(1, 3), known(2, 30), known(5, 60), RecommendRequest(None, known_items(recommender, 40), 7)]
    together = recommender.recommend_batch(requests)
    for request, answer in zip(requests, together, strict=True):
        (alone,) = recommender.recommend_batch([request])
        assert [item.item_id for item in alone] == [item.item_id for item in answer]


def known_items(recommender: Recommender, count: int) -> tuple[str, ...]:
    return tuple(recommender.bundle.catalog.item_ids[:count])


def test_entries_carry_title_and_semantic_id(recommender):
    ((entry, *_),) = recommender.recommend_batch([known(0)])
    described = recommender.item(entry.item_id)
    assert entry.title == described["title"]
    assert entry.evidence["semantic_id"] == described["semantic_id"]
    assert entry.source == "generated-id"


def test_versions_and_sizes(recommender):
    assert recommender.version == recommender.bundle.version
    assert recommender.sid_version == recommender.bundle.sid_table.version
    assert recommender.n_items == recommender.max_k == ITEMS


def test_nothing_asked_nothing_answered(recommender):
    assert recommender.recommend_batch([]) == []


@pytest.mark.parametrize(
    ("item_request", "error", "message"),
    [
        (RecommendRequest("nobody", None, 5), UnknownUserError, f"user_id: 'nobody' is not among the {USERS} known"),
        (RecommendRequest(None, ("x",), 5), UnknownItemError, "history: item 'x' is not in the catalog of 60"),
        (RecommendRequest("u1", None, 5, ("y",)), UnknownItemError, "exclude: item 'y' is not in the catalog"),
        (RecommendRequest(None, (), 5), RequestError, "history: it is empty"),
        (RecommendRequest(None, None, 5), RequestError, "user_id, history: both are missing"),
        (RecommendRequest("u1", None, 0), RequestError, "k: 0 is out of range; ask for 1 to 60"),
        (RecommendRequest("u1", None, 61), RequestError, "k: 61 is out of range"),
    ],
)
def test_mistakes_name_field_value_and_mend(recommender, item_request, error, message):
    for call in (lambda: recommender.check(item_request), lambda: recommender.recommend_batch([item_request])):
        with pytest.raises(error, match=message):
            call()


def test_indices_out_of_range_are_refused(recommender):
    for index in (-1, ITEMS):
        with pytest.raises(UnknownItemError, match="item indices go from 0 to 59"):
            recommender.recommend([np.array([index])], 5)
    with pytest.raises(UnknownItemError, match="item_id: item 'z'"):
        recommender.item("z")
