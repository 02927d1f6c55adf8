"""The content deployments: what of :mod:`genrec.content` each replica holds, and how its work is run and stopped.

Models run in one worker thread a replica, so that a replica goes on answering (its health, a cancellation) meanwhile.
Creator and editor stream: progress while they work, then what they made. Whoever stops listening has the work stopped
at its next step.
"""

import asyncio
import io
import logging
import threading
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from ray.exceptions import RayActorError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError, ReplicaUnavailableError
from ray.serve.handle import DeploymentHandle
from sqlalchemy.exc import SQLAlchemyError

from genrec.bundle import load_bundle
from genrec.config import ServeSettings, Settings
from genrec.config.content import ContentSettings
from genrec.content.contracts import Decision, Draft, FidelityReport, FloatArray, ImageTextEncoder, Instruction
from genrec.content.fidelity import Ingredient, ReviewContext
from genrec.content.library.asset import is_asset
from genrec.data.load import Catalog
from genrec.errors import GenrecError
from serve.backend import answered, as_api_error
from serve.content import Decided, InstructionCall, Made, Making, MediaFile, Progress
from serve.errors import ApiError, unavailable
from serve.logs import join_serve_log
from serve.process import run_directory
from serve.recommender import Refusal

logger = logging.getLogger(__name__)

PARTS = ("instructor", "creator", "editor", "fidelity")
NEEDED_WEIGHTS = ("instructor", "creator", "restyler", "encoder")
CONTENT_FOLDER = "content"
"""Below the run's folder: the library of made items, the log of reports, keys."""

LIKED_TITLES = 10


class Stopped(Exception):  # noqa: N818
    """Nobody waits for the work any more."""


class _Part:
    """A replica that counts as started only when its models are loaded and have answered once."""

    async def ready(self) -> bool:
        """True, from a warm replica."""
        return True


class _Worker:
    """One thread for a replica's models."""

    def __init__(self, name: str) -> None:
        join_serve_log()
        torch.set_num_threads(1)
        self._pool = ThreadPoolExecutor(1, name, initializer=torch.set_num_threads, initargs=(1,))

    async def run(self, work: Callable[..., Any], *arguments: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._pool, work, *arguments)

    async def told(self, work: Callable[[Callable[[float], None]], Any], what: str) -> AsyncIterator[Any]:
        """Progress of ``work``, which gets a function to tell it by, then its result."""
        loop, told, stop = asyncio.get_running_loop(), asyncio.Queue[Any](), threading.Event()

        def tell(share: float) -> None:
            if stop.is_set():
                raise Stopped
            loop.call_soon_threadsafe(told.put_nowait, Progress(share, what))

        result = loop.run_in_executor(self._pool, work, tell)
        result.add_done_callback(lambda _: told.put_nowait(None))
        try:
            while (step := await told.get()) is not None:
                yield step
            yield await result
        finally:
            stop.set()
            if not result.done():
                result.add_done_callback(lambda done: done.cancelled() or done.exception())


