"""Checks a bundle's resources against the models that Databricks generates from its own schema of bundles."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from databricks.bundles.catalogs import Catalog
from databricks.bundles.jobs import Job
from databricks.bundles.pipelines import Pipeline
from databricks.bundles.schemas import Schema
from databricks.bundles.volumes import Volume

MODELS: dict[str, Any] = {"catalogs": Catalog, "jobs": Job, "pipelines": Pipeline, "schemas": Schema, "volumes": Volume}
ROOT = {"bundle", "include", "variables", "sync", "experimental", "resources", "targets", "workspace"}
"""Fields of a bundle's root; the package has models of resources only."""
SECTIONS = {
    "bundle": {"cluster_id", "compute_id", "databricks_cli_version", "deployment", "git", "name", "uuid"},
    "experimental": {"pydabs", "python", "python_wheel_wrapper", "scripts", "skip_artifact_cleanup",
                     "skip_name_prefix_for_schema", "use_legacy_run_as"},
    "sync": {"exclude", "include", "paths"},
}  # fmt: skip
TARGET = {"artifacts", "bundle", "cluster_id", "compute_id", "default", "git", "mode", "permissions", "presets", "resources",
          "run_as", "sync", "variables", "workspace"}  # fmt: skip
VARIABLE = {"default", "description", "lookup", "type"}
"""What the published JSON schema allows there, and nothing else. Source: bundle/schema/jsonschema.json of the Databricks CLI."""


def checked(file: Path) -> dict[str, dict[str, Any]]:
    """Return the resources of a bundle, those of its includes and targets too, each as the model's own dictionary.

    Raises:
        KeyError: there is no such kind of resource, or no such root field.
        ValueError: a field is unknown, missing or of another type.
    """
    document = yaml.safe_load(file.read_text("utf-8"))
    found: dict[str, dict[str, Any]] = {}
    parts = [document, *(document.get("targets") or {}).values()]
    for pattern in document.get("include", []):
        parts += [yaml.safe_load(included.read_text("utf-8")) for included in sorted(file.parent.glob(pattern))]
    _check_fields(file, document)
    for part in parts:
        for kind, resources in ((part or {}).get("resources") or {}).items():
            for key, resource in resources.items():
                found.setdefault(kind, {})[key] = MODELS[kind].from_dict(resource).as_dict()
    return found


def _check_fields(file: Path, document: dict[str, Any]) -> None:
    """Require that the parts of a bundle beside its resources have fields of the published schema only."""
    closed = [("", document, ROOT)]
    closed += [(name, document.get(name) or {}, fields) for name, fields in SECTIONS.items()]
    closed += [(f"targets.{name}", target or {}, TARGET) for name, target in (document.get("targets") or {}).items()]
    closed += [(f"variables.{name}", one or {}, VARIABLE) for name, one in (document.get("variables") or {}).items()]
    for where, found, fields in closed:
        if unknown := set(found) - fields:
            raise KeyError(f"{file}: {where}: {unknown}")
    if "name" not in document["bundle"]:
        raise KeyError(f"{file}: bundle: name")
