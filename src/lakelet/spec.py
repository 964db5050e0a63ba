"""The project file `spark-pipeline.yml`: Apache's fields, and our settings as `lakelet.*` configuration keys.

A Databricks bundle (`databricks.yml`) is a project file, too: `lakelet.bundle` reads it.

Source of the fields: https://spark.apache.org/docs/latest/declarative-pipelines-programming-guide.html
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any
from urllib.parse import unquote, urlsplit

from lakelet.bundle.fields import BUNDLE_FILE_NAMES
from lakelet.bundle.pipeline import BundleChoice, load_pipeline
from lakelet.errors import Origin, SpecError, did_you_mean
from lakelet.places import SCHEMES, ObjectPath, Place, is_remote
from lakelet.settings import SETTINGS, SOURCE_FOLDERS, TABLES_PREFIX, check_setting, is_setting

SPEC_FILE_NAMES = ("spark-pipeline.yml", "spark-pipeline.yaml")
FIELDS = ("name", "storage", "catalog", "database", "schema", "configuration", "libraries")
STORAGE_VARIABLE = "LAKELET_STORAGE"
TIME_ZONE = "spark.sql.session.timeZone"
_OTHER_FIELDS = {
    "target": "write `schema`, its name in this file",
    "root_path": "leave it out: paths are relative to the project file",
    "continuous": "leave it out, and run `lakelet run --continuous`",
    "development": "leave it out: it means nothing here",
    "clusters": "leave it out: there is no cluster here",
    "serverless": "leave it out: there is no cluster here",
    "environment": "leave it out, and install the packages into the environment that runs `lakelet`",
}
"""Fields of a Databricks pipeline's settings, and what they are here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PipelineSpec:
    """A project file, read and checked.

    Attributes:
        storage: absolute folder of the tables, checkpoints and the event log.
        configuration: what `spark.conf.get` sees; without our own settings.
        settings: the keys of `SETTINGS` that are set.
        libraries: file paths or `<folder>/**`, relative to `root`.
        root: the folder of the project file.
    """

    name: str
    storage: Place
    catalog: str
    database: str
    configuration: Mapping[str, str]
    settings: Mapping[str, str]
    libraries: tuple[str, ...]
    root: Path
    file: Path

    def setting(self, key: str) -> Any:
        """Return the parsed value of a setting, or of its default; None where it has none."""
        declared = SETTINGS[key]
        text = self.settings.get(key, declared.default)
        return None if text is None else declared.parse(text)

    @property
    def time_zone(self) -> str:
        """The session's zone: `lakelet.timezone`, else Spark's own setting, else UTC whatever the machine's zone is."""
        own = self.settings.get("lakelet.timezone")
        return own or self.configuration.get(TIME_ZONE) or str(self.setting("lakelet.timezone"))

    @property
    def engine_configuration(self) -> dict[str, str]:
        """The settings that an engine's session starts with."""
        spark = {key: value for key, value in self.configuration.items() if key.startswith("spark.")}
        return {**spark, TIME_ZONE: self.time_zone}

    def overridden(self, configuration: Mapping[str, str]) -> PipelineSpec:
        """Return the project file with some of its `configuration` replaced."""
        own = {key: value for key, value in configuration.items() if is_setting(key)}
        for key, value in own.items():
            check_setting(key, value)
        plain = {key: value for key, value in configuration.items() if not key.startswith("lakelet.")}
        return replace(self, settings={**self.settings, **own}, configuration={**self.configuration, **plain})

    @property
    def external_tables(self) -> Mapping[str, str]:
        """Tables outside of the pipeline: name as the pipeline's files write it → path."""
        return {
            key.removeprefix(TABLES_PREFIX): path
            for key, path in self.settings.items()
            if key.startswith(TABLES_PREFIX)
        }

    @property
    def source_folders(self) -> tuple[Path, ...]:
        """Extra folders whose modules the pipeline's files may import."""
        return tuple(self.root / folder for folder in self.setting(SOURCE_FOLDERS))