class InstructorReplica(_Part):
    """Decides what an instruction asks for.

    Args:
        bundle: directory of the bundle whose catalog is meant.
        settings: settings.content.
        folder: of the library, whose made items can be found like the catalog's; the catalog's embeddings are kept
            there for the next start.
    """

    def __init__(self, bundle: str, settings: ContentSettings, folder: str) -> None:
        from genrec.content.instructor import CatalogView, load_instructor
        from genrec.content.library import Library

        self._worker = _Worker("instructor")
        loaded = load_bundle(bundle)
        self._catalog, self._interactions = loaded.catalog, loaded.interactions
        self._users = {str(user): index for index, user in enumerate(loaded.interactions.user_ids)}
        self._instructor = load_instructor(settings.instructor)
        self._of_catalog = CatalogView.of_catalog(self._catalog, self._instructor.encoder, Path(folder) / "embeddings")
        self._library, self._revision = Library(Path(folder), settings.fidelity), (0, 0, 0)
        self._rows: dict[str, tuple[FloatArray, FloatArray]] = {}
        self._view, self._items, self._index = self._of_catalog, self._catalog.item_ids, dict(self._catalog.index)
        self._look_into_library()
        self._instructor.decide(Instruction("something calmer"), self._view)

    async def decide(self, call: InstructionCall) -> Decided | Refusal:
        """What is to be done; items by their raw ids."""
        return await self._worker.run(self._decide, call)

    def _look_into_library(self) -> None:
        """Let the view hold the made items that anybody may be shown."""
        from genrec.content.instructor.catalog_view import plain_title

        revision = self._library.revision()
        if revision == self._revision:
            return
        assets = [asset for asset in self._library.assets() if not asset.personal]
        encoder = self._instructor.encoder
        for asset in assets:
            if asset.asset_id not in self._rows:
                text_1E, title_1E = encoder.encode([asset.text]), encoder.encode([plain_title(asset.title)])
                self._rows[asset.asset_id] = (text_1E, title_1E)
        self._items = [*self._catalog.item_ids, *(asset.asset_id for asset in assets)]
        self._index = {item: place for place, item in enumerate(self._items)}
        self._view, self._revision = self._of_catalog, revision
        if assets:
            texts_1E, titles_1E = zip(*(self._rows[asset.asset_id] for asset in assets), strict=True)
            self._view = self._of_catalog.extended(
                [asset.title for asset in assets],
                [asset.text for asset in assets],
                np.concatenate(texts_1E),
                np.concatenate(titles_1E),
            )

    def _decide(self, call: InstructionCall) -> Decided | Refusal:
        try:
            self._look_into_library()
        except (GenrecError, SQLAlchemyError):  # the catalog alone is searched then
            logger.exception("the library of made items cannot be read")
        index = self._index
        history = self._history(call)
        instruction = Instruction(
            text=call.text,
            picture=call.picture,
            turns=call.turns,
            history=history,
            shown=tuple(index[item] for item in call.shown if item in index),
            rejected=call.rejected,
        )
        try:
            decision: Decision = self._instructor.decide(instruction, self._view)
        except GenrecError as error:
            return Refusal(422, "invalid_request", "text", str(error))
        source = decision.slots.source_item
        made = next((item for item in call.shown if is_asset(item)), None)
        named = None if source is None else self._items[source]
        if named is not None and is_asset(named):  # the editor knows the catalog's items; an asset comes as a picture
            slots = decision.slots.model_copy(update={"source_item": None})
            decision = decision.model_copy(update={"slots": slots})
        return Decided(
            decision=decision,
            matches=tuple(self._items[item] for item in decision.matches),
            source=named if named is not None or decision.action != "edit" or call.picture is not None else made,
            liked=tuple(self._view.titles[item] for item in history[-LIKED_TITLES:]),
        )

    def _history(self, call: InstructionCall) -> tuple[int, ...]:
        index = self._index
        if call.history is not None:
            return tuple(index[item] for item in call.history if item in index)
        known = self._users.get(call.user_id or "")
        before = () if known is None else tuple(int(item) for item in self._interactions.sequence(known))
        return (*before, *(index[item] for item in call.recent if item in index))


class CreatorReplica(_Part):
    """Makes something new.

    Args:
        settings: settings.content.
    """

    def __init__(self, settings: ContentSettings) -> None:
        from genrec.content.creator.creator import Creator
        from genrec.content.providers import load_maker
        from genrec.content.vision import load_encoder

        self._worker = _Worker("creator")
        self._encoder = load_encoder()
        self._creator = Creator(load_maker(settings.pictures), self._encoder, settings.pictures)
        self._creator.maker.create("a red apple", count=1, seed=0)

    async def make(self, making: Making) -> AsyncIterator[Progress | tuple[Draft, ReviewContext] | Refusal]:
        """Progress, then the draft with what is known of its origin."""

        def work(tell: Callable[[float], None]) -> tuple[Draft, ReviewContext] | Refusal:
            taste, following = _tastes(self._encoder, making)
            try:
                draft = self._creator.create(
                    making.prompt,
                    seed=making.call.seed,
                    taste=taste,
                    next_item=following,
                    negative=", ".join(making.decided.decision.slots.negatives),
                    progress=tell,
                )
            except GenrecError as error:
                return Refusal(422, "cannot_create", "text", str(error))
            return draft, ReviewContext(user=making.call.user_id)

        async with aclosing(self._worker.told(work, "creating")) as told:  # type: ignore[type-var]
            async for step in told:
                yield step


