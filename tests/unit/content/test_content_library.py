"""The library: nothing without a passed report gets in, what is in survives, what is retired stays out."""

from __future__ import annotations

import io
import multiprocessing
import os
import signal
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from content_samples import draft_of, drawing, passing_report
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from serving import assembled_bundle
from sqlalchemy.exc import OperationalError

from genrec.config.content import LibrarySettings
from genrec.content.contracts import FidelityReport, Verdict
from genrec.content.fidelity import CHECKS, ReportLog, bytes_digest, draft_digest
from genrec.content.fidelity.redteam_pictures import jpeg
from genrec.content.library import (
    Asset,
    Library,
    NotPassedError,
    Placement,
    Reactions,
    UnknownAssetError,
    asset_id_of,
    explore,
    to_prove,
    to_retire,
    upper_like_rate,
)
from genrec.decoding import score
from genrec.errors import ArtifactError
from genrec.finding import NO_FILTER, Filter
from genrec.models.contracts import Batch
from genrec.recommender import Recommender, RecommendRequest, Trial

DIGEST = "ab" * 32


def asset_with(report: FidelityReport, draft: str = DIGEST) -> Asset:
    return Asset(
        asset_id=asset_id_of(draft), draft=draft, sha256="0" * 64, media_type="image/png", action="create",
        medium="image", title="t", text="t", model="m", source_item=None, created=0.0, report=report, entry="e",
    )  # fmt: skip


@settings(max_examples=60)
@given(
    verdicts=st.lists(st.tuples(st.sampled_from([*CHECKS, "taste"]), st.booleans()), max_size=8),
    own=st.booleans(),
)
def test_only_a_whole_passed_report_of_the_draft_makes_an_asset(verdicts, own):
    told = tuple(Verdict(check=name, passed=passed, score=0.0, evidence="") for name, passed in verdicts)
    report = FidelityReport(draft=DIGEST if own else "cd" * 32, policy="p", verdicts=told, time=0.0)
    names = [name for name, _ in verdicts]
    whole = own and all(names.count(check) == 1 for check in CHECKS) and all(passed for _, passed in verdicts)
    if whole:
        assert asset_with(report).report.passed
    else:
        with pytest.raises(NotPassedError):
            asset_with(report)


def test_a_whole_passed_report_makes_an_asset_and_one_refusal_does_not():
    verdicts = [Verdict(check=name, passed=True, score=0.0, evidence="") for name in CHECKS]
    report = FidelityReport(draft=DIGEST, policy="p", verdicts=tuple(verdicts), time=0.0)
    assert asset_with(report).asset_id == f"asset:{DIGEST[:20]}"
    verdicts[2] = verdicts[2].model_copy(update={"passed": False})
    with pytest.raises(NotPassedError, match=CHECKS[2]):
        asset_with(report.model_copy(update={"verdicts": tuple(verdicts)}))
    with pytest.raises(NotPassedError, match="another draft"):
        asset_with(report, draft="cd" * 32)


@pytest.fixture
def library(tmp_path):
    library = Library(tmp_path / "library")
    yield library
    library.close()


def admitted(library: Library, seed: int = 1, title: str = "A sea voyage", **more: object) -> Asset:
    draft = draft_of(drawing(seed), title=title, prompt=f"{title} {seed}")
    return library.admit(draft, passing_report(library.log, draft), **more)


def test_what_is_admitted_is_read_back_verified_and_again_after_a_restart(library):
    asset = admitted(library, source_item="x")
    content = library.read(asset.asset_id)
    assert bytes_digest(content) == asset.sha256
    assert content.startswith(b"\x89PNG")
    again = Library(library.directory)
    assert again.assets() == [asset]
    assert again.get(asset.asset_id).source_item == "x"
    assert again.read(asset.asset_id) == content
    assert again.verify() == 1


def test_a_report_that_was_never_logged_or_is_of_another_draft_admits_nothing(library):
    draft = draft_of(drawing(1))
    forged = FidelityReport(
        draft=draft_digest(draft),
        policy="p",
        verdicts=tuple(Verdict(check=name, passed=True, score=0.0, evidence="") for name in CHECKS),
        time=1.0,
    )
    with pytest.raises(NotPassedError, match="log of reports"):
        library.admit(draft, forged)
    with pytest.raises(NotPassedError, match="another draft"):
        library.admit(draft_of(drawing(2)), passing_report(library.log, draft))
    assert library.assets() == []
    assert list((library.directory / "files").rglob("*")) == []


def test_the_same_draft_is_one_asset(library):
    assert admitted(library) == admitted(library)
    assert len(library.assets()) == 1


