"""A digest of a query, by which a later update knows whether it is still the same one."""

from __future__ import annotations

import hashlib
import re

from lakelet.plan.relation import Relation, messages


def fingerprint(relation: Relation) -> str:
    """Return a digest that changes when the query changes: plan ids and the lines it stands on do not count."""
    result = Relation()
    result.CopyFrom(relation)
    ids: dict[int, int] = {}
    for message in messages(result):
        name = message.DESCRIPTOR.name
        if name == "RelationCommon" and message.HasField("plan_id"):
            message.plan_id = ids.setdefault(message.plan_id, len(ids))  # type: ignore[attr-defined]
        for field in ("origin", "source_info"):
            if field in message.DESCRIPTOR.fields_by_name:
                message.ClearField(field)
    for message in messages(result):
        name = message.DESCRIPTOR.name
        refers = name in ("UnresolvedAttribute", "UnresolvedStar", "UnresolvedRegex") and message.HasField("plan_id")
        if refers or name == "SubqueryExpression":
            message.plan_id = ids.get(message.plan_id, message.plan_id)  # type: ignore[attr-defined]
    views: dict[bytes, bytes] = {}
    text = _VIEW_OF_SQL.sub(
        lambda found: views.setdefault(found[0], b"view %d" % len(views)), result.SerializeToString(deterministic=True)
    )
    return hashlib.sha256(text).hexdigest()


_VIEW_OF_SQL = re.compile(rb"_pyspark_connect_temp_view_[0-9a-f]+|lk_sql_[0-9]+")
"""What the client calls `{frame}` in `spark.sql`, and what its tables are called: other names in every process."""
