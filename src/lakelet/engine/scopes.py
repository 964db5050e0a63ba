"""Gives the sources of SQL text names that no other query of the session has.

Apache Spark makes a temporary view of each source of a `WithRelations`, under its name, in the session. Two queries that run
at the same time and call a source alike would read each other's rows: nothing fails where the columns agree.
"""

from __future__ import annotations

import itertools
import uuid
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from google.protobuf.message import Message

    M = TypeVar("M", bound=Message)

_process = uuid.uuid4().hex[:12]
_numbers = itertools.count()


def scoped(message: M) -> M:
    """Return a copy of a plan in which every SQL text reads its sources under names of its own."""
    from lakelet.plan.relation import messages

    if not any(inner.DESCRIPTOR.name == "WithRelations" for inner in messages(message)):
        return message
    result = type(message)()
    result.CopyFrom(message)
    for inner in list(messages(result)):
        if inner.DESCRIPTOR.name == "WithRelations":
            _rename(inner)
    return result


def _rename(with_relations: Message) -> None:
    from lakelet.names import quote

    root = with_relations.root  # type: ignore[attr-defined]
    if root.WhichOneof("rel_type") != "sql":
        return
    names = []
    for source in with_relations.references:  # type: ignore[attr-defined]
        if source.WhichOneof("rel_type") != "subquery_alias" or source.subquery_alias.qualifier:
            continue
        name = f"lakelet_{_process}_{next(_numbers)}"
        names.append(f"{quote(source.subquery_alias.alias)} AS (SELECT * FROM {name})")
        source.subquery_alias.alias = name
    if names:
        root.sql.query = f"WITH {', '.join(names)} ({root.sql.query.strip().rstrip(';')}\n)"