def test_altered_and_missing_files_are_never_served(library):
    one, other = admitted(library, 1), admitted(library, 2)
    path = library.directory / "files" / one.sha256[:2] / one.sha256
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    (library.directory / "files" / other.sha256[:2] / other.sha256).unlink()
    with pytest.raises(ArtifactError, match="altered"):
        library.read(one.asset_id)
    with pytest.raises(ArtifactError, match="gone"):
        library.read(other.asset_id)


def test_retired_is_for_ever(library):
    asset = admitted(library)
    library.retire(asset.asset_id, "disliked")
    library.retire(asset.asset_id, "another reason")
    assert library.retired() == {asset.asset_id: "disliked"}
    assert library.assets() == []
    for ask in (library.get, library.read):
        with pytest.raises(UnknownAssetError):
            ask(asset.asset_id)
    with pytest.raises(NotPassedError, match="retired"):
        admitted(library)
    with pytest.raises(UnknownAssetError):
        library.retire("asset:nothing", "x")
    assert Library(library.directory).assets() == []


def test_a_picture_met_elsewhere_is_traced_to_its_asset(library):
    asset = admitted(library)
    with Image.open(io.BytesIO(library.read(asset.asset_id))) as shown:
        met = jpeg(shown.resize((200, 200)))
    assert library.traced(met) == asset.asset_id
    assert library.traced(drawing(40)) is None


def test_a_log_that_was_cut_off_is_found_by_the_library(library):
    admitted(library, 1)
    admitted(library, 2)
    lines = library.log.path.read_bytes().splitlines(keepends=True)
    library.log.path.write_bytes(lines[0])
    with pytest.raises(ArtifactError, match="cut off"):
        library.verify()


def _admit_for_ever(directory: Path) -> None:
    library, seed = Library(directory), 0
    while True:
        admitted(library, seed)
        seed += 1


def test_kill_9_in_the_midst_of_admissions_leaves_whole_assets(tmp_path):
    directory = tmp_path / "library"
    worker = multiprocessing.get_context("fork").Process(target=_admit_for_ever, args=(directory,))
    worker.start()
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            if len(Library(directory).assets()) >= 3:
                break
        except OperationalError:  # it is being made
            time.sleep(0.01)
    os.kill(worker.pid, signal.SIGKILL)
    worker.join()
    library = Library(directory)
    before = library.verify()
    assert before >= 3
    assert admitted(library, 999).asset_id in {asset.asset_id for asset in library.assets()}
    assert library.verify() == before + 1


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return assembled_bundle(tmp_path_factory.mktemp("plain"), neighbours=True)


@pytest.fixture(scope="module")
def plain(bundle):
    return Recommender.load(bundle)


def request(user="u1", k=10, **more):
    return RecommendRequest(user_id=user, history=None, k=k, **more)


def test_an_asset_is_recommended_at_once_and_the_old_state_goes_on(plain, library):
    before = plain.recommend_batch([request(k=60)])[0]
    asset = admitted(library)
    state = plain.with_assets(library)
    listed = state.recommend_batch([request(k=61)])[0]
    entry = next(entry for entry in listed if entry.item_id == asset.asset_id)
    assert (entry.source, entry.title) == ("created", "A sea voyage")
    assert FidelityReport.model_validate(entry.fidelity) == asset.report
    assert [e.source for e in listed].count("created") == 1
    assert state.n_items == plain.n_items + 1
    assert state.sid_version != plain.sid_version
    assert plain.recommend_batch([request(k=60)])[0] == before


def test_ids_of_the_catalog_never_change_and_probabilities_sum_to_one(plain, library):
    for seed in range(3):
        admitted(library, seed, f"A robot comedy part {seed}")
    state = plain.with_assets(library)
    n = plain.n_items
    assert (state.bundle.sid_table.codes_NL[:n] == plain.bundle.sid_table.codes_NL).all()
    batch = Batch(torch.tensor([[0, 4, n + 1]]))
    with torch.no_grad():
        total = score(state.backbone, batch, torch.arange(n + 3)[None]).exp().sum()
    assert float(total) == pytest.approx(1.0, abs=1e-4)


def test_the_same_semantic_id_after_a_restart(bundle, plain, library):
    asset = admitted(library)
    told = plain.with_assets(library).item(asset.asset_id)
    again = Recommender.load(bundle).with_assets(Library(library.directory))
    assert again.item(asset.asset_id) == told
    assert again.recommend_batch([request(k=61)]) == plain.with_assets(library).recommend_batch([request(k=61)])