class EditorReplica(_Part):
    """Makes something of an item that there is.

    Args:
        bundle: directory of the bundle whose catalog is meant.
        settings: settings.content.
    """

    def __init__(self, bundle: str, settings: ContentSettings) -> None:
        from genrec.content.editor import Editor, FolderMedia
        from genrec.content.providers import load_maker
        from genrec.content.vision import load_encoder

        self._worker = _Worker("editor")
        self._catalog: Catalog = load_bundle(bundle).catalog
        folder = None if settings.editor.media is None else Path(settings.editor.media)
        self._media = FolderMedia(folder, self._catalog.item_ids, self._catalog.titles)
        self._encoder = load_encoder()
        self._editor = Editor(self._encoder, self._media, settings.editor, load_maker(settings.pictures))

    async def make(self, making: Making) -> AsyncIterator[Progress | tuple[Draft, ReviewContext] | Refusal]:
        """Progress, then the draft with what is known of its origin."""

        def work(tell: Callable[[float], None]) -> tuple[Draft, ReviewContext] | Refusal:
            taste, _ = _tastes(self._encoder, making)
            call = making.call
            try:
                draft = self._editor.apply(
                    making.decided.decision,
                    call.text,
                    taste=taste,
                    picture=call.picture,
                    reasons=making.reasons,
                    seed=call.seed,
                    progress=tell,
                )
            except GenrecError as error:
                return Refusal(422, "cannot_edit", "text", str(error))
            return draft, self._origin(draft, making)

        async with aclosing(self._worker.told(work, "editing")) as told:  # type: ignore[type-var]
            async for step in told:
                yield step

    def _origin(self, draft: Draft, making: Making) -> ReviewContext:
        from genrec.content.vision import load_picture

        item, call = draft.source_item, making.call
        if item is None:
            of_user = call.user_id if making.own_picture else None
            ingredients = tuple(Ingredient(digest, of_user, "own", "", call.picture) for digest in draft.ingredients)
            return ReviewContext(user=call.user_id, ingredients=ingredients, source_picture=call.picture)
        title = self._catalog.titles[item]
        data = self._media.picture(item)
        picture = None if data is None else load_picture(data, name=title)
        ingredients = tuple(Ingredient(digest, None, "catalog", title, picture) for digest in draft.ingredients)
        return ReviewContext(
            user=call.user_id,
            ingredients=ingredients,
            source_title=title,
            source_text=self._catalog.texts[item],
            source_picture=picture,
        )


