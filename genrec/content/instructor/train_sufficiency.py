"""Training of the heads of sufficiency: does this catalog satisfy a wish?

Three kinds of wishes with a truth teach them, each its share of every batch: wishes drawn over real catalogs
(genrec.content.instructor.wishes), whose truth follows from which items are hidden; wishes that people wrote in the
sets that train (genrec.content.instructor.spoken), as the trained readers understand them; and films as people describe
them (described.yaml), met where the film is there and unmet where it is hidden or nobody made it.

Shape letters: B wishes, E width of their embeddings, F signs.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.resources import files

import numpy as np
import torch
import yaml
from torch import Tensor
from torch.nn import functional

from genrec.content.instructor.calibration import searched
from genrec.content.instructor.catalog_view import CatalogView, Found, plain_title
from genrec.content.instructor.evaluate import load_cases
from genrec.content.instructor.generate import Grammar, InstructionMaker, assemble
from genrec.content.instructor.heads import Heads, SufficiencyHead
from genrec.content.instructor.instructor import EmbeddedInstructor
from genrec.content.instructor.plan import TrainingPlan, shares_of
from genrec.content.instructor.spoken import SETS
from genrec.content.instructor.wishes import WishMaker
from genrec.encoders.minilm import MiniLMEncoder

STEPS = 800
BATCH = 614
BATCH_SHARES = {"drawn": 5 / 12, "spoken": 5 / 12, "described": 2 / 12}
HIDDEN_EVERY = 3
"""Of the descriptions, every third is a wish a second time, with its film hidden."""


@dataclass(frozen=True)
class Wishes:
    """Wishes, searched.

    Attributes:
        signs_BF: of the searches.
        meant_BE: embeddings of the wishes.
        truth_B: 1 where the catalog satisfies.
    """

    signs_BF: Tensor
    meant_BE: Tensor
    truth_B: Tensor

    @classmethod
    def of(cls, found: Sequence[tuple[Found, bool]]) -> Wishes:
        """Searches with their truths."""
        return cls(
            torch.from_numpy(np.stack([each.signs for each, _ in found])),
            torch.from_numpy(np.stack([each.embedding for each, _ in found])),
            torch.tensor([float(truth) for _, truth in found]),
        )

    def rows(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Signs, embeddings and truths of these rows."""
        return self.signs_BF[rows], self.meant_BE[rows], self.truth_B[rows]


def fit_sufficiency(
    heads: Heads, views: Sequence[CatalogView], plan: TrainingPlan, encoder: MiniLMEncoder
) -> dict[str, float]:
    """Train the heads of sufficiency.

    Args:
        heads: whose readers are trained; the heads of sufficiency are trained in place.
        views: that wishes are drawn over; the first is of MovieLens-100K, which the others' wishes are about.
        plan: how many wishes are drawn.
        encoder: MiniLM.

    Returns:
        what was measured on drawn wishes that were held out.
    """
    drawn, held_out = judged_wishes(views, plan, encoder)
    instructor = EmbeddedInstructor(heads.eval(), encoder=encoder)
    sources = {"drawn": drawn, "spoken": _spoken(instructor, views[0]), "described": _described(views[0], encoder)}
    for number, head in enumerate(heads.sufficiency.members):
        assert isinstance(head, SufficiencyHead)
        torch.manual_seed(plan.seed * 100 + number)
        _fit(head, sources)
    with torch.inference_mode():
        right = (heads.sufficiency(held_out.signs_BF, held_out.meant_BE) > 0) == (held_out.truth_B > 0)
    return {"sufficiency_accuracy": round(float(right.float().mean()), 4), "wishes": len(right)}


def _fit(head: SufficiencyHead, sources: dict[str, Wishes]) -> None:
    signs_BF = sources["drawn"].signs_BF
    head.mean.copy_(signs_BF.mean(0))
    head.scale.copy_(signs_BF.std(0).clamp_min(1e-3))
    optimizer = torch.optim.AdamW(head.parameters(), lr=4e-3, weight_decay=0.1)
    head.train()
    for _ in range(STEPS):
        parts = [
            wishes.rows(torch.randint(0, len(wishes.truth_B), (round(BATCH * BATCH_SHARES[name]),)))
            for name, wishes in sources.items()
        ]
        signs, meant, truth = (torch.cat(each) for each in zip(*parts, strict=True))
        loss = functional.binary_cross_entropy_with_logits(head(signs, meant), truth)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    head.eval()


def judged_wishes(views: Sequence[CatalogView], plan: TrainingPlan, encoder: MiniLMEncoder) -> tuple[Wishes, Wishes]:
    """Wishes drawn over catalogs: those to learn from, and those of held-out words."""
    learnt: list[tuple[Found, bool]] = []
    held_out: list[tuple[Found, bool]] = []
    shares = shares_of(len(views))
    for number, (view, share) in enumerate(zip(views, shares, strict=True)):
        draw = np.random.default_rng(plan.seed + number)
        instructions = InstructionMaker(view, plan.seed + 100 + number)
        maker = WishMaker(view, instructions.rng)
        grammar = Grammar(instructions.rng)
        subjects = [assemble(grammar.pieces("<subject>"))[0] for _ in range(400)]
        masks = [draw.random(len(view)) < 0.3 for _ in range(20)]
        wishes = [(maker.judged(masks[i % 20], subjects), masks[i % 20]) for i in range(int(plan.wishes * share))]
        # The tagger at times takes the whole sentence for the target: so does the search here.
        targets = [wish.said if wish.said and draw.random() < 0.3 else wish.target for wish, _ in wishes]
        embeddings = encoder.encode(targets)
        for (wish, hidden_N), target, embedding in zip(wishes, targets, embeddings, strict=True):
            found = view.search(
                target,
                constraints=wish.constraints,
                embedding=embedding,
                hidden=hidden_N,
                said=wish.said or target,
                untold=wish.told,
            )
            group = held_out if zlib.crc32(wish.target.encode()) % 5 == 0 else learnt
            group.append((found, wish.satisfied))
    return Wishes.of(learnt), Wishes.of(held_out)


def _spoken(instructor: EmbeddedInstructor, view: CatalogView) -> Wishes:
    """The wishes of the sets that train; what a rule decides teaches nothing."""
    cases = [case for split in SETS for case in load_cases(split, view) if case.satisfiable is not None]
    found = [(found, bool(case.satisfiable)) for case, _, found in searched(instructor, view, cases)]
    return Wishes.of([(each, truth) for each, truth in found if not each.ruled_out])


def _described(view: CatalogView, encoder: MiniLMEncoder) -> Wishes:
    found = []
    told = list(descriptions(view))
    embeddings = encoder.encode([text for text, _ in told])
    name_N = np.array([plain_title(title) for title in view.titles])
    for number, ((text, item), embedding) in enumerate(zip(told, embeddings, strict=True)):
        found.append((view.search(text, embedding=embedding, said=text), item is not None))
        if item is not None and number % HIDDEN_EVERY == 0:
            hidden_N = name_N == name_N[item]
            found.append((view.search(text, embedding=embedding, said=text, hidden=hidden_N), False))
    return Wishes.of([(each, truth) for each, truth in found if not each.ruled_out])


def descriptions(view: CatalogView) -> Iterator[tuple[str, int | None]]:
    """Films as people describe them (described.yaml): the words, and the item; None: there is no such film."""
    table = yaml.safe_load(files(__package__).joinpath("described.yaml").read_text(encoding="utf-8"))
    for title, texts in table["films"].items():
        for text in texts:
            yield text, view.item_by_title[title]
    for text in table["nobody's"]:
        yield text, None
