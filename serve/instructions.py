"""An instruction from its words to its reply: session, decision, what is made, what is retrieved, the log.

Told step by step, for a client that wants to see it happen: ``decision``, ``progress``, ``item``, and ``done`` with the
whole reply. Whoever stops listening closes the generator, which cancels the work that is under way.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any
from uuid import uuid4

from genrec.config import ServeSettings
from genrec.finding import NO_FILTER, Filter
from genrec.recommendation import Recommendation, Source
from genrec.recommender import RecommendRequest, Trial
from serve.backend import Backend, granted
from serve.content import ContentBackend, Decided, InstructionCall, Made, Making, Progress
from serve.errors import ApiError
from serve.journal import Journal
from serve.metrics import IngressMetrics
from serve.models_content import DecisionReply, InstructionBody, InstructionReply, MediaEntry, Slots
from serve.pictures import read_picture
from serve.recommender import Answer
from serve.shown import DETERMINISTIC, ShownItem, ShownList
from serve.store import MAKING, Turn

UNMAKEABLE = ("cannot_create", "cannot_edit")
SOURCES: Mapping[str, Source] = {"create": "created", "edit": "edited"}


@dataclass(frozen=True)
class Step:
    """What is told of the way.

    Attributes:
        event: decision, progress, item or done.
        data: as JSON.
    """

    event: str
    data: dict[str, Any]


@dataclass
class Instructions:
    """Carries instructions out.

    Attributes:
        limits: settings.serve.
        backend: the recommender.
        content: instructor, creator, editor, fidelity.
        journal: sessions, lists and feedback.
        metrics: of the ingress.
    """

    limits: ServeSettings
    backend: Backend
    content: ContentBackend
    journal: Journal
    metrics: IngressMetrics

    async def steps(self, body: InstructionBody, request_id: str) -> AsyncIterator[Step]:
        """Carry one out; the last step is ``done``, whose data is an InstructionReply.

        Raises:
            ApiError: what went wrong, for the client.
        """
        instruction_id, session_id, list_id = uuid4().hex, body.session_id or uuid4().hex, uuid4().hex
        call = await self._call(body, session_id, instruction_id)
        yield _progress(0.0, "reading")
        with self.metrics.stage("decide"):
            decided = granted(await self.content.decide(call))
        self.metrics.decided(decided.decision.action)
        decision = _decision(decided)
        yield Step("decision", {"instruction_id": instruction_id, "session_id": session_id, **decision.model_dump()})
        items: list[Recommendation] = []
        media: list[MediaEntry] = []
        refused: list[dict[str, Any]] = []
        note: str | None = None
        answer: Answer | None = None
        if decided.decision.action != "clarify":
            yield _progress(0.1, "retrieving")
            with self.metrics.stage("retrieve"):
                own = await self.journal.made(call.user_id, body.session_id)
                answer = await self._retrieved(call, decided, body.k, Trial(list_id, own))
        if decided.decision.action in MAKING:
            following = answer.items[0] if answer is not None and answer.items else None
            making = Making(
                call,
                decided,
                next_title=None if following is None else following.title,
                own_picture=call.picture is not None,
            )
            try:
                with self.metrics.stage(decided.decision.action):
                    async with aclosing(self.content.make(making)) as told:  # type: ignore[type-var]
                        async for step in told:
                            if isinstance(step, Progress):
                                yield _progress(step.share, step.what)
                            elif step.asset_id is None:
                                refused.append(self._judged(step))
                            else:
                                self._judged(step)
                                items.append(_entry(step))
                                media.append(_media(step))
                                yield Step("item", items[-1].model_dump(mode="json"))
            except ApiError as error:
                if error.code not in UNMAKEABLE:
                    raise
                note = error.message  # what the catalog has is shown nevertheless
        for entry in () if answer is None else answer.items[: body.k - len(items)]:
            items.append(entry)
            yield Step("item", entry.model_dump(mode="json"))
        reply = InstructionReply(
            instruction_id=instruction_id,
            session_id=session_id,
            request_id=request_id,
            decision=decision,
            items=items,
            list_id=list_id if items else None,
            media=media,
            refused=refused,
            note=note,
            bundle_version=None if answer is None else answer.version,
            sid_version=None if answer is None else answer.sid_version,
        )
        await self._log(call, body, reply)
        yield Step("done", reply.model_dump(mode="json"))

    async def _call(self, body: InstructionBody, session_id: str, instruction_id: str) -> InstructionCall:
        picture = None
        if body.picture is not None:
            picture = await asyncio.to_thread(read_picture, body.picture, self.limits)
        session = await self.journal.session(session_id, body.list_id)
        recent: tuple[str, ...] = ()
        if body.user_id is not None and body.history is None:
            recent = await self.journal.recent(body.user_id)
        return InstructionCall(
            text=body.text,
            picture=picture,
            turns=tuple(turn.text for turn in session.turns),
            user_id=body.user_id,
            history=None if body.history is None else tuple(body.history),
            recent=recent,
            shown=session.shown,
            rejected=session.rejected,
            seed=int(instruction_id[:8], 16),
        )

    async def _retrieved(self, call: InstructionCall, decided: Decided, k: int, trial: Trial) -> Answer | None:
        """What the catalog has: what satisfies by both opinions, then what the user would like anyway."""
        whose = self._whose(call, trial)
        if whose is None:  # nobody is known: whoever asks for the best match may like what follows on it
            if not decided.matches:
                return None
            whose = RecommendRequest(None, decided.matches[:1], 1, trial=trial)
        fitting: list[Recommendation] = []
        answer: Answer | None = None
        matches = decided.matches if decided.decision.action == "retrieve" else ()
        if matches:
            try:
                answer = await self._list(whose, len(matches), where=Filter(items=matches))
            except ApiError as error:
                if error.code != "unknown_item":  # the instructor reads a bundle that has been followed by another
                    raise
            place = {item: rank for rank, item in enumerate(matches)}
            found = () if answer is None else answer.items
            ranked = sorted(enumerate(found), key=lambda pair: pair[0] + place[pair[1].item_id])
            fitting = [_fits(entry) for _, entry in ranked][:k]
        if len(fitting) < k:
            known = tuple(entry.item_id for entry in fitting)
            answer = await self._list(whose, k - len(fitting), exclude=known)
            fitting += answer.items
        assert answer is not None
        return Answer(fitting, answer.version, answer.sid_version)

    async def _list(
        self, whose: RecommendRequest, k: int, *, where: Filter = NO_FILTER, exclude: tuple[str, ...] = ()
    ) -> Answer:
        request = replace(whose, k=k, where=where, exclude=exclude)
        answer: Answer = granted(await self.backend.recommend(request))
        return answer

    def _whose(self, call: InstructionCall, trial: Trial) -> RecommendRequest | None:
        if call.user_id is None and call.history is None:
            return None
        return RecommendRequest(call.user_id, call.history, 1, recent=call.recent, trial=trial)

    def _judged(self, made: Made) -> dict[str, Any]:
        for verdict in made.report.verdicts:
            self.metrics.judged(verdict.check, verdict.passed)
        return made.report.model_dump(mode="json")

    async def _log(self, call: InstructionCall, body: InstructionBody, reply: InstructionReply) -> None:
        now = time.time()
        if reply.list_id is not None:
            made = {entry.asset_id for entry in reply.media}  # no policy chose these: they were asked for
            places = (
                ShownItem(
                    item_id=entry.item_id,
                    position=position,
                    propensity=None if entry.item_id in made else entry.evidence.get("propensity", DETERMINISTIC),
                    score=entry.score,
                    source=entry.source,
                )
                for position, entry in enumerate(reply.items)
            )
            await self.journal.shown(
                ShownList(
                    list_id=reply.list_id,
                    request_id=reply.request_id,
                    time=now,
                    user_id=call.user_id,
                    history=call.history,
                    recent=call.recent,
                    k=body.k,
                    bundle_version=reply.bundle_version or "none",
                    sid_version=reply.sid_version or "none",
                    items=tuple(places),
                )
            )
        turn = Turn(
            session_id=reply.session_id,
            instruction_id=reply.instruction_id,
            user_id=call.user_id,
            text=call.text,
            action=reply.decision.action,
            list_id=reply.list_id,
            made=tuple(entry.asset_id for entry in reply.media),
            time=now,
        )
        await self.journal.turn(turn)


def _progress(share: float, what: str) -> Step:
    return Step("progress", {"share": round(share, 3), "what": what})


def _decision(decided: Decided) -> DecisionReply:
    decision, slots = decided.decision, decided.decision.slots
    return DecisionReply(
        action=decision.action,
        probabilities=decision.probabilities,
        slots=Slots(
            target=slots.target,
            source_item=decided.source,
            operation=slots.operation,
            style=slots.style,
            medium=slots.medium,
            constraints=list(slots.constraints),
            negatives=list(slots.negatives),
        ),
        sufficiency=decision.sufficiency,
        question=decision.question,
        trace=list(decision.trace),
    )


def _entry(made: Made) -> Recommendation:
    assert made.asset_id is not None
    return Recommendation(
        item_id=made.asset_id,
        title=made.title,
        score=0.0,  # nothing was ranked: it was made for this instruction
        source=SOURCES[made.action],
        evidence={**made.details, "url": _url(made.asset_id), "media_type": made.media_type},
        fidelity=made.report.model_dump(mode="json"),
    )


def _media(made: Made) -> MediaEntry:
    assert made.asset_id is not None
    return MediaEntry(
        asset_id=made.asset_id,
        title=made.title,
        url=_url(made.asset_id),
        provenance_url=f"{_url(made.asset_id)}/provenance",
        media_type=made.media_type,
        width=made.width,
        height=made.height,
    )


def _fits(entry: Recommendation) -> Recommendation:
    return entry.model_copy(update={"evidence": {**entry.evidence, "fits_instruction": True}})


def _url(asset_id: str) -> str:
    return f"/v1/media/{asset_id}"