class FidelityReplica(_Part):
    """Checks drafts, keeps those that pass, and shows nothing else.

    Args:
        folder: of the library, the log of reports and the keys.
        bundle: directory of the bundle whose catalog is meant.
        settings: settings.content.
    """

    def __init__(self, folder: str, bundle: str, settings: ContentSettings) -> None:
        from genrec.content.fidelity import FidelityGate, ProcessRunner
        from genrec.content.library import Library

        self._worker = _Worker("fidelity")
        self._reader = _Worker("library")  # files are shown while a draft is checked
        self._items = load_bundle(bundle).catalog.item_ids
        self._gate = FidelityGate(settings.fidelity, Path(folder))
        self._library = Library(Path(folder), settings.fidelity)
        if isinstance(self._gate.runner, ProcessRunner):
            self._gate.runner.start()

    async def allowed(self, text: str, user: str | None) -> FidelityReport:
        """What the checks say of the words, before anything is made."""
        return await self._worker.run(self._gate.review_prompt, text, ReviewContext(user=user))

    async def admit(self, draft: Draft, context: ReviewContext) -> Made:
        """Check a draft; what passes becomes an asset."""
        return await self._worker.run(self._admit, draft, context)

    def _admit(self, draft: Draft, context: ReviewContext) -> Made:
        report = self._gate.review(draft, context)
        width, height = draft.frames[0].size
        asset_id, media_type = None, ""
        if report.passed:
            source = None if draft.source_item is None else self._items[draft.source_item]
            asset = self._library.admit(draft, report, context, source_item=source)
            asset_id, media_type = asset.asset_id, asset.media_type
        details = {**draft.details, "prompt": draft.prompt, "model": draft.model, "seed": draft.seed}
        return Made(report, asset_id, draft.title, draft.action, media_type, width, height, details)

    async def judge(self, retired: Mapping[str, str], proved: Sequence[str]) -> None:
        """Retire assets, with the reason of each, and end the trial of others."""
        await self._reader.run(self._judge, retired, proved)

    def _judge(self, retired: Mapping[str, str], proved: Sequence[str]) -> None:
        from genrec.content.library import UnknownAssetError

        for asset_id, reason in retired.items():
            try:
                self._library.retire(asset_id, reason)
            except UnknownAssetError:  # feedback may name anything
                logger.info("%s: feedback about a made item that the library lacks", asset_id)
        self._library.prove(proved)

    async def media(self, asset_id: str) -> MediaFile | None:
        """The file of an asset that may be shown."""
        return await self._reader.run(self._media, asset_id)

    def _media(self, asset_id: str) -> MediaFile | None:
        from genrec.content.library import UnknownAssetError

        try:
            return MediaFile(self._library.read(asset_id), self._library.get(asset_id).media_type)
        except UnknownAssetError:
            return None

    async def provenance(self, asset_id: str) -> dict[str, Any] | None:
        """Where an asset comes from, with what its file's own manifest says."""
        return await self._reader.run(self._provenance, asset_id)

    def _provenance(self, asset_id: str) -> dict[str, Any] | None:
        from genrec.content.fidelity import manifest
        from genrec.content.fidelity.gate import KEYS
        from genrec.content.fidelity.keys import signing_keys
        from genrec.content.library import UnknownAssetError

        try:
            asset = self._library.get(asset_id)
            content = self._library.read(asset_id)
        except UnknownAssetError:
            return None
        keys = signing_keys(self._library.settings, self._library.directory / KEYS)
        signed = manifest.verify(content, asset.media_type, keys)
        return {
            "asset_id": asset.asset_id,
            "title": asset.title,
            "action": asset.action,
            "medium": asset.medium,
            "media_type": asset.media_type,
            "prompt": asset.text.removeprefix(f"{asset.title}. "),
            "model": asset.model,
            "source_item": asset.source_item,
            "created": asset.created,
            "sha256": asset.sha256,
            "manifest": {"valid": signed.valid, "state": signed.state, "problems": list(signed.problems)},
            "fidelity": asset.report.model_dump(mode="json"),
        }