def find_spec(path: str | Path | None = None) -> Path:
    """Return the project file: `path`, or the nearest one in the working directory and its ancestors.

    Args:
        path: a file, or a folder that has one.

    Raises:
        SpecError: `PIPELINE_SPEC_FILE_DOES_NOT_EXIST`, `PIPELINE_SPEC_FILE_NOT_FOUND` or
            `MULTIPLE_PIPELINE_SPEC_FILES_FOUND`.
    """
    if path is not None:
        given = Path(path).expanduser().absolute()
        if given.is_file():
            return given
        if not given.is_dir():
            raise SpecError(
                "PIPELINE_SPEC_FILE_DOES_NOT_EXIST",
                f"the project file `{path}` does not exist",
                hint="check `--spec`, or write a project with `lakelet init`",
            )
        found = _spec_in(given)
        if found is None:
            raise _spec_not_found(given)
        return found
    start = Path.cwd()
    for folder in (start, *start.parents):
        found = _spec_in(folder)
        if found is not None:
            return found
    raise _spec_not_found(start)


def load_spec(
    path: str | Path | None = None, *, storage: str | Place | None = None, choice: BundleChoice | None = None
) -> PipelineSpec:
    """Read and check a project file.

    Args:
        path: as in `find_spec`.
        storage: wins over the variable `LAKELET_STORAGE`, which wins over the file; relative to the working
            directory, while a relative path in the file is relative to the file's folder.
        choice: of a bundle, which pipeline and target.

    Raises:
        SpecError: Spark's condition where it has one, else `PIPELINE_SPEC_INVALID_YAML`,
            `PIPELINE_SPEC_DUPLICATE_KEY`, `PIPELINE_SPEC_FIELD_NOT_STRING`, `PIPELINE_SETTING_UNKNOWN` or
            `PIPELINE_SETTING_INVALID`; `BUNDLE_CHOICE_WITHOUT_BUNDLE`; those of `lakelet.bundle.pipeline.load_pipeline`.
    """
    file = find_spec(path)
    if file.name in BUNDLE_FILE_NAMES:
        return _bundle_spec(file, storage=storage, choice=choice)
    if choice:
        raise SpecError(
            "BUNDLE_CHOICE_WITHOUT_BUNDLE",
            f"`{file.name}` is no bundle, so there is no pipeline, target or variable to choose",
            origin=Origin(file=file.name),
            hint=f"leave the options out, or give `--spec {BUNDLE_FILE_NAMES[0]}`",
        )
    document = _Document.read(file)
    fields = document.fields
    for required in ("name", "storage"):
        if fields.get(required) is None:
            raise SpecError(
                "PIPELINE_SPEC_MISSING_REQUIRED_FIELD",
                f"the project file has no `{required}`",
                origin=document.origin(),
                hint="add `name: my_pipeline`" if required == "name" else "add `storage: pipeline-storage`",
            )
    root = file.parent
    own_storage = storage_place(document.text("storage"), base=root, origin=document.origin("storage"))
    configuration, settings = _settings(document)
    return PipelineSpec(
        name=document.text("name"),
        storage=_chosen_storage(storage) or own_storage,
        catalog=document.text("catalog", default="spark_catalog"),
        database=document.text("database" if fields.get("database") is not None else "schema", default="default"),
        configuration=MappingProxyType(configuration),
        settings=MappingProxyType(settings),
        libraries=_libraries(document),
        root=root,
        file=file,
    )


def _chosen_storage(storage: str | Place | None) -> Place | None:
    override = storage if storage is not None else os.environ.get(STORAGE_VARIABLE) or None
    return None if override is None else storage_place(str(override), base=Path.cwd(), origin=None)


def _bundle_spec(file: Path, *, storage: str | Place | None, choice: BundleChoice | None) -> PipelineSpec:
    """Return a pipeline of a bundle; without a chosen storage each pipeline of each target has its own below the bundle."""
    found = load_pipeline(file, choice)
    root = file.parent
    settings = {key: value for key, value in found.configuration.items() if is_setting(key)}
    for key, value in settings.items():
        check_setting(key, value, origin=found.origins.get(f"configuration.{key}"))
    if found.root_path is not None:
        folders = [
            *SETTINGS[SOURCE_FOLDERS].parse(settings.get(SOURCE_FOLDERS, "")),
            os.path.relpath(found.root_path, root),
        ]
        settings[SOURCE_FOLDERS] = ",".join(dict.fromkeys(folders))
    plain = {key: value for key, value in found.configuration.items() if not key.startswith("lakelet.")}
    return PipelineSpec(
        name=found.name,
        storage=_chosen_storage(storage) or root / ".lakelet" / found.target / found.key,
        catalog=found.catalog or "spark_catalog",
        database=found.schema or "default",
        configuration=MappingProxyType(plain),
        settings=MappingProxyType(settings),
        libraries=tuple(os.path.relpath(library, root) for library in found.libraries),
        root=root,
        file=file,
    )


