"""What a stage declares: the settings and inputs that its result depends on, and the function that makes it.

A stage's key is a hash of exactly these, so it can be computed for the whole chain without running
anything (a changed input changes every key after it). A settings leaf belongs to a key if it changes
what is made; where and how fast it is made does not. Whole sections are named and exceptions are listed,
so that a leaf added later counts until somebody decides otherwise: making again is the safe mistake.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from genrec.artifacts import ArtifactStore, Manifest, file_digest
from genrec.config import Settings


@dataclass(frozen=True)
class Outcome:
    """What a stage tells of its work.

    Attributes:
        metrics: counts, losses and times for the manifest; no part of the key.
        sid_version: version of the SidTable made or used; None where there is none.
    """

    metrics: Mapping[str, Any] = field(default_factory=dict)
    sid_version: str | None = None


@dataclass(frozen=True)
class Watch:
    """Who hears how a training goes on, checkpoint by checkpoint.

    Attributes:
        report: called with epoch, step and validation metrics, where the stage trains in this process.
        callbacks: of Ray Train, where it trains on Ray's workers.
    """

    report: Callable[[dict[str, float]], None] | None = None
    callbacks: Sequence[Any] = ()


@dataclass(frozen=True)
class Context:
    """What a stage function gets.

    Attributes:
        settings: the resolved tree.
        out: the empty directory for the artifact's files.
        scratch: directory that outlives a killed attempt (resumable stages only); no part of the artifact.
        inputs: input stage -> directory of its verified artifact.
        manifests: input stage -> manifest.
        cache: directory of things that may be deleted at any time.
        watch: who hears how a training goes on.
        store: where the inputs are from.
    """

    settings: Settings
    out: Path
    scratch: Path
    inputs: Mapping[str, Path]
    manifests: Mapping[str, Manifest]
    cache: Path
    watch: Watch = Watch()
    store: ArtifactStore = field(default_factory=lambda: ArtifactStore("."))

    def read(self) -> list[tuple[str, str]]:
        """Stage and key of each input."""
        return [(stage, manifest.key) for stage, manifest in self.manifests.items()]


@dataclass(frozen=True)
class Stage:
    """One link of the chain.

    Attributes:
        name: folder in the store and verb of the command line.
        about: what it does, in a few words.
        make: writes the artifact's files into ``Context.out``.
        depends: sections or leaves (dotted) of the settings that the result depends on.
        ignores: leaves of these that do not change the result; ``*`` stands for any one name.
        unread: leaves that are read under other settings only; None for none.
        inputs: stages whose artifacts it reads.
        further_inputs: stages that it reads as well under these settings; None for none.
        sources: name -> file outside the store that it reads (hashed into the key); None for none.
        resumable: a killed attempt is continued from its scratch directory, not begun anew.
        spread: it uses Ray, unless the strategy is `single`.
    """

    name: str
    about: str
    make: Callable[[Context], Outcome]
    depends: tuple[str, ...] = ()
    ignores: tuple[str, ...] = ()
    unread: Callable[[Settings], tuple[str, ...]] | None = None
    inputs: tuple[str, ...] = ()
    further_inputs: Callable[[Settings], tuple[str, ...]] | None = None
    sources: Callable[[Settings], Mapping[str, Path]] | None = None
    resumable: bool = False
    spread: bool = False

    def relevant(self, settings: Settings) -> dict[str, Any]:
        """The part of the settings that the key is made of, as leaf (dotted) -> value."""
        leaves = flatten(settings.model_dump(mode="json"))
        ignores = (*self.ignores, *(self.unread(settings) if self.unread else ()))
        return {
            leaf: value
            for leaf, value in leaves.items()
            if any(_within(leaf, part) for part in self.depends) and not any(_within(leaf, part) for part in ignores)
        }

    def source_digests(self, settings: Settings) -> dict[str, str]:
        """Name -> SHA-256 of each file outside the store."""
        paths = self.sources(settings) if self.sources else {}
        return {f"file:{name}": file_digest(path) for name, path in sorted(paths.items())}


@dataclass(frozen=True)
class Plan:
    """A stage with its address, before anything is run.

    Attributes:
        stage: the declaration, its inputs those under the settings.
        key: address of its artifact.
        settings: leaf -> value that the key depends on.
        inputs: input stage -> key, and ``file:name`` -> SHA-256.
    """

    stage: Stage
    key: str
    settings: Mapping[str, Any]
    inputs: Mapping[str, str]


def plan(stages: Mapping[str, Stage], settings: Settings) -> dict[str, Plan]:
    """Keys of all stages, computed without running any.

    Args:
        stages: by name; what they read is among them.
        settings: the resolved tree.
    """
    plans: dict[str, Plan] = {}

    def address(name: str) -> Plan:
        if name not in plans:
            stage = stages[name]
            if stage.further_inputs is not None:
                stage = replace(stage, inputs=(*stage.inputs, *stage.further_inputs(settings)))
            relevant = stage.relevant(settings)
            inputs = {source: address(source).key for source in stage.inputs} | stage.source_digests(settings)
            plans[name] = Plan(stage, ArtifactStore.key(name, relevant, inputs), relevant, inputs)
        return plans[name]

    return {name: address(name) for name in stages}


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Leaves of a nested tree by dotted name."""
    leaves: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            leaves |= flatten(value, f"{prefix}{key}.")
        else:
            leaves[prefix + key] = value
    return leaves


def nested(leaves: Mapping[str, Any]) -> dict[str, Any]:
    """The tree that :func:`flatten` came from."""
    tree: dict[str, Any] = {}
    for name, value in leaves.items():
        *sections, last = name.split(".")
        node = tree
        for section in sections:
            node = node.setdefault(section, {})
        node[last] = value
    return tree


def _within(leaf: str, part: str) -> bool:
    names, wanted = leaf.split("."), part.split(".")
    return len(names) >= len(wanted) and all(w in (n, "*") for n, w in zip(names, wanted, strict=False))