class HandleContent:
    """The content deployments behind their handles.

    Args:
        limits: settings.serve.
        parts: handles by name.
    """

    def __init__(self, limits: ServeSettings, parts: Mapping[str, DeploymentHandle[Any]]) -> None:
        self._limits, self._parts = limits, parts

    async def ready(self, timeout_s: float) -> None:
        """Return once a warm replica of each part has answered."""
        await asyncio.gather(
            *(answered(handle.ready.remote(), timeout_s, name) for name, handle in self._parts.items())
        )

    async def decide(self, call: InstructionCall) -> Decided | Refusal:
        """What is to be done."""
        decided: Decided | Refusal = await self._call("instructor", "decide", call)
        return decided

    async def make(self, making: Making) -> AsyncIterator[Progress | Made]:
        """Judge the words, make, judge what was made, keep what passed."""
        call, name = making.call, {"create": "creator", "edit": "editor"}[making.decided.decision.action]
        yield Progress(0.1, "checking the words")
        words: FidelityReport = await self._call("fidelity", "allowed", call.text or making.prompt, call.user_id)
        if not words.passed:
            yield Made(words, None, making.prompt, making.decided.decision.action, "", 0, 0, {})
            return
        making = await self._with_source(making)
        made: tuple[Draft, ReviewContext] | None = None
        async with aclosing(self._streamed(name, making)) as told:  # type: ignore[type-var]
            async for step in told:
                if isinstance(step, Progress):
                    yield Progress(0.15 + 0.6 * step.share, step.what)
                elif isinstance(step, Refusal):
                    raise ApiError(step.status, step.code, step.message, field=step.field)
                else:
                    made = step
        if made is None:
            raise unavailable(f"the {name} ended without a result; send it again")
        yield Progress(0.8, "checking")
        yield await self._call("fidelity", "admit", *made)

    async def judge(self, retired: Mapping[str, str], proved: Sequence[str]) -> None:
        """Retire assets, with the reason of each, and end the trial of others."""
        await self._call("fidelity", "judge", dict(retired), list(proved))

    async def media(self, asset_id: str) -> MediaFile | None:
        """The file of an asset that may be shown."""
        file: MediaFile | None = await self._call("fidelity", "media", asset_id)
        return file

    async def provenance(self, asset_id: str) -> dict[str, Any] | None:
        """Where an asset comes from."""
        told: dict[str, Any] | None = await self._call("fidelity", "provenance", asset_id)
        return told

    async def _with_source(self, making: Making) -> Making:
        """An asset to edit is handed over as a picture, for no catalog knows it."""
        source = making.decided.source
        if making.decided.decision.action != "edit" or source is None or not is_asset(source):
            return making
        file = await self.media(source)
        if file is None or not file.media_type.startswith("image/"):
            return making
        picture = await asyncio.to_thread(_opened, file.data)
        return replace(making, call=replace(making.call, picture=picture), own_picture=False)

    async def _streamed(self, name: str, making: Making) -> AsyncIterator[Any]:
        stream: Any = self._parts[name].options(stream=True).make.remote(making)
        ended = False
        try:
            async for step in stream:
                yield step
            ended = True
        except (BackPressureError, DeploymentUnavailableError, ReplicaUnavailableError, RayActorError) as error:
            ended = True
            raise as_api_error(error, name) from None
        finally:
            if not ended:
                stream.cancel()

    async def _call(self, name: str, method: str, *arguments: Any) -> Any:
        response = getattr(self._parts[name], method).remote(*arguments)
        return await answered(response, self._limits.instruction_timeout_s, name)


def content_wanted(settings: Settings) -> bool:
    """True if the application is to have the content deployments: as serve.content says, else if weights are there."""
    if settings.serve.content is not None:
        return settings.serve.content
    from importlib.resources import files

    weights = Path(str(files("genrec.content"))) / "weights"
    return all((weights / name).is_dir() for name in NEEDED_WEIGHTS)


def bind_content(settings: Settings, bundle: str, deployment: Callable[..., Any]) -> dict[str, Any]:
    """The deployments, bound, by name.

    Args:
        settings: the validated tree.
        bundle: directory of the bundle whose catalog is meant.
        deployment: makes one of a name, a class and its settings.
    """
    limits, content = settings.serve, settings.content
    folder = str(run_directory(settings) / CONTENT_FOLDER)
    replicas: dict[str, tuple[Any, tuple[Any, ...]]] = {
        "instructor": (InstructorReplica, (bundle, content, folder)),
        "creator": (CreatorReplica, (content,)),
        "editor": (EditorReplica, (bundle, content)),
        "fidelity": (FidelityReplica, (folder, bundle, content)),
    }
    return {
        name: deployment(name, replica, getattr(limits, name), limits).bind(*arguments)
        for name, (replica, arguments) in replicas.items()
    }


def _opened(data: bytes) -> Image.Image:
    with Image.open(io.BytesIO(data), formats=("PNG", "JPEG")) as picture:
        return picture.convert("RGB")


def _tastes(encoder: ImageTextEncoder, making: Making) -> tuple[FloatArray | None, FloatArray | None]:
    """Vectors of what the user liked and of what the recommender would name next, in the encoder's space."""
    from genrec.content.creator.creator import taste_of

    liked, following = making.decided.liked, making.next_title
    taste = taste_of(list(encoder.texts(list(liked)))) if liked else None
    return taste, encoder.texts([following])[0] if following else None
