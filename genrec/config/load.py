"""Reading ray_config.yaml: base, then one preset, then ``--set`` overrides, then validation."""

from __future__ import annotations

import difflib
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from genrec.config.tree import Settings
from genrec.errors import SettingsError

DEFAULT_CONFIG = "ray_config.yaml"
GRIDS, SWEEPS = "grids", "sweeps"
"""Sections of the file beside the presets (genrec.config.grids, tune/settings.py); no part of the settings."""


def load_settings(
    path: str | Path | None = None,
    *,
    preset: str | None = None,
    layers: Sequence[Mapping[str, Any]] = (),
    overrides: Sequence[str] = (),
) -> Settings:
    """Read, merge and validate the settings.

    Args:
        path: the YAML file; None: ray_config.yaml here if it exists, else built-in defaults.
        preset: name below the file's ``presets`` key, merged over the base.
        layers: trees of sections, merged over the preset one after another.
        overrides: ``section.key=value`` with a YAML value, merged last.

    Raises:
        SettingsError: naming the key, the value and what it may be.
    """
    tree = read_tree(path)
    for section in (GRIDS, SWEEPS):
        tree.pop(section, None)
    presets = tree.pop("presets", {}) or {}
    if not isinstance(presets, dict):
        raise SettingsError(f"presets: expected name: sections, got {type(presets).__name__}")
    if preset is not None:
        if preset not in presets:
            raise SettingsError(f"preset {preset!r} is not in the file; it has: {', '.join(sorted(presets)) or 'none'}")
        if not isinstance(presets[preset] or {}, dict):
            raise SettingsError(f"presets.{preset}: expected sections, got {type(presets[preset]).__name__}")
        tree = _merged(tree, presets[preset])
    for layer in layers:
        tree = _merged(tree, layer)
    for override in overrides:
        tree = _merged(tree, _parse_override(override))
    return _validated(tree)


def resolved_yaml(settings: Settings) -> str:
    """The resolved tree as YAML that :func:`load_settings` reads back."""
    return yaml.safe_dump(settings.model_dump(mode="json"), sort_keys=False)


def read_tree(path: str | Path | None) -> dict[str, Any]:
    """The file's sections as they stand there, presets and grids too; none if there is no default file.

    Raises:
        SettingsError: no such file, or not YAML sections.
    """
    if path is None:
        if not Path(DEFAULT_CONFIG).is_file():
            return {}
        path = DEFAULT_CONFIG
    try:
        tree = yaml.load(Path(path).read_text(encoding="utf-8"), Loader=_UniqueKeys)  # noqa: S506 (a SafeLoader)
    except OSError as error:
        raise SettingsError(f"--config {path}: {error.strerror or error}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise SettingsError(f"--config {path}: not YAML: {error}") from error
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise SettingsError(f"--config {path}: expected sections (key: value), got {type(tree).__name__}")
    return tree


class _UniqueKeys(yaml.SafeLoader):
    """YAML lets the last of two equal keys win silently; in settings that is a mistake."""


def _mapping(loader: yaml.SafeLoader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen: set[str] = set()
    for key, _ in node.value:
        if isinstance(key, yaml.ScalarNode) and key.value != "<<":
            if key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key {key.value!r} is there twice", key.start_mark)
            seen.add(key.value)
    loader.flatten_mapping(node)
    return loader.construct_mapping(node, deep=True)


_UniqueKeys.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


def _merged(base: Mapping[str, Any], over: Mapping[str, Any] | None) -> dict[str, Any]:
    result = dict(base)
    for key, value in (over or {}).items():
        old = result.get(key)
        result[key] = _merged(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return result


def _parse_override(text: str) -> dict[str, Any]:
    name, equals, raw = text.partition("=")
    keys = name.strip().split(".")
    if not equals or not all(keys):
        raise SettingsError(f"--set {text!r}: write section.key=value, for example --set training.epochs=5")
    try:
        value: Any = yaml.safe_load(raw)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise SettingsError(f"--set {text!r}: the value is not YAML: {error}") from error
    if isinstance(value, str):
        value = _number(value)
    for key in reversed(keys):
        value = {key: value}
    return dict(value)


def _number(text: str) -> Any:
    """YAML 1.1 reads 1e-3 as a string; people mean a number."""
    try:
        return float(text)
    except ValueError:
        return text


def _validated(tree: Mapping[str, Any]) -> Settings:
    try:
        return Settings.model_validate(tree)
    except ValidationError as error:
        raise SettingsError("\n".join(explain(item, Settings) for item in error.errors())) from None


def explain(item: Any, model: type[BaseModel], where: str = "") -> str:
    """One of pydantic's complaints as key, value and mend; ``where`` the tree of ``model`` stands."""
    location = [str(part) for part in item["loc"]]
    name = ".".join([where, *location] if where else location)
    if item["type"] == "extra_forbidden":
        known = _keys_at(model, location[:-1])
        near = difflib.get_close_matches(location[-1], known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known keys: {', '.join(known)}"
        return f"{name}: unknown key; {hint}"
    message = item["msg"].removeprefix("Value error, ")
    if item["type"] == "value_error":  # a rule across keys: its text names them
        return f"{where}.{message}" if where else message
    return f"{name}: {message} (got {item['input']!r})"


def _keys_at(model: Any, location: Sequence[str]) -> list[str]:
    for part in location:
        if typing.get_origin(model) is dict:
            model = typing.get_args(model)[1]
        elif isinstance(model, type) and issubclass(model, BaseModel) and part in model.model_fields:
            model = model.model_fields[part].annotation
    return sorted(model.model_fields) if isinstance(model, type) and issubclass(model, BaseModel) else []
