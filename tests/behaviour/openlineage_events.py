"""Checks an event's JSON against the models that OpenLineage generates from its published JSON schemas.

The installed client has them, for the very versions that `_schemaURL` names. The check goes down to every leaf, and is
stricter than the schemas in two ways: a field that no model has fails, and so does an object of the wrong facet kind.
"""

from __future__ import annotations

import enum
import re
import types
import typing
import uuid
from typing import Any
from urllib.parse import urlsplit

import attr
from openlineage.client import event_v2, facet_v2

FACETS: dict[str, Any] = {
    "parent": facet_v2.parent_run.ParentRunFacet,
    "errorMessage": facet_v2.error_message_run.ErrorMessageRunFacet,
    "processing_engine": facet_v2.processing_engine_run.ProcessingEngineRunFacet,
    "jobType": facet_v2.job_type_job.JobTypeJobFacet,
    "schema": facet_v2.schema_dataset.SchemaDatasetFacet,
    "outputStatistics": facet_v2.output_statistics_output_dataset.OutputStatisticsOutputDatasetFacet,
    "dataQualityAssertions": facet_v2.data_quality_assertions_dataset.DataQualityAssertionsDatasetFacet,
}
"""Those that lakelet writes, by their keys."""
_FACET_MAPS = {"facets", "inputFacets", "outputFacets"}
_REQUIRED = {"producer", "schemaURL", "_producer", "_schemaURL"}
"""Required by the schemas; the client fills them in."""
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)")


def check(event: Any) -> None:
    """Check one event.

    Raises:
        ValueError: where it does not fit, and why.
    """
    _object(event, event_v2.RunEvent, "event")


def _object(value: Any, model: Any, path: str) -> None:
    """Check an object: its fields are the model's, those that are required are there, and each has its type."""
    if not isinstance(value, dict):
        raise ValueError(f"{path} is no object: {value!r}")
    fields = {field.name: field for field in attr.fields(attr.resolve_types(model))}
    if unknown := value.keys() - fields:
        raise ValueError(f"{path} has {sorted(unknown)}, which {model.__name__} has not")
    required = {name for name, field in fields.items() if field.default is attr.NOTHING or name in _REQUIRED}
    if missing := required - value.keys():
        raise ValueError(f"{path} lacks {sorted(missing)}")
    for name, item in value.items():
        if name in _FACET_MAPS:
            kind = typing.get_args(_present(fields[name].type))[1]
            _facets(item, kind, f"{path}.{name}")
        else:
            _value(item, fields[name].type, f"{path}.{name}")
        _format(name, item, model, f"{path}.{name}")


def _facets(value: Any, kind: type, path: str) -> None:
    """Check a map of facets: each key is one that is known, and its facet is of the kind that belongs there."""
    if not isinstance(value, dict):
        raise ValueError(f"{path} is no object: {value!r}")
    for key, facet in value.items():
        if key not in FACETS or not issubclass(FACETS[key], kind):
            raise ValueError(f"{path} has `{key}`, which is no {kind.__name__}")
        _object(facet, FACETS[key], f"{path}.{key}")


def _value(value: Any, kind: Any, path: str) -> None:
    kind = _present(kind)  # a field may be left out; null is no value of any
    origin = typing.get_origin(kind)
    if kind is Any:
        return
    if origin is list:
        if not isinstance(value, list):
            raise ValueError(f"{path} is no array: {value!r}")
        for number, item in enumerate(value):
            _value(item, typing.get_args(kind)[0], f"{path}[{number}]")
    elif origin is dict:
        if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
            raise ValueError(f"{path} is no object: {value!r}")
        for key, item in value.items():
            _value(item, typing.get_args(kind)[1], f"{path}.{key}")
    elif attr.has(kind):
        _object(value, kind, path)
    elif issubclass(kind, enum.Enum):
        if value not in [member.value for member in kind]:
            raise ValueError(f"{path} is none of {kind.__name__}: {value!r}")
    elif type(value) is not kind:  # also: true is no integer
        raise ValueError(f"{path} is no {kind.__name__}: {value!r}")


def _present(kind: Any) -> Any:
    """Return the type of a field that is there."""
    if isinstance(kind, types.UnionType) or typing.get_origin(kind) is typing.Union:
        [kind] = [part for part in typing.get_args(kind) if part is not type(None)]
    return kind


def _format(name: str, value: Any, model: Any, path: str) -> None:
    """Check the formats of the schemas, which types do not tell: `date-time`, `uuid`, `uri`; and the schema's own address."""
    match name:
        case "eventTime" if not _TIME.fullmatch(value):
            raise ValueError(f"{path} is no time with a zone: {value!r}")
        case "runId" if str(uuid.UUID(value)) != value:
            raise ValueError(f"{path} is no UUID: {value!r}")
        case "producer" | "_producer" if not re.fullmatch(r"\S+:\S+", value) or not urlsplit(value).scheme:
            raise ValueError(f"{path} is no URI: {value!r}")
        case "schemaURL" | "_schemaURL" if value != model._get_schema():
            raise ValueError(f"{path} is not the address of the schema that was checked: {value!r}")
        case "ordinal_position" if value < 1:
            raise ValueError(f"{path} does not count from 1: {value!r}")
