"""``content train creator|upscaler|restyler`` and ``content create``."""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.progress import Progress as Bar

from genrec.config import Settings
from genrec.content.contracts import FidelityReport, ImageTextEncoder
from genrec.content.library.asset import NotPassedError
from genrec.errors import ArtifactError, SettingsError


def run(options: argparse.Namespace, settings: Settings, console: Console) -> None:
    """Train ``options.part`` (creator, upscaler or restyler)."""
    if options.out is None:
        raise SettingsError(f"content train {options.part}: --out is missing; say where the weights go")
    trains = {"creator": _train_creator, "upscaler": _train_upscaler, "restyler": _train_restyler}
    trains[options.part](options, settings, console)


def _train_creator(options: argparse.Namespace, settings: Settings, console: Console) -> None:
    from genrec.content.creator.network import NetworkShape
    from genrec.content.creator.ray_train import train_on_ray
    from genrec.content.creator.run import train_alone
    from genrec.content.creator.train import TrainOptions

    shape = NetworkShape()
    width = options.width or shape.width
    shape = replace(shape, width=width, heads=max(1, width // 64), hidden=3 * width)
    shape = replace(shape, layers=options.layers or shape.layers)
    recipe = TrainOptions(shape=shape, steps=options.steps)
    changes = {name: getattr(options, name) for name in ("minutes", "seed") if getattr(options, name) is not None}
    recipe = replace(recipe, **changes)
    if options.workers > 1:
        out = train_on_ray(options.corpus, options.out, recipe, options.workers, settings.training)
    else:
        with Bar(console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task("training", total=1.0)
            out = train_alone(
                options.corpus, options.out, recipe, progress=lambda share: bar.update(task, completed=share)
            )
    console.print(str(out))


def _train_upscaler(options: argparse.Namespace, settings: Settings, console: Console) -> None:
    from genrec.content.creator.upscale import train_upscaler

    if options.packages is None:
        raise SettingsError("content train upscaler: --packages is missing; give the directory of npm tarballs")
    with Bar(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("training", total=1.0)
        path = train_upscaler(
            options.packages,
            options.out,
            steps=options.steps or 2000,
            minutes=options.minutes,
            seed=1 if options.seed is None else options.seed,
            progress=lambda share: bar.update(task, completed=share),
        )
    console.print(str(path))


def _train_restyler(options: argparse.Namespace, settings: Settings, console: Console) -> None:
    from genrec.content.creator.train_restyler import RestylerTraining, train_restyler

    recipe = RestylerTraining(steps=options.steps, seed=options.seed or 0)
    if options.minutes is not None or options.steps is not None:
        recipe = replace(recipe, minutes=options.minutes)
    if options.steps is not None:
        recipe = replace(recipe, witness_steps=min(options.steps, recipe.witness_steps))
    with Bar(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("training", total=1.0)
        found = train_restyler(
            options.corpus, options.out, recipe, progress=lambda share, _: bar.update(task, completed=share)
        )
    console.print(f"{options.out}: " + ", ".join(f"{name} {value:g}" for name, value in found.items()))


def create(options: argparse.Namespace, settings: Settings, console: Console) -> None:
    """Make a picture of the prompt, have it checked, signed and marked, and write it.

    Raises:
        NotPassedError: a check refused the words or the picture; nothing is written.
        DataError: an empty or too long prompt.
    """
    from genrec.content.creator.creator import Creator
    from genrec.content.fidelity.gate import FidelityGate
    from genrec.content.library import Library
    from genrec.content.limits import checked_prompt
    from genrec.content.providers import load_maker

    checked_prompt(options.prompt, options.negative)
    content = settings.content
    library = options.library or Path(settings.run.directory) / settings.run.name / "content"
    begin = time.perf_counter()
    gate = FidelityGate(content.fidelity, library)
    try:
        words = gate.review_prompt(options.prompt)
        if not words.passed:
            raise NotPassedError(f"prompt: {refusals(words)}; ask for something else")
        creator = Creator(load_maker(content.pictures), chooser(), content.pictures)
        loaded = time.perf_counter()
        with Bar(console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task("creating", total=1.0)
            draft = creator.create(
                options.prompt,
                seed=options.seed,
                negative=options.negative,
                progress=lambda share: bar.update(task, completed=share),
            )
        made = time.perf_counter()
        report = gate.review(draft)
        if not report.passed:
            raise NotPassedError(f"picture: {refusals(report)}; it is not written. Try another --seed or other words")
        shelf = Library(library, content.fidelity)
        asset = shelf.admit(draft, report)
        write_whole(shelf.read(asset.asset_id), options.out)
    finally:
        gate.close()
    console.print(
        f"{options.out}: {asset.title} ({asset.asset_id}; {draft.model}, seed {draft.seed}). Models in "
        f"{loaded - begin:.1f} s, picture in {made - loaded:.1f} s, checks and signature in "
        f"{time.perf_counter() - made:.1f} s"
    )


def refusals(report: FidelityReport) -> str:
    """Which checks refused, and why."""
    return "; ".join(f"{v.check} refused: {v.evidence}" for v in report.verdicts if not v.passed)


def chooser() -> ImageTextEncoder | None:
    """The shipped image-text encoder; None if it is not there."""
    from genrec.content.vision import load_encoder

    try:
        return load_encoder()
    except ArtifactError:
        return None


def write_whole(content: bytes, path: Path) -> None:
    """Write a file by rename, so that nobody sees half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    partial.write_bytes(content)
    partial.replace(path)