def _spec_in(folder: Path) -> Path | None:
    found = [folder / name for name in SPEC_FILE_NAMES if (folder / name).is_file()]
    if not found:
        return next((folder / name for name in BUNDLE_FILE_NAMES if (folder / name).is_file()), None)
    if len(found) > 1:
        raise SpecError(
            "MULTIPLE_PIPELINE_SPEC_FILES_FOUND",
            f"the folder `{folder}` has two project files",
            cause=" and ".join(f"`{file.name}`" for file in found),
            hint="remove one, or name the one to use with `--spec`",
        )
    return found[0] if found else None


def _spec_not_found(folder: Path) -> SpecError:
    return SpecError(
        "PIPELINE_SPEC_FILE_NOT_FOUND",
        f"no `{SPEC_FILE_NAMES[0]}` and no `{BUNDLE_FILE_NAMES[0]}` in `{folder}` or a folder above it",
        hint="change to the pipeline's folder, give `--spec PATH`, or write one with `lakelet init`",
    )


@dataclass(frozen=True, slots=True)
class _Document:
    """A YAML mapping with the line of each of its keys (and of the keys of `configuration`)."""

    file: Path
    fields: Mapping[str, Any]
    lines: Mapping[str, int]

    @classmethod
    def read(cls, file: Path) -> _Document:
        import yaml

        try:
            content = file.read_text(encoding="utf-8")
            fields = yaml.safe_load(content)
            node = yaml.compose(content, Loader=yaml.SafeLoader)
        except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
            mark = getattr(error, "problem_mark", None)
            raise SpecError(
                "PIPELINE_SPEC_INVALID_YAML",
                f"`{file.name}` cannot be read",
                origin=Origin(file=file.name, line=mark.line + 1 if mark else None),
                cause=getattr(error, "problem", None) or str(error),
                hint="correct the YAML: check its indentation, colons and quotes"
                if isinstance(error, yaml.YAMLError)
                else "save it as UTF-8 text that you may read",
            ) from error
        if not isinstance(fields, dict):
            raise SpecError(
                "PIPELINE_SPEC_FIELD_NOT_DICT",
                f"`{file.name}` is not a mapping of fields",
                origin=Origin(file=file.name, line=1),
                hint="start with `name: my_pipeline` and `storage: pipeline-storage`",
            )
        lines: dict[str, int] = {}
        _note_lines(node, lines, file=file, prefix="")
        document = cls(file, fields, lines)
        for key in fields:
            if key not in FIELDS:
                near = did_you_mean(str(key), FIELDS)
                raise SpecError(
                    "PIPELINE_SPEC_UNEXPECTED_FIELD",
                    f"the project file has no field `{key}`",
                    origin=document.origin(str(key)),
                    hint=_OTHER_FIELDS.get(str(key))
                    or (f"did you mean `{near}`?" if near else "the fields are " + ", ".join(FIELDS)),
                )
        return document

    def origin(self, key: str = "") -> Origin:
        return Origin(file=self.file.name, line=self.lines.get(key, 1))

    def text(self, key: str, *, default: str | None = None) -> str:
        value = self.fields.get(key)
        if value is None and default is not None:
            return default
        if not isinstance(value, str) or not value.strip():
            raise SpecError(
                "PIPELINE_SPEC_FIELD_NOT_STRING",
                f"`{key}` must be text, got {type(value).__name__} {value!r}",
                origin=self.origin(key),
                hint=f'put it in quotes: `{key}: "{value}"`' if value else f"give `{key}` a value",
            )
        return value


def _note_lines(node: Any, lines: dict[str, int], *, file: Path, prefix: str) -> None:
    """Remember where each key is, and refuse a key that is there twice: YAML would let the last one win."""
    for key_node, value_node in node.value:
        key, line = prefix + str(key_node.value), key_node.start_mark.line + 1
        if key in lines:
            raise SpecError(
                "PIPELINE_SPEC_DUPLICATE_KEY",
                f"`{key_node.value}` is there twice",
                origin=Origin(file=file.name, line=line),
                cause=f"first on line {lines[key]}",
                hint="remove one of them",
            )
        lines[key] = line
        if key == "configuration" and value_node.id == "mapping":
            _note_lines(value_node, lines, file=file, prefix="configuration.")


