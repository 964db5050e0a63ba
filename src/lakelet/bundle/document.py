"""YAML of a bundle that remembers where each value stands, with its includes and its target merged in."""

from __future__ import annotations

import glob
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lakelet.bundle import fields
from lakelet.errors import Origin, SpecError, did_you_mean


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a value stands; `file` is absolute, because relative paths in a bundle are relative to their own file."""

    file: Path
    line: int


class LocatedMap(dict[str, Any]):
    """A mapping with the place of each key."""

    def __init__(self, items: Mapping[str, Any], places: Mapping[str, Place]) -> None:
        super().__init__(items)
        self.places = dict(places)


class LocatedList(list[Any]):
    """A list with the place of each element."""

    def __init__(self, items: Iterable[Any], places: Iterable[Place]) -> None:
        super().__init__(items)
        self.places = list(places)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """A bundle after its includes and one target were merged.

    Attributes:
        file: `databricks.yml`, absolute.
        target: name of the chosen target, `default` where the bundle has none.
    """

    file: Path
    fields: LocatedMap
    target: str

    @property
    def root(self) -> Path:
        return self.file.parent

    def origin(self, place: Place | None) -> Origin:
        """Return a place as an error shows it, relative to the bundle's folder."""
        return _origin(place or Place(file=self.file, line=1), self.root)

    @classmethod
    def read(cls, file: Path, *, target: str | None = None) -> Bundle:
        """Read a bundle's file and what it includes, and merge one target into it.

        Args:
            target: default: the one with `default: true`, or the only one.

        Raises:
            SpecError: `PIPELINE_SPEC_INVALID_YAML`, `PIPELINE_SPEC_DUPLICATE_KEY`, `PIPELINE_SPEC_FIELD_NOT_DICT`,
                `PIPELINE_SPEC_UNEXPECTED_FIELD`, `BUNDLE_INCLUDE_NOT_FOUND`, `BUNDLE_TARGET_NOT_CHOSEN` or
                `BUNDLE_TARGET_UNKNOWN`.
        """
        merged = _read(file, root=file.parent)
        for included in _included(merged, file):
            merged = _merge(merged, _read(included, root=file.parent))
        if "environments" in merged:  # the older name of `targets`
            merged = _merge(
                merged, LocatedMap({"targets": merged["environments"]}, {"targets": merged.places["environments"]})
            )
        name, overrides = _target(merged, file, wanted=target)
        if overrides is not None:
            expect_fields(overrides, fields.TARGET, what="a target", root=file.parent)
            parts = {key: value for key, value in overrides.items() if key in ("bundle", "resources", "workspace")}
            merged = _merge(merged, LocatedMap(parts, overrides.places))
            merged = _merge(merged, _target_variables(overrides))
        bundle = cls(file=file, fields=merged, target=name)
        resources = mapping(merged, "resources", root=bundle.root)
        expect_fields(resources, fields.RESOURCES, what="`resources`", root=bundle.root)
        return bundle


def mapping(parent: LocatedMap, key: str, *, root: Path) -> LocatedMap:
    """Return a mapping field, empty where it is missing.

    Raises:
        SpecError: `PIPELINE_SPEC_FIELD_NOT_DICT`.
    """
    value = parent.get(key)
    if value is None:
        return LocatedMap({}, {})
    if not isinstance(value, LocatedMap):
        raise SpecError(
            "PIPELINE_SPEC_FIELD_NOT_DICT",
            f"`{key}` must be a mapping, got {type(value).__name__}",
            origin=_origin(parent.places[key], root),
            hint="write one `key: value` a line below it",
        )
    return value


def expect_fields(given: LocatedMap, known: Sequence[str], *, what: str, root: Path) -> None:
    """Refuse a field that does not exist.

    Raises:
        SpecError: `PIPELINE_SPEC_UNEXPECTED_FIELD`.
    """
    for key in given:
        if key not in known:
            near = did_you_mean(key, known)
            raise SpecError(
                "PIPELINE_SPEC_UNEXPECTED_FIELD",
                f"{what} of a bundle has no field `{key}`",
                origin=_origin(given.places[key], root),
                hint=f"did you mean `{near}`?" if near else "the fields are " + ", ".join(sorted(known)),
            )


def _origin(place: Place, root: Path) -> Origin:
    shown = place.file.relative_to(root) if place.file.is_relative_to(root) else place.file
    return Origin(file=shown.as_posix(), line=place.line)


