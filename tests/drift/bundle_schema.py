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
    if unknown := set(document) - ROOT:
        raise KeyError(f"{file}: {unknown}")
    for part in parts:
        for kind, resources in ((part or {}).get("resources") or {}).items():
            for key, resource in resources.items():
                found.setdefault(kind, {})[key] = MODELS[kind].from_dict(resource).as_dict()
    return found
