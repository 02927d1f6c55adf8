"""The command line: ``python -m genrec VERB --config F --preset P --set a.b=c ...``.

Results go to standard output, progress and messages to standard error. A mistake that the user can mend
is one message and exit code 2; ``--verbose`` adds the traceback. Logging is configured here and nowhere
else. Heavy libraries are imported by the verbs that need them.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from genrec import content_command
from genrec.artifacts import local_root
from genrec.config import Settings, load_settings, resolved_yaml
from genrec.errors import GenrecError, SettingsError
from genrec.grid_command import add_options, run_grids
from genrec.progress import StageProgress

if TYPE_CHECKING:
    from genrec.stages import Pipeline

EXIT_USER_ERROR = 2
logger = logging.getLogger(__name__)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb; returns the exit code."""
    options = _parser().parse_args(arguments)
    _configure_logging(options.verbose or options.log)
    try:
        options.act(options)
    except GenrecError as error:
        if options.verbose:
            logger.exception("%s failed", options.verb)
        sys.stderr.write(f"genrec {options.verb}: {error}\n")
        return EXIT_USER_ERROR
    except KeyboardInterrupt:
        sys.stderr.write(f"genrec {options.verb}: interrupted; run the same command to go on\n")
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--config", metavar="FILE", help="settings file (default: ray_config.yaml if there is one)")
    common.add_argument("--preset", metavar="NAME", help="a preset of that file, merged over its base")
    common.add_argument(
        "--from-feedback",
        nargs="?",
        const="",
        metavar="URL",
        help="add what people liked or consumed at the endpoint to the data (default: the store of these settings)",
    )
    common.add_argument("--from-sweep", metavar="NAME", help="the best settings that `python -m tune NAME` found")
    common.add_argument(
        "--set", dest="overrides", action="append", default=[], metavar="a.b=c", help="override one setting; repeatable"
    )
    common.add_argument(
        "--strategy",
        choices=("single", "ddp", "deepspeed"),
        help="short for --set training.strategy=... (single: one worker)",
    )
    common.add_argument("--log", action="store_true", help="log how the work goes on: nodes, checkpoints, caches")
    common.add_argument("--verbose", "-v", action="store_true", help="the same, and show tracebacks")
    parser = argparse.ArgumentParser(prog="genrec", description="From interactions to generated recommendations.")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")

    def verb(name: str, about: str, act: Callable[[argparse.Namespace], None]) -> argparse.ArgumentParser:
        child = verbs.add_parser(name, parents=[common], help=about, description=about)
        child.set_defaults(act=act)
        return child

    verb("config", "print the resolved settings", _config)
    verb("status", "show which stages are up to date, without running any", _status)
    for name, about in STAGE_VERBS.items():
        verb(name, about, _stage)
    verb("run", "bring all stages up to date, in order, and print the results", _run)
    recommend = verb("recommend", "recommend items to a user or for a history", _recommend)
    who = recommend.add_mutually_exclusive_group(required=True)
    who.add_argument("--user", metavar="ID", help="a user of the data set")
    who.add_argument("--history", nargs="+", metavar="ITEM", help="item ids, oldest first")
    recommend.add_argument("-k", type=int, default=10, help="length of the list (default: 10)")
    recommend.add_argument("--exclude", nargs="+", default=[], metavar="ITEM", help="items not to list")
    recommend.add_argument("--bundle", metavar="DIR", help="directory or URI of a bundle (default: of these settings)")
    recommend.add_argument("--json", action="store_true", help="print JSON instead of a table")
    compare = verb("compare", "one table of several runs; runs that differ in the seed are averaged", _compare)
    compare.add_argument("runs", nargs="+", metavar="RUN", help="run names below run.directory")
    compare.add_argument("--json", action="store_true", help="print the metric rows as JSON instead of a table")
    content_command.add_options(verb("content", "made items: corpus, training, creating, measuring", _content))
    add_options(verb("grid", "run arms with several seeds and compare them (grids: in the settings file)", _grid))
    return parser


STAGE_VERBS = {
    "prepare": "read raw interactions into catalog, sequences and split",
    "tokenize": "embed the items and give them semantic IDs",
    "item-knn": "tune and count the co-occurrence baseline",
    "linear": "tune and solve the linear item-item baseline",
    "sasrec": "train the dense baseline",
    "content-knn": "find each item's nearest by its text",
    "pretrain": "train the generative model",
    "finetune": "learn how far to trust neighbours (plugin.retrieval)",
    "evaluate": "rank the whole catalog with every model; metrics.json and report.html",
    "bundle": "gather what serving loads",
}
"""The stages of genrec.stages; written out here so that --help need not import them. A test compares."""


def _overrides(options: argparse.Namespace) -> list[str]:
    overrides = list(options.overrides)
    if options.strategy == "single":
        overrides.insert(0, "training.workers=1")  # over a preset's, but not over a --set that says otherwise
    if options.strategy:
        overrides.append(f"training.strategy={options.strategy}")
    return overrides


def _settings(options: argparse.Namespace) -> Settings:
    settings = _settings_alone(options)
    return settings if options.from_feedback is None else _with_feedback(settings, options.from_feedback)


