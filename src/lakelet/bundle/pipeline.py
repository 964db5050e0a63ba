"""One pipeline of a bundle, as plain data."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lakelet.bundle import fields
from lakelet.bundle.document import Bundle, LocatedList, LocatedMap, Place, expect_fields, mapping
from lakelet.bundle.variables import Variables, as_text
from lakelet.errors import Origin, SpecError, did_you_mean


@dataclass(frozen=True, slots=True, kw_only=True)
class BundleChoice:
    """Which pipeline of a bundle is meant, and with which values.

    Attributes:
        pipeline: key or name under `resources.pipelines`; not needed where there is one.
        target: not needed where there is a default, or one.
        variables: values that win over all others.
    """

    pipeline: str | None = None
    target: str | None = None
    variables: Mapping[str, str] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.pipeline or self.target or self.variables)


@dataclass(frozen=True, slots=True, kw_only=True)
class BundlePipeline:
    """One pipeline of a bundle, its variables resolved.

    Attributes:
        libraries: absolute paths of files, or `<absolute folder>/**`.
        root_path: folder that files may import from.
        ignored: fields that mean nothing on this machine.
        origins: where each field and, as `configuration.<key>`, each key of the configuration stands.
    """

    key: str
    name: str
    target: str
    catalog: str | None
    schema: str | None
    configuration: Mapping[str, str]
    libraries: tuple[str, ...]
    root_path: Path | None
    ignored: tuple[str, ...]
    origins: Mapping[str, Origin]


def load_pipeline(file: Path, choice: BundleChoice | None = None) -> BundlePipeline:
    """Read one pipeline of a bundle.

    Raises:
        SpecError: those of `Bundle.read` and `Variables.resolved`; `BUNDLE_PIPELINE_NOT_FOUND`,
            `BUNDLE_PIPELINE_NOT_CHOSEN`, `UNSUPPORTED_FEATURE`, `PIPELINE_SPEC_FIELD_NOT_STRING`,
            `PIPELINE_SPEC_INVALID_LIBRARY` or `PIPELINE_SPEC_INVALID_GLOB_PATTERN`.
    """
    choice = choice or BundleChoice()
    bundle = Bundle.read(file, target=choice.target or os.environ.get(fields.TARGET_VARIABLE) or None)
    variables = Variables(bundle=bundle, given=choice.variables)
    key, declared = _chosen(bundle, choice.pipeline)
    return _Reader(bundle=bundle, variables=variables, declared=declared).pipeline(key)


def _chosen(bundle: Bundle, wanted: str | None) -> tuple[str, LocatedMap]:
    resources = mapping(bundle.fields, "resources", root=bundle.root)
    pipelines = mapping(resources, "pipelines", root=bundle.root)
    place = resources.places.get("pipelines")
    if not pipelines:
        raise SpecError(
            "BUNDLE_PIPELINE_NOT_FOUND",
            f"the bundle `{bundle.file.name}` has no pipeline",
            origin=bundle.origin(place),
            hint="add one under `resources.pipelines`, here or in a file that `include` names",
        )
    names = {key: mapping(pipelines, key, root=bundle.root).get("name", key) for key in pipelines}
    if wanted is None and len(pipelines) > 1:
        raise SpecError(
            "BUNDLE_PIPELINE_NOT_CHOSEN",
            f"the bundle has {len(pipelines)} pipelines: {', '.join(sorted(pipelines))}",
            origin=bundle.origin(place),
            hint="say which with `--pipeline NAME`",
        )
    found = [key for key, name in names.items() if wanted in (None, key)] or [
        key for key, name in names.items() if name == wanted
    ]
    if len(found) != 1:
        near = did_you_mean(str(wanted), pipelines)
        raise SpecError(
            "BUNDLE_PIPELINE_NOT_FOUND",
            f"the bundle has no pipeline `{wanted}`",
            origin=bundle.origin(place),
            hint=f"did you mean `{near}`?" if near else f"the pipelines are {', '.join(sorted(pipelines))}",
        )
    return found[0], mapping(pipelines, found[0], root=bundle.root)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Reader:
    bundle: Bundle
    variables: Variables
    declared: LocatedMap

    def pipeline(self, key: str) -> BundlePipeline:
        declared = self.declared
        expect_fields(declared, fields.PIPELINE, what="a pipeline", root=self.bundle.root)
        for refused, hint in fields.PIPELINE_REFUSED.items():
            if declared.get(refused):
                raise SpecError(
                    "UNSUPPORTED_FEATURE",
                    f"`{refused}` of a pipeline is not supported",
                    origin=self._origin(refused),
                    hint=hint,
                )
        configuration = self._configuration()
        root_path = self._text("root_path")
        return BundlePipeline(
            key=key,
            name=self._text("name") or key,
            target=self.bundle.target,
            catalog=self._text("catalog"),
            schema=self._text("schema") or self._text("target"),
            configuration=configuration,
            libraries=self._libraries(),
            root_path=None if root_path is None else self._path(root_path, declared.places["root_path"]),
            ignored=tuple(name for name in declared if name in fields.PIPELINE_IGNORED),
            origins={
                **{name: self._origin(name) for name in declared},
                **{
                    f"configuration.{name}": self.bundle.origin(place)
                    for name, place in getattr(declared.get("configuration"), "places", {}).items()
                },
            },
        )

    def _origin(self, name: str) -> Origin:
        return self.bundle.origin(self.declared.places.get(name))

    def _resolved(self, name: str) -> Any:
        value = self.declared.get(name)
        return None if value is None else self.variables.resolved(value, self.declared.places[name])

    def _text(self, name: str) -> str | None:
        value = self._resolved(name)
        if value is None or (isinstance(value, str) and value.strip()):
            return value
        if isinstance(value, bool | int | float):
            return as_text(value)
        raise SpecError(
            "PIPELINE_SPEC_FIELD_NOT_STRING",
            f"`{name}` must be text, got {type(value).__name__} {value!r}",
            origin=self._origin(name),
            hint=f"give `{name}` a value",
        )

    def _configuration(self) -> dict[str, str]:
        """Return `configuration` as text: Databricks turns numbers and booleans into it as well."""
        resolved = self._resolved("configuration")
        if resolved is None:
            return {}
        holder = LocatedMap({"configuration": resolved}, {"configuration": self.declared.places["configuration"]})
        given = mapping(holder, "configuration", root=self.bundle.root)
        for key, value in given.items():
            if not isinstance(value, str | bool | int | float):
                raise SpecError(
                    "PIPELINE_SPEC_DICT_VALUE_NOT_STRING",
                    f"the value of `{key}` in `configuration` must be text, got {type(value).__name__}",
                    origin=self.bundle.origin(given.places[key]),
                    hint=f'put it in quotes: `{key}: "…"`',
                )
        return {key: as_text(value) for key, value in given.items()}

    def _libraries(self) -> tuple[str, ...]:
        entries = self._resolved("libraries")
        if entries is None:
            return ()
        if not isinstance(entries, LocatedList):
            raise self._invalid_library(entries, self.declared.places["libraries"])
        return tuple(self._library(entry, place) for entry, place in zip(entries, entries.places, strict=True))

    def _library(self, entry: Any, place: Place) -> str:
        kind = next(iter(entry), None) if isinstance(entry, LocatedMap) and len(entry) == 1 else None
        if kind in fields.LIBRARIES_REFUSED:
            raise SpecError(
                "UNSUPPORTED_FEATURE",
                f"a `{kind}` library cannot be used here",
                origin=self.bundle.origin(place),
                hint="there is no JVM here: leave it out"
                if kind != "whl"
                else "leave it out, and install the wheel into the environment that runs `lakelet`",
            )
        inner = entry[kind] if kind in fields.LIBRARIES else None
        path = inner.get("include" if kind == "glob" else "path") if isinstance(inner, LocatedMap) else None
        if not isinstance(inner, LocatedMap) or not isinstance(path, str) or len(inner) != 1:
            raise self._invalid_library(entry, place)
        where = inner.places["include" if kind == "glob" else "path"]
        folder = kind == "glob" and path.endswith("/**")
        if re.search(r"[*?\[\]]", path.removesuffix("/**") if folder else path):
            raise SpecError(
                "PIPELINE_SPEC_INVALID_GLOB_PATTERN",
                f"`{path}` is not a pattern that `libraries` takes",
                origin=self.bundle.origin(where),
                cause="an entry is the path of a file, or a folder followed by `/**`",
                hint="write `- glob: {include: transformations/**}`",
            )
        found = self._path(path.removesuffix("/**") if folder else path, where)
        if folder:
            return f"{found}/**"
        if kind == "notebook" and not found.suffix:
            found = next((found.with_suffix(end) for end in (".py", ".sql") if found.with_suffix(end).is_file()), found)
        return str(found)

    def _path(self, text: str, place: Place) -> Path:
        """Return a path as an absolute one: relative paths are relative to the file that they stand in."""
        if text.startswith("/") and not Path(text).is_relative_to(self.bundle.root):
            raise SpecError(
                "UNSUPPORTED_FEATURE",
                f"`{text}` lies in a workspace",
                origin=self.bundle.origin(place),
                cause="the files of a bundle that runs here are those beside it",
                hint="use a path relative to the file of the bundle",
            )
        return Path(os.path.abspath(place.file.parent / text))  # noqa: PTH100 - `Path.resolve` follows links

    def _invalid_library(self, entry: Any, place: Place) -> SpecError:
        return SpecError(
            "PIPELINE_SPEC_INVALID_LIBRARY",
            f"`libraries` has an entry that is no library: {_plain(entry)!r}",
            origin=self.bundle.origin(place),
            hint="write `- glob: {include: transformations/**}`, `- file: {path: …}` or `- notebook: {path: …}`",
        )


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list) else value
