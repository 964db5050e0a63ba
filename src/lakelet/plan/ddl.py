"""Column lists as text: what `schema="id INT, name STRING"` declares."""

from __future__ import annotations

from pyspark.sql.types import StructType

from lakelet.engine.base import Engine
from lakelet.plan import relation as plan
from lakelet.plan.ddl_comments import with_comments


def parse_columns(text: str, engine: Engine) -> StructType:
    """Return the columns that DDL text declares, all nullable, with their comments.

    Raises:
        QueryError: the engine cannot read the text.
    """
    stripped = text.strip()
    if stripped.lower().startswith("struct<") and stripped.endswith(">"):
        stripped = stripped[len("struct<") : -1]
    relation = plan.new()
    relation.local_relation.schema = stripped
    declared = engine.schema(relation)
    columns = [type(column)(column.name, column.dataType, True, column.metadata) for column in declared.fields]
    return with_comments(StructType(columns), stripped)
