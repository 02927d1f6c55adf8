"""The library: files and facts of made items that passed; whoever shows one asks here.

Files are named by content hash and written by rename; a row is committed after its file, so that a kill at any moment
leaves a whole asset or none. What is read is verified against its hash. Retiring is for ever: the same draft cannot
be admitted again. The hash of each asset's line in the log of reports is kept, which finds a log that was cut off.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import sqlalchemy as sa
from PIL import Image

from genrec.config.content import FidelitySettings
from genrec.content.contracts import Draft, FidelityReport
from genrec.content.digests import bytes_digest, draft_digest
from genrec.content.fidelity import marking, watermark
from genrec.content.fidelity.context import ReviewContext
from genrec.content.fidelity.gate import KEYS, REPORTS
from genrec.content.fidelity.identifiability import Identifiability
from genrec.content.fidelity.keys import locked, signing_keys
from genrec.content.fidelity.log import ReportLog
from genrec.content.library.asset import Asset, NotPassedError, asset_id_of, require_passed
from genrec.errors import ArtifactError, GenrecError

DATABASE, FILES = "library.sqlite", "files"

_METADATA = sa.MetaData()
_ASSETS = sa.Table(
    "assets",
    _METADATA,
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("asset_id", sa.String, unique=True, nullable=False),
    sa.Column("draft", sa.String, nullable=False),
    sa.Column("sha256", sa.String, nullable=False),
    sa.Column("media_type", sa.String, nullable=False),
    sa.Column("action", sa.String, nullable=False),
    sa.Column("medium", sa.String, nullable=False),
    sa.Column("title", sa.String, nullable=False),
    sa.Column("text", sa.String, nullable=False),
    sa.Column("model", sa.String, nullable=False),
    sa.Column("source_item", sa.String),
    sa.Column("created", sa.Float, nullable=False),
    sa.Column("report", sa.String, nullable=False),
    sa.Column("entry", sa.String, nullable=False),
    sa.Column("owner", sa.String),
    sa.Column("retired", sa.String),
)
_PLACES = sa.Table(
    "places",
    _METADATA,
    sa.Column("asset_id", sa.String, nullable=False),
    sa.Column("sid_version", sa.String, nullable=False),
    sa.Column("codes", sa.String, nullable=False),
    sa.Column("stand_in", sa.Integer, nullable=False),
    sa.PrimaryKeyConstraint("asset_id", "sid_version"),
)
_PROVED = sa.Table("proved", _METADATA, sa.Column("asset_id", sa.String, primary_key=True))


class UnknownAssetError(GenrecError):
    """The library has no such asset, or it is retired."""


class Library:
    """Assets below one directory; several processes may use it at once.

    Args:
        directory: of the database, the files, the log of reports and the keys (the gate's directory).
        settings: keys to sign with.
    """

    def __init__(self, directory: Path, settings: FidelitySettings | None = None) -> None:
        self.directory = Path(directory)
        self.settings = FidelitySettings() if settings is None else settings
        (self.directory / FILES).mkdir(parents=True, exist_ok=True)
        self.log = ReportLog(self.directory / REPORTS)
        self._engine = sa.create_engine(f"sqlite:///{self.directory / DATABASE}", connect_args={"timeout": 30})
        sa.event.listen(self._engine, "connect", _durable)
        with locked(self.directory), self._engine.begin() as connection:  # another process may be beginning, too
            for table in _METADATA.sorted_tables:
                connection.execute(sa.schema.CreateTable(table, if_not_exists=True))
        self._lock = threading.Lock()

    def admit(
        self,
        draft: Draft,
        report: FidelityReport,
        context: ReviewContext | None = None,
        *,
        source_item: str | None = None,
    ) -> Asset:
        """Mark, sign and keep a draft that passed.

        Args:
            draft: the very draft that was reviewed.
            report: of that review, as the gate logged it.
            context: of that review: ingredients for the manifest, and who asked.
            source_item: raw id of the item that ``draft.source_item`` is.

        Raises:
            NotPassedError: the report is not of this draft, did not pass, is not in the log, or its asset was retired.
        """
        context = ReviewContext() if context is None else context
        digest = draft_digest(draft)
        require_passed(report, digest)
        entry = self.log.find(report)
        if entry is None:
            raise NotPassedError("report: it is not in the log of reports; only what the gate reviewed is admitted")
        keys, media_type = signing_keys(self.settings, self.directory / KEYS), marking.media_type_of(draft)
        content = marking.sign_and_mark(draft, keys, context.ingredients)
        verdict = Identifiability(keys).of_file(content, media_type, digest, marking.payload_of(draft))
        if not verdict.passed:
            raise NotPassedError(f"the signed file cannot be identified: {verdict.evidence}")
        asset = Asset(
            asset_id=asset_id_of(digest),
            draft=digest,
            sha256=bytes_digest(content),
            media_type=media_type,
            action=draft.action,
            medium=draft.medium,
            title=draft.title,
            text=f"{draft.title}. {draft.prompt}",
            model=draft.model,
            source_item=source_item,
            created=time.time(),
            report=report,
            entry=entry,
            owner=context.user,
        )
        with self._lock, self._engine.begin() as connection:
            known = connection.execute(sa.select(_ASSETS).where(_ASSETS.c.asset_id == asset.asset_id)).first()
            if known is not None and known.retired is not None:
                raise NotPassedError(f"{asset.asset_id}: it was retired ({known.retired}) and is never shown again")
            if known is not None:
                return _asset(known)
            self._write(asset.sha256, content)
            names = {column.name for column in _ASSETS.columns} - {"number", "report", "retired"}
            row = {name: getattr(asset, name) for name in names}
            connection.execute(_ASSETS.insert().values(**row, report=report.model_dump_json()))
        return asset

    def _write(self, sha256: str, content: bytes) -> None:
        path = self._path(sha256)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
        with partial.open("wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(partial, path)
        handle = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)

    def _path(self, sha256: str) -> Path:
        return self.directory / FILES / sha256[:2] / sha256

    def assets(self) -> list[Asset]:
        """Those that may be shown, in the order of their admission.

        Raises:
            NotPassedError, ArtifactError: a row was altered.
        """
        with self._engine.connect() as connection:
            rows = connection.execute(
                sa.select(_ASSETS).where(_ASSETS.c.retired.is_(None)).order_by(_ASSETS.c.number)
            ).all()
        return [_asset(row) for row in rows]

    def get(self, asset_id: str) -> Asset:
        """One that may be shown.

        Raises:
            UnknownAssetError: none of that id, or retired.
        """
        with self._engine.connect() as connection:
            row = connection.execute(sa.select(_ASSETS).where(_ASSETS.c.asset_id == asset_id)).first()
        if row is None or row.retired is not None:
            raise UnknownAssetError(f"asset_id: {asset_id!r} is not in the library, or was retired")
        return _asset(row)

    def read(self, asset_id: str) -> bytes:
        """The file of one that may be shown, verified.

        Raises:
            UnknownAssetError: none of that id, or retired.
            ArtifactError: its file is gone or altered.
        """
        asset = self.get(asset_id)
        try:
            content = self._path(asset.sha256).read_bytes()
        except OSError as error:
            raise ArtifactError(f"{asset_id}: its file is gone ({type(error).__name__}); retire it") from error
        if bytes_digest(content) != asset.sha256:
            raise ArtifactError(f"{asset_id}: its file was altered; retire it")
        return content

    def traced(self, picture: Image.Image) -> str | None:
        """Id of the asset whose watermark a picture carries, retired or not; None: it carries none of ours."""
        seen = watermark.read(picture)
        if not seen.found:
            return None
        with self._engine.connect() as connection:
            starts = _ASSETS.c.draft.startswith(f"{seen.payload:08x}")
            return connection.execute(sa.select(_ASSETS.c.asset_id).where(starts)).scalar()

    def retire(self, asset_id: str, reason: str) -> None:
        """Never show it again.

        Args:
            asset_id: of an asset, retired or not.
            reason: kept with it; the first one stays.

        Raises:
            UnknownAssetError: none of that id.
        """
        at = _ASSETS.c.asset_id == asset_id
        with self._lock, self._engine.begin() as connection:
            if connection.execute(sa.select(_ASSETS.c.number).where(at)).first() is None:
                raise UnknownAssetError(f"asset_id: {asset_id!r} is not in the library")
            connection.execute(_ASSETS.update().where(at, _ASSETS.c.retired.is_(None)).values(retired=reason))

    def retired(self) -> Mapping[str, str]:
        """Why each retired asset was."""
        with self._engine.connect() as connection:
            rows = connection.execute(
                sa.select(_ASSETS.c.asset_id, _ASSETS.c.retired).where(_ASSETS.c.retired.is_not(None))
            ).all()
        return {row.asset_id: row.retired for row in rows}

    def prove(self, asset_ids: Sequence[str]) -> None:
        """End the trial of assets that people like: they are ranked like any item from now on."""
        if not asset_ids:
            return
        with self._lock, self._engine.begin() as connection:
            rows = [{"asset_id": asset_id} for asset_id in asset_ids]
            connection.execute(_PROVED.insert().prefix_with("OR IGNORE"), rows)

    def proved(self) -> frozenset[str]:
        """Ids of the assets whose trial is over."""
        with self._engine.connect() as connection:
            return frozenset(connection.execute(sa.select(_PROVED.c.asset_id)).scalars())

    def revision(self) -> tuple[int, int, int]:
        """Another one after every admission, retirement and end of a trial; cheap enough to be asked each second."""
        counts = sa.select(
            sa.func.count(),
            sa.func.count(_ASSETS.c.retired),
            sa.select(sa.func.count()).select_from(_PROVED).scalar_subquery(),
        ).select_from(_ASSETS)
        with self._engine.connect() as connection:
            admitted, retired, proved = connection.execute(counts).one()
        return admitted, retired, proved

    def places(self, sid_version: str) -> dict[str, tuple[tuple[int, ...], int]]:
        """Semantic ID and stand-in of every asset that has them among the IDs of that version, retired ones too."""
        with self._engine.connect() as connection:
            rows = connection.execute(sa.select(_PLACES).where(_PLACES.c.sid_version == sid_version)).all()
        return {row.asset_id: (tuple(int(code) for code in row.codes.split(",")), row.stand_in) for row in rows}

    def place(self, sid_version: str, placed: Mapping[str, tuple[Sequence[int], int]]) -> None:
        """Keep the semantic IDs given to assets, in one transaction; one that is kept already stays as it is."""
        if not placed:
            return
        rows = [
            {"asset_id": name, "sid_version": sid_version, "codes": ",".join(map(str, codes)), "stand_in": stand_in}
            for name, (codes, stand_in) in placed.items()
        ]
        with self._lock, self._engine.begin() as connection:
            connection.execute(_PLACES.insert().prefix_with("OR IGNORE"), rows)

    def verify(self) -> int:
        """Number of assets, after every file, row and report was checked, retired ones' reports too.

        Raises:
            ArtifactError: a file, a row or the log of reports was altered, or the log was cut off.
        """
        assets = self.assets()
        for asset in assets:
            self.read(asset.asset_id)
        with self._engine.connect() as connection:
            entries = set(connection.execute(sa.select(_ASSETS.c.entry)).scalars())
        self.log.verify(keep=entries)
        return len(assets)

    def close(self) -> None:
        """Let go of the database."""
        self._engine.dispose()


def _durable(connection: object, _: object) -> None:
    cursor = connection.cursor()  # type: ignore[attr-defined]
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=FULL")
    cursor.close()


def _asset(row: sa.Row[tuple[object, ...]]) -> Asset:
    told = dict(row._mapping)
    told.pop("number")
    told.pop("retired")
    report = FidelityReport.model_validate_json(told.pop("report"))
    return Asset(**told, report=report)