def _settings(document: _Document) -> tuple[dict[str, str], dict[str, str]]:
    """Split `configuration` into what the pipeline's files see and our own settings."""
    given = document.fields.get("configuration")
    if given is None:
        return {}, {}
    if not isinstance(given, dict):
        raise SpecError(
            "PIPELINE_SPEC_FIELD_NOT_DICT",
            f"`configuration` must be a mapping, got {type(given).__name__}",
            origin=document.origin("configuration"),
            hint='write one `key: "value"` a line below it',
        )
    configuration: dict[str, str] = {}
    settings: dict[str, str] = {}
    for key, value in given.items():
        origin = document.origin(f"configuration.{key}")
        if not isinstance(key, str):
            raise SpecError(
                "PIPELINE_SPEC_DICT_KEY_NOT_STRING",
                f"the key `{key}` of `configuration` must be text",
                origin=origin,
                hint=f'put it in quotes: `"{key}":`',
            )
        if not isinstance(value, str):
            shown = str(value).lower() if isinstance(value, bool) else value
            raise SpecError(
                "PIPELINE_SPEC_DICT_VALUE_NOT_STRING",
                f"the value of `{key}` in `configuration` must be text, got {type(value).__name__}",
                origin=origin,
                hint=f'put it in quotes: `{key}: "{shown}"`',
            )
        if is_setting(key):
            check_setting(key, value, origin=origin)
            settings[key] = value
        if not key.startswith("lakelet."):
            configuration[key] = value
    return configuration, settings


def _libraries(document: _Document) -> tuple[str, ...]:
    entries = document.fields.get("libraries") or []
    origin = document.origin("libraries")
    patterns: list[str] = []
    for entry in entries if isinstance(entries, list) else [entries]:
        pattern = entry.get("glob", {}).get("include") if _is_glob(entry) else None
        if not isinstance(pattern, str):
            raise SpecError(
                "PIPELINE_SPEC_INVALID_LIBRARY",
                f"`libraries` has an entry that is not a glob: {entry!r}",
                origin=origin,
                hint="write `- glob: {include: transformations/**}`",
            )
        prefix = pattern.removesuffix("/**")
        if re.search(r"[*?\[\]]", prefix):
            raise SpecError(
                "PIPELINE_SPEC_INVALID_GLOB_PATTERN",
                f"`{pattern}` is not a pattern that `libraries` takes",
                origin=origin,
                cause="an entry is the path of a file, or a folder followed by `/**`",
                hint=f"write `{re.split(r'/?[^/]*[*?[]', pattern)[0] or 'transformations'}/**`",
            )
        patterns.append(pattern)
    return tuple(patterns)


def _is_glob(entry: Any) -> bool:
    return isinstance(entry, dict) and set(entry) == {"glob"} and isinstance(entry["glob"], dict)


def absolute_path(path: str | Path) -> Path:
    """Return a path as an absolute one without `..`, and without following links, so that users recognise it."""
    return Path(os.path.abspath(path))  # noqa: PTH100 - `Path.resolve` follows links


def storage_place(text: str, *, base: Path, origin: Origin | None = None) -> Place:
    """Return a storage location: an address in an object store, `file:` URI, absolute path, or a path relative to `base`."""
    if is_remote(text):
        return ObjectPath.of(text)
    scheme = re.match(r"[A-Za-z][A-Za-z0-9+.-]+:", text)
    if scheme is None:
        return absolute_path(base / Path(text).expanduser())
    parts = urlsplit(text)
    if parts.scheme == "file" and parts.netloc in ("", "localhost") and parts.path.startswith("/"):
        return absolute_path(unquote(parts.path))
    raise SpecError(
        "PIPELINE_STORAGE_ROOT_INVALID",
        f"`storage` is `{text}`, which is neither a local folder nor in an object store that is known",
        origin=origin,
        cause=f"addresses begin with {', '.join(f'`{name}://`' for name in SCHEMES)}",
        hint="write `storage: file:///absolute/folder`, or a path relative to the project file",
    )