def test_a_history_may_hold_assets(plain, library):
    asset = admitted(library)
    state = plain.with_assets(library)
    only = RecommendRequest(None, (asset.asset_id,), 5)
    recent = request(recent=(asset.asset_id,))
    for entries in state.recommend_batch([only, recent]):
        assert entries
        assert asset.asset_id not in {entry.item_id for entry in entries}
    item = state.recommend_batch([only])[0][0].item_id
    assert state.explain(only, item)[1].score < 0
    assert state.explain(request(), asset.asset_id)[1].shares == {"generator": 1.0}


def test_retired_assets_are_in_no_list_and_their_id_is_given_to_nobody(plain, library):
    asset = admitted(library)
    old = plain.with_assets(library).item(asset.asset_id)["semantic_id"]
    library.retire(asset.asset_id, "disliked")
    newer = admitted(library, 2)  # the same words: it would like the same ID
    state = plain.with_assets(library)
    assert asset.asset_id not in state.bundle.catalog.index
    listed = state.recommend_batch([request(k=61, recent=(asset.asset_id,))])[0]
    assert asset.asset_id not in {entry.item_id for entry in listed}
    assert asset.asset_id not in {entry.item_id for entry in state.made_entries(request())}
    assert state.item(newer.asset_id)["semantic_id"] != old


def test_made_entries_agree_with_the_list(plain, library):
    assets = [admitted(library, seed) for seed in range(3)]
    state = plain.with_assets(library)
    made = state.made_entries(request())
    assert {entry.item_id for entry in made} == {asset.asset_id for asset in assets}
    assert [entry.score for entry in made] == sorted((entry.score for entry in made), reverse=True)
    assert plain.made_entries(request()) == []


def test_on_trial_an_asset_is_tried_and_not_ranked_until_it_is_proved(plain, library):
    asset = admitted(library)
    state = plain.with_assets(library)
    policy = LibrarySettings(explore_share=0.5, explore_position=3)

    def listed(trial, where=NO_FILTER, state=state):
        asked = request(k=60, trial=trial, where=where)
        return state.tried(asked, state.recommend_batch([asked])[0], policy)

    def place(entries):
        return next((place for place, entry in enumerate(entries) if entry.item_id == asset.asset_id), None)

    lists = [listed(Trial(str(draw))) for draw in range(20)]
    assert {place(entries) for entries in lists} == {None, 2}
    tried = next(entries for entries in lists if place(entries) == 2)
    assert (tried[2].evidence["on_trial"], tried[2].evidence["propensity"]) == (True, 0.5)
    assert "propensity" not in tried[1].evidence
    assert tried[2].score == state.made_entries(request())[0].score
    own = [listed(Trial(str(draw), own=(asset.asset_id,))) for draw in range(5)]
    assert {place(entries) for entries in own} == {2}
    assert all("propensity" not in entry.evidence for entry in own[0])
    assert place(listed(Trial("x"), Filter(items=(asset.asset_id,)))) == 0  # asked for by name
    assert plain.tried(request(k=5, trial=Trial("x")), own[0][:5], policy) == own[0][:5]
    library.prove([asset.asset_id])
    proved = plain.with_assets(library)
    asked = request(k=60)
    assert listed(Trial("x"), state=proved) == proved.recommend_batch([asked])[0]


def test_an_edit_of_ones_own_picture_is_shown_to_nobody_else(plain, library):
    draft = replace(draft_of(drawing(5), title="My dog as a watercolor", prompt="a dog"), action="edit")
    asset = library.admit(draft, passing_report(library.log, draft))
    library.prove([asset.asset_id])
    state = plain.with_assets(library)
    assert asset.personal
    policy = LibrarySettings(explore_share=1.0)
    for who, own in (("u1", (asset.asset_id,)), ("u2", ())):
        asked = request(who, k=60, trial=Trial("x", own))
        found = {entry.item_id for entry in state.tried(asked, state.recommend_batch([asked])[0], policy)}
        assert (asset.asset_id in found) == bool(own)
        named = replace(asked, where=Filter(items=(asset.asset_id, "item é'1")))
        found = {entry.item_id for entry in state.recommend_batch([named])[0]}
        assert (asset.asset_id in found) == bool(own)


def test_every_change_of_what_may_be_shown_gives_another_revision(library):
    seen = [library.revision()]
    asset = admitted(library)
    seen.append(library.revision())
    library.prove([asset.asset_id])
    library.prove([asset.asset_id])
    seen.append(library.revision())
    assert library.proved() == {asset.asset_id}
    library.retire(asset.asset_id, "disliked")
    seen.append(library.revision())
    assert len(set(seen)) == 4
    assert Library(library.directory).revision() == seen[-1]