def _with_feedback(settings: Settings, url: str) -> Settings:
    """The same settings with the store's log of this moment added to the data."""
    from genrec.data.readers.feedback import SQLITE_FILE, export_feedback

    directory = local_root(settings.run.directory, settings.run.mirror)
    own = settings.serve.store_url or f"sqlite:///{(directory / settings.run.name / SQLITE_FILE).resolve()}"
    path, count = export_feedback(url or own, directory / "feedback")
    sys.stderr.write(f"{count} interactions of the endpoint are added to the data: {path}\n")
    data = settings.data.model_copy(update={"feedback": str(path)})
    return settings.model_copy(update={"data": data})


def _settings_alone(options: argparse.Namespace) -> Settings:
    if options.from_sweep is None:
        return load_settings(options.config, preset=options.preset, overrides=_overrides(options))
    if options.preset is not None:
        raise SettingsError(
            f"--preset {options.preset}: a sweep says its preset itself; leave it out with --from-sweep"
        )
    from genrec.stages.swept import settings_from_sweep

    return settings_from_sweep(options.from_sweep, options.config, _overrides(options))


def _pipeline(options: argparse.Namespace, *, quiet: bool = False) -> Pipeline:
    from genrec.stages import Pipeline

    return Pipeline(_settings(options), reporter=None if quiet else StageProgress())


def _config(options: argparse.Namespace) -> None:
    sys.stdout.write(resolved_yaml(_settings(options)))


def _status(options: argparse.Namespace) -> None:
    pipeline = _pipeline(options, quiet=True)
    table = Table("stage", "key", "state")
    for name, finished in pipeline.status().items():
        table.add_row(name, pipeline.plans[name].key, "up to date" if finished else "to be made")
    _console().print(table)


def _stage(options: argparse.Namespace) -> None:
    pipeline = _pipeline(options)
    path = pipeline.ensure(options.verb)
    if options.verb == "evaluate":
        _print_results(path)
    else:
        sys.stdout.write(f"{path}\n")


def _run(options: argparse.Namespace) -> None:
    pipeline = _pipeline(options)
    for name in pipeline.plans:
        pipeline.ensure(name)
    _print_results(pipeline.ensure("evaluate"))
    path, where = pipeline.folder.path, pipeline.store.where
    sys.stdout.write(f"report: {where(path / 'report.html')}\nbundle: {where(path / 'bundle')}\n")


def _print_results(evaluated: Path) -> None:
    from genrec.evaluation.metrics import MetricRow
    from genrec.evaluation.tables import results_table

    rows = json.loads((evaluated / "metrics.json").read_bytes())
    _console().print(results_table([MetricRow(**row, users=0) for row in rows]))


def _recommend(options: argparse.Namespace) -> None:
    bundle = options.bundle or _pipeline(options).ensure("bundle")
    from genrec.recommender import Recommender, RecommendRequest

    recommender = Recommender.load(bundle)
    history = tuple(options.history) if options.history else None
    request = RecommendRequest(options.user, history, options.k, tuple(options.exclude))
    (items,) = recommender.recommend_batch([request])
    if options.json:
        answer = {
            "bundle_version": recommender.version,
            "sid_version": recommender.sid_version,
            "items": [item.model_dump(mode="json") for item in items],
        }
        sys.stdout.write(json.dumps(answer, indent=1, ensure_ascii=False) + "\n")
        return
    table = Table("#", "item", "title", "log-probability", "semantic ID")
    for place, item in enumerate(items, start=1):
        codes = "-".join(map(str, item.evidence["semantic_id"]))
        table.add_row(str(place), item.item_id, item.title, f"{item.score:.3f}", codes)
    _console().print(table)


def _compare(options: argparse.Namespace) -> None:
    from genrec.evaluation.tables import results_table
    from genrec.stages.compare import compare

    settings = _settings(options)
    rows = compare(settings.run.directory, options.runs, settings.evaluation, settings.run.mirror)
    if options.json:
        sys.stdout.write(json.dumps([asdict(row) for row in rows], indent=1, ensure_ascii=False) + "\n")
        return
    for dataset in dict.fromkeys(row.dataset for row in rows):
        _console().print(results_table([row for row in rows if row.dataset == dataset]))


def _grid(options: argparse.Namespace) -> None:
    run_grids(options, _overrides(options), _console())


def _content(options: argparse.Namespace) -> None:
    content_command.run_content(options, _settings(options), _console())


def _console() -> Console:
    """Standard output; wide enough for every table where it is no terminal."""
    console = Console()
    return console if console.is_terminal else Console(width=140)


def _configure_logging(more: bool) -> None:
    from rich.logging import RichHandler

    console = Console(stderr=True)
    console = console if console.is_terminal else Console(stderr=True, width=200)  # a file's lines stay whole
    handler = RichHandler(console=console, show_path=False, rich_tracebacks=False)
    handler.setLevel(logging.INFO if more else logging.WARNING)  # some libraries' loggers let everything through
    logging.basicConfig(level=logging.WARNING, format="%(message)s", handlers=[handler])
    logging.getLogger("genrec").setLevel(logging.INFO if more else logging.WARNING)
