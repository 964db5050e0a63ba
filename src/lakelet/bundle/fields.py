"""The fields of a bundle: which are read, which mean nothing on this machine, and which cannot be followed.

A field that is in none of the tables is an error, as a misspelt field would otherwise be ignored.
"""

from __future__ import annotations

from collections.abc import Mapping

BUNDLE_FILE_NAMES = ("databricks.yml", "databricks.yaml", "bundle.yml", "bundle.yaml")
TARGET_VARIABLE = "DATABRICKS_BUNDLE_TARGET"
VALUE_VARIABLE = "BUNDLE_VAR_"
"""Environment variables of Databricks' own command line: the target, and the beginning of a variable's name."""

ROOT_READ = ("bundle", "include", "resources", "targets", "environments", "variables", "workspace")
ROOT_IGNORED = ("artifacts", "experimental", "permissions", "presets", "python", "run_as", "scripts", "sync")
ROOT = (*ROOT_READ, *ROOT_IGNORED)
TARGET = (
    "artifacts", "bundle", "cluster_id", "compute_id", "default", "git", "mode", "permissions", "presets", "resources",
    "run_as", "sync", "variables", "workspace",
)  # fmt: skip
VARIABLE = ("default", "description", "lookup", "type")
RESOURCES = (
    "alerts", "apps", "catalogs", "clusters", "cluster_policies", "dashboards", "database_catalogs", "database_instances",
    "experiments", "external_locations", "features", "genie_spaces", "instance_pools", "job_runs", "jobs", "mcp_services",
    "model_provider_services", "model_services", "model_serving_endpoints", "models", "pipelines", "postgres_branches",
    "postgres_endpoints", "postgres_projects", "quality_monitors", "registered_models", "schemas", "secret_scopes",
    "secrets", "sql_warehouses", "synced_database_tables", "vector_search_endpoints", "vector_search_indexes", "volumes",
)  # fmt: skip

PIPELINE_READ = ("name", "catalog", "schema", "target", "configuration", "libraries", "root_path")
PIPELINE_IGNORED: Mapping[str, str] = {
    "allow_duplicate_names": "names of pipelines are not shared here",
    "budget_policy_id": "nothing is billed here",
    "cascade_on_destroy": "nothing is destroyed here",
    "channel": "the engine is the one that is installed",
    "clusters": "there is no cluster here",
    "continuous": "`lakelet run --continuous` runs continuously",
    "deployment": "nothing is deployed here",
    "development": "every run is one of development",
    "dry_run": "`lakelet dry-run` checks",
    "edition": "there are no editions here",
    "environment": "install the packages into the environment that runs `lakelet`",
    "event_log": "the event log lies in the storage folder",
    "id": "pipelines have no ids here",
    "lifecycle": "nothing is deployed here",
    "notifications": "an event hook may notify",
    "parent_path": "there is no workspace here",
    "permissions": "those of the storage folder hold",
    "photon": "there is no Photon here",
    "restart_window": "nothing restarts by itself here",
    "run_as": "runs as you",
    "serverless": "there is no cluster here",
    "serverless_compute_id": "there is no cluster here",
    "storage": "a place in the cloud; `--storage` or LAKELET_STORAGE name a local folder",
    "tags": "they tag clusters",
    "trigger": "something else starts updates here",
    "usage_policy_id": "nothing is billed here",
}
"""Fields of a pipeline that mean nothing here, and why."""

PIPELINE_REFUSED: Mapping[str, str] = {
    "filters": "name the files under `libraries` instead",
    "gateway_definition": "only pipelines of source files can run here",
    "ingestion_definition": "only pipelines of source files can run here",
    "parameters": "put the values under `configuration`, and read them with `spark.conf.get`",
}
"""Fields of a pipeline that change what it does and cannot be followed, and what to do instead."""

PIPELINE = (*PIPELINE_READ, *PIPELINE_IGNORED, *PIPELINE_REFUSED)
LIBRARIES = ("glob", "file", "notebook")
LIBRARIES_REFUSED = ("jar", "maven", "whl")
