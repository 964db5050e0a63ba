"""Writes a bundle for a pipeline."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from lakelet.errors import SpecError
from lakelet.secrets import is_secret

_HEADER = "# Written by `lakelet export --databricks`; yours to change.\n"
FREE_EDITION_CATALOG = "workspace"
"""The catalog that a new workspace has; Spark's own default name means nothing there."""


def write_bundle(
    folder: Path,
    *,
    name: str,
    catalog: str,
    schema: str,
    configuration: Mapping[str, str],
    libraries: Iterable[str],
    root: Path,
    schemas: Iterable[str] = (),
    volumes: Iterable[tuple[str, str, str]] = (),
    force: bool = False,
) -> list[Path]:
    """Write `databricks.yml` and the pipeline's resources below it, and return the files.

    Args:
        libraries: paths of files or `<folder>/**`, relative to `root`.
        schemas: those of the catalog that the pipeline writes to, beside its own.
        volumes: catalog, schema and name of those that it reads.
        force: overwrite what is there.

    Raises:
        SpecError: `BUNDLE_EXISTS`, `PROJECT_NOT_WRITABLE`.
    """
    import yaml

    key = _key(name, "pipeline")
    up = os.path.relpath(root, folder)
    if catalog == "spark_catalog":
        catalog = FREE_EDITION_CATALOG
    bundle: dict[str, Any] = {
        "bundle": {"name": key},
        "include": ["resources/*.yml"],
        "variables": {
            "catalog": {"description": "Where names without a catalog are.", "default": catalog},
            "schema": {"description": "Where names without a schema are.", "default": schema},
        },
        "targets": {"dev": {"default": True, "mode": "development"}, "prod": {"mode": "production"}},
    }
    named = sorted(set(schemas) - {schema})
    if named:  # the pipeline's files name them: no prefix may come before the names
        bundle["experimental"] = {"skip_name_prefix_for_schema": True}
    if up != ".":
        bundle["sync"] = {"paths": [".", up]}
    pipeline: dict[str, Any] = {
        "name": name,
        "catalog": "${var.catalog}",
        "schema": "${var.schema}",
        "serverless": True,
        "root_path": _below(up, "."),
        "libraries": [{"glob": {"include": _below(up, library)}} for library in libraries],
    }
    if configuration:
        # A secret's value stays here: it becomes a variable that a deployment must give.
        hidden = {setting: _key(setting).lower() for setting in configuration if is_secret(setting)}
        bundle["variables"] |= {name: {"description": f"The value of `{setting}`."} for setting, name in hidden.items()}
        pipeline["configuration"] = {
            setting: f"${{var.{hidden[setting]}}}" if setting in hidden else value
            for setting, value in configuration.items()
        }
    resources: dict[str, Any] = {"pipelines": {key: pipeline}}
    if named:
        resources["schemas"] = {_key(each): {"name": each, "catalog_name": "${var.catalog}"} for each in named}
    kept = sorted(set(volumes))
    if kept:
        resources["volumes"] = {
            _key("_".join(parts)): {
                "name": parts[2],
                "catalog_name": parts[0],
                "schema_name": parts[1],
                "volume_type": "MANAGED",
            }
            for parts in kept
        }
    contents = {"databricks.yml": bundle, f"resources/{key}.yml": {"resources": resources}}
    present = [file for file in contents if (folder / file).exists()]
    if present and not force:
        raise SpecError(
            "BUNDLE_EXISTS",
            f"`{folder}` already has `{present[0]}`",
            hint="give another folder with `--output`, or overwrite it with `--force`",
        )
    try:
        for file, fields in contents.items():
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            text = yaml.safe_dump(fields, sort_keys=False, allow_unicode=True, width=120)
            (folder / file).write_text(_HEADER + text, encoding="utf-8")
    except OSError as error:
        raise SpecError(
            "PROJECT_NOT_WRITABLE",
            f"the bundle cannot be written to `{folder}`",
            cause=str(error),
            hint="check the folder",
        ) from error
    return [folder / file for file in contents]


def _key(name: str, kind: str = "schema") -> str:
    """Return a resource's key, which must not begin with a digit."""
    key = re.sub(r"\W+", "_", name)
    return key if re.match(r"[A-Za-z]", key) else f"{kind}_{key}"


def _below(up: str, path: str) -> str:
    """Return a path of the project as one relative to `resources/` of the bundle."""
    return Path(os.path.normpath(os.path.join("..", up, path))).as_posix()  # noqa: PTH118 - `Path` keeps `..`