def test_an_asset_borrows_the_vectors_of_its_nearest_items(plain):
    bundle = plain.bundle
    fallback = plain.placement
    vectors = np.full((plain.n_items, 4), np.nan, dtype=np.float32)
    genre = np.asarray([title.split(" Part")[0] for title in bundle.catalog.titles])
    for place, name in enumerate(sorted(set(genre))):
        vectors[genre == name] = np.eye(4, dtype=np.float32)[place]
    vectors[::7] = np.nan  # nobody took these

    class Frozen:
        settings = type("Settings", (), {"embeddings": "collaborative"})()

    placement = Placement(fallback.table, fallback.encoder, fallback.text_NE, Frozen(), vectors, 5)
    rows = placement._space(fallback.encoder.encode(["Winter Romance Part 3"]))
    assert rows[0].argmax() == sorted(set(genre)).index("Winter Romance")


LISTED = ["a", "b", "c", "d", "e"]


def entries(names):
    from genrec.recommendation import Recommendation

    return [Recommendation(item_id=name, title=name, score=-float(i)) for i, name in enumerate(names)]


def test_exploration_keeps_its_budget_and_logs_true_propensities():
    policy = LibrarySettings(explore_share=0.2, explore_position=3)

    def explored(candidates, draw, own=None):
        return explore(entries(LISTED), candidates, draw, policy, lambda name: entries([name])[0], own)

    shown = [explored(["asset:1", "asset:2"], f"list {i}") for i in range(4000)]
    tried = [one for one in shown if one.tried]
    assert 0.17 < len(tried) / len(shown) < 0.23
    for one in shown:
        names = [entry.item_id for entry in one.entries]
        assert len(names) == len(LISTED)
        assert names[:2] == LISTED[:2]
        assert (names[2] == one.tried) if one.tried else (names == LISTED)
    first = [one for one in tried if one.tried == "asset:1"]
    assert len(first) / len(shown) == pytest.approx(first[0].propensities[2], abs=0.02)
    assert sum(p for p in (first[0].propensities[2] * 2, 0.8)) == pytest.approx(1.0)
    assert explored(["asset:1", "asset:2"], "list 7") == shown[7]
    assert explored([], "x").propensities == (1.0,) * 5
    assert explored(["a"], "x").tried is None
    for draw in range(20):  # who had it made sees it in any case
        own = explored(["asset:1"], str(draw), own="asset:9")
        assert (own.tried, own.entries[2].item_id, own.propensities) == ("asset:9", "asset:9", (1.0,) * 5)


def test_poor_feedback_retires_and_little_feedback_does_not():
    policy = LibrarySettings(retire_impressions=100, retire_floor=0.05)
    counts = {
        "asset:bad": Reactions(400, 2),
        "asset:new": Reactions(99, 0),
        "asset:good": Reactions(400, 40),
        "asset:unsure": Reactions(100, 3),
        "asset:reported": Reactions(400, 40, reports=1),
    }
    assert list(to_retire(counts, policy)) == ["asset:bad", "asset:reported"]
    assert to_prove(counts, policy) == ["asset:good"]
    # Clopper and Pearson's bound: with it or fewer likes are as rare as one minus the confidence.
    from scipy.stats import binom

    assert binom.cdf(3, 100, upper_like_rate(100, 3, 0.95)) == pytest.approx(0.05, abs=1e-6)
    assert upper_like_rate(5, 5, 0.95) == 1.0


def test_the_log_finds_what_was_changed(tmp_path):
    log = ReportLog(tmp_path / "reports.jsonl")
    drafts = [draft_of(drawing(seed)) for seed in range(3)]
    reports = [passing_report(log, draft) for draft in drafts]
    assert log.verify() == 3
    assert [report for _, report, _ in log.entries()] == reports
    lines = log.path.read_bytes().splitlines(keepends=True)
    for altered in (
        lines[0] + lines[2],
        lines[1] + lines[0] + lines[2],
        lines[0] + lines[1].replace(b"true", b"null", 1) + lines[2],
        lines[1] + lines[2],
    ):
        log.path.write_bytes(altered)
        with pytest.raises(ArtifactError, match="altered"):
            log.verify()
    log.path.write_bytes(b"".join(lines) + lines[0][:40])  # killed while it wrote
    assert log.verify() == 3
    passing_report(log, drafts[0])
    assert log.verify() == 4
