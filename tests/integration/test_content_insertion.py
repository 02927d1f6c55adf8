"""A made item in the bundle that all stages make: placed by the frozen codebook, recommended, gone when retired."""

from __future__ import annotations

import numpy as np
import pytest
from content_samples import draft_of, drawing, passing_report
from serving import pipeline_bundle

from genrec.content.library import Library
from genrec.recommender import Recommender, RecommendRequest

pytestmark = pytest.mark.integration


def test_the_frozen_codebook_places_an_asset_as_tokenize_places_a_new_item(tmp_path):
    path, _ = pipeline_bundle(tmp_path)
    recommender = Recommender.load(path)
    bundle = recommender.bundle
    placement = recommender.placement
    assert placement.tokenizer is not None
    library = Library(tmp_path / "library")
    draft = draft_of(drawing(1), title="Desert Crime Part 5", prompt="a desert crime")
    asset = library.admit(draft, passing_report(library.log, draft))
    state = recommender.with_assets(library)
    wanted = placement.tokenizer.quantizer.encode(placement.encoder.encode([asset.text]))[0]
    got = np.asarray(state.item(asset.asset_id)["semantic_id"])
    assert (got[: len(wanted)] == wanted).all()  # the collision level leaves the codes as they are wanted
    nearest = int(placement.nearest([asset.text])[0])
    assert "Desert Crime" in bundle.catalog.titles[nearest]
    request = RecommendRequest("u1", None, recommender.n_items)
    assert asset.asset_id in {entry.item_id for entry in state.recommend_batch([request])[0]}
    library.retire(asset.asset_id, "disliked")
    gone = recommender.with_assets(library).recommend_batch([request])[0]
    assert asset.asset_id not in {entry.item_id for entry in gone}
