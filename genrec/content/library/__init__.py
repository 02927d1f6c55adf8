"""Made items that passed: kept, placed among the catalog's, tried out, retired."""

from genrec.content.library.asset import Asset, NotPassedError, asset_id_of, is_asset
from genrec.content.library.exploration import (
    Explored,
    Reactions,
    explore,
    to_prove,
    to_retire,
    upper_like_rate,
)
from genrec.content.library.insertion import Inserted, insert, placed_assets
from genrec.content.library.placement import Placement
from genrec.content.library.store import Library, UnknownAssetError

__all__ = [
    "Asset",
    "Explored",
    "Inserted",
    "Library",
    "NotPassedError",
    "Placement",
    "Reactions",
    "UnknownAssetError",
    "asset_id_of",
    "explore",
    "insert",
    "is_asset",
    "placed_assets",
    "to_prove",
    "to_retire",
    "upper_like_rate",
]
