"""What may be shown. An asset cannot be built without the report of a review that every check passed."""

from __future__ import annotations

from dataclasses import dataclass

from genrec.content.contracts import FidelityReport, Medium
from genrec.content.fidelity.build import CHECKS
from genrec.errors import GenrecError

PREFIX = "asset:"
"""Begins the item id of every asset, so that none can be taken for an item of the catalog."""


class NotPassedError(GenrecError):
    """A draft without a passed report of its own was to become an asset."""


def require_passed(report: FidelityReport, draft: str) -> None:
    """Raise NotPassedError unless ``report`` is of the draft with that digest and every check passed in it."""
    if report.draft != draft:
        raise NotPassedError("report: it is of another draft; review this one")
    names = [verdict.check for verdict in report.verdicts]
    missing = [check for check in CHECKS if names.count(check) != 1]
    if missing:
        raise NotPassedError(f"report: not exactly one verdict of {', '.join(missing)}; review the draft again")
    refused = [verdict.check for verdict in report.verdicts if not verdict.passed]
    if refused or not report.passed:
        raise NotPassedError(f"report: the checks {', '.join(refused)} refused the draft; it is never shown")


@dataclass(frozen=True)
class Asset:
    """A made item that passed.

    Attributes:
        asset_id: ``asset:`` and the first digits of the draft's digest; its item id.
        draft: digest of the draft that was reviewed.
        sha256: of the file.
        media_type: image/png or video/mp4.
        action: edit or create.
        medium: image, video or card.
        title: to show.
        text: what the text encoder reads of it: title and prompt.
        model: what made it.
        source_item: raw id of the catalog's item that it was edited from; None for a creation.
        created: Unix seconds.
        report: of the review.
        entry: hash of the report's line in the log.
        owner: who asked for it; None: nobody that is known.

    Raises:
        NotPassedError: the report is not of this draft, or did not pass.
    """

    asset_id: str
    draft: str
    sha256: str
    media_type: str
    action: str
    medium: Medium
    title: str
    text: str
    model: str
    source_item: str | None
    created: float
    report: FidelityReport
    entry: str
    owner: str | None = None

    def __post_init__(self) -> None:
        require_passed(self.report, self.draft)
        if self.asset_id != asset_id_of(self.draft):
            raise NotPassedError("asset_id: it does not belong to the draft")

    @property
    def source(self) -> str:
        """What a recommendation of it says where it comes from."""
        return "edited" if self.action == "edit" else "created"

    @property
    def personal(self) -> bool:
        """True if it was made of a picture that its maker sent: nobody else is shown it unasked."""
        return self.action == "edit" and self.source_item is None


def is_asset(item_id: str) -> bool:
    """True for an id of the library of made items."""
    return item_id.startswith(PREFIX)


def asset_id_of(draft: str) -> str:
    """Id of the asset that the draft with that digest becomes."""
    return f"{PREFIX}{draft[:20]}"