def _read(file: Path, *, root: Path) -> LocatedMap:
    import yaml

    shown = _origin(Place(file=file, line=1), root).file
    try:
        node = yaml.compose(file.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
        mark = getattr(error, "problem_mark", None)
        raise SpecError(
            "PIPELINE_SPEC_INVALID_YAML",
            f"`{shown}` cannot be read",
            origin=Origin(file=shown, line=mark.line + 1 if mark else None),
            cause=getattr(error, "problem", None) or str(error),
            hint="correct the YAML: check its indentation, colons and quotes",
        ) from error
    value = LocatedMap({}, {}) if node is None else _value(node, file, root)
    if not isinstance(value, LocatedMap):
        raise SpecError(
            "PIPELINE_SPEC_FIELD_NOT_DICT",
            f"`{shown}` is not a mapping of fields",
            origin=Origin(file=shown, line=1),
            hint="start with `bundle:` and `name: my_bundle` below it",
        )
    expect_fields(value, fields.ROOT, what="the root", root=root)
    return value


def _value(node: Any, file: Path, root: Path) -> Any:
    """Turn a YAML node into Python values with their places; `<<` is followed."""
    import yaml

    if isinstance(node, yaml.SequenceNode):
        places = [Place(file=file, line=item.start_mark.line + 1) for item in node.value]
        return LocatedList([_value(item, file, root) for item in node.value], places)
    if not isinstance(node, yaml.MappingNode):
        return yaml.constructor.SafeConstructor().construct_object(node)
    own = LocatedMap({}, {})
    inherited = LocatedMap({}, {})
    for key_node, value_node in node.value:
        place = Place(file=file, line=key_node.start_mark.line + 1)
        value = _value(value_node, file, root)
        if key_node.tag == "tag:yaml.org,2002:merge":
            for base in value if isinstance(value, LocatedList) else [value]:
                inherited = _overlaid(base, inherited)
            continue
        key = str(key_node.value)
        if key in own:
            raise SpecError(
                "PIPELINE_SPEC_DUPLICATE_KEY",
                f"`{key}` is there twice",
                origin=_origin(place, root),
                cause=f"first on line {own.places[key].line}",
                hint="remove one of them",
            )
        own[key], own.places[key] = value, place
    return _overlaid(inherited, own)


def _overlaid(base: LocatedMap, over: LocatedMap) -> LocatedMap:
    return LocatedMap({**base, **over}, {**base.places, **over.places})


def _merge(base: LocatedMap, over: LocatedMap) -> LocatedMap:
    """Merge as Databricks does: mappings by key, lists one after the other, and the later of two other values wins."""
    result = LocatedMap(base, base.places)
    for key, value in over.items():
        before = result.get(key)
        if isinstance(before, LocatedMap) and isinstance(value, LocatedMap):
            result[key] = _merge(before, value)
            continue
        if isinstance(before, LocatedList) and isinstance(value, LocatedList):
            result[key] = LocatedList([*before, *value], [*before.places, *value.places])
            continue
        if value is not None or before is None:
            result[key], result.places[key] = value, over.places[key]
    return result


def _included(merged: LocatedMap, file: Path) -> list[Path]:
    """Return the files that `include` names, in its order, each once."""
    patterns = merged.get("include") or LocatedList([], [])
    if not isinstance(patterns, LocatedList):
        raise SpecError(
            "PIPELINE_SPEC_FIELD_NOT_DICT",
            "`include` must be a list of paths",
            origin=_origin(merged.places["include"], file.parent),
            hint="write `- resources/*.yml` below it",
        )
    found: dict[Path, None] = {}
    for pattern, place in zip(patterns, patterns.places, strict=True):
        matches = sorted(glob.glob(str(pattern), root_dir=file.parent, recursive=True))
        if not matches and not glob.has_magic(str(pattern)):
            raise SpecError(
                "BUNDLE_INCLUDE_NOT_FOUND",
                f"`{pattern}` of `include` does not exist",
                origin=_origin(place, file.parent),
                hint="correct the path, which is relative to the bundle's folder",
            )
        found.update(dict.fromkeys(file.parent / match for match in matches if (file.parent / match) != file))
    return list(found)


def _target(merged: LocatedMap, file: Path, *, wanted: str | None) -> tuple[str, LocatedMap | None]:
    """Return the chosen target's name and fields."""
    targets = mapping(merged, "targets", root=file.parent)
    if not targets and wanted in (None, "default"):
        return "default", None
    defaults = [name for name, target in targets.items() if isinstance(target, LocatedMap) and target.get("default")]
    if wanted is not None:
        name = wanted
    elif len(defaults) == 1 or len(targets) == 1:
        name = (defaults or list(targets))[0]
    else:
        raise SpecError(
            "BUNDLE_TARGET_NOT_CHOSEN",
            f"the bundle has {len(targets)} targets, and "
            + ("several are" if defaults else "none is")
            + " the default",
            origin=_origin(merged.places["targets"], file.parent),
            hint=f"give `--bundle-target NAME`, or one of {', '.join(targets)} `default: true`",
        )
    if name not in targets:
        near = did_you_mean(name, targets)
        raise SpecError(
            "BUNDLE_TARGET_UNKNOWN",
            f"the bundle has no target `{name}`",
            origin=_origin(merged.places.get("targets", Place(file=file, line=1)), file.parent),
            hint=f"did you mean `{near}`?" if near else f"the targets are: {', '.join(targets) or 'none'}",
        )
    return name, mapping(targets, name, root=file.parent)


def _target_variables(target: LocatedMap) -> LocatedMap:
    """Return a target's variables as declarations: a plain value stands for a default."""
    given = target.get("variables")
    if not isinstance(given, LocatedMap):
        return LocatedMap({}, {})
    declared = LocatedMap({}, given.places)
    for name, value in given.items():
        is_declaration = isinstance(value, LocatedMap) and set(value) <= set(fields.VARIABLE)
        declared[name] = value if is_declaration else LocatedMap({"default": value}, {"default": given.places[name]})
    return LocatedMap({"variables": declared}, {"variables": target.places["variables"]})
