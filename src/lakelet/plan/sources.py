"""What a relation reads: its leaves, however the user wrote them."""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

from lakelet.errors import Origin
from lakelet.plan.relation import Relation, call_site, children


class LeafKind(enum.Enum):
    """Two kinds of read: by name, or by format and paths."""

    TABLE = "table"
    DATA_SOURCE = "data source"


@dataclass(frozen=True, slots=True, kw_only=True)
class Leaf:
    """One read in a tree.

    Attributes:
        name: a table's name as the user wrote it, empty for a data source.
        format, paths, schema: of a data source, as written; the format in lower case.
        options: reader options, keys in lower case.
        plan_id: the id by which column references address this read.
    """

    kind: LeafKind
    streaming: bool
    name: str = ""
    format: str = ""
    paths: tuple[str, ...] = ()
    schema: str = ""
    options: Mapping[str, str] = field(default_factory=dict)
    plan_id: int | None = None
    origin: Origin | None = None

    @property
    def label(self) -> str:
        """What to call this read in messages."""
        if self.kind is LeafKind.TABLE:
            return self.name
        return f"{self.format}:{','.join(self.paths)}" if self.paths else self.format

    @property
    def shown(self) -> str:
        """What the user wrote: the table's name, or the path."""
        return ",".join(self.paths) if self.paths else self.label

    @property
    def source_id(self) -> str:
        """A name for this input that stays the same as long as the user's code reads the same thing."""
        relevant = {key: value for key, value in self.options.items() if key in _IDENTITY_OPTIONS}
        suffix = "".join(f";{key}={value}" for key, value in sorted(relevant.items()))
        return f"{self.label}{suffix}"


_IDENTITY_OPTIONS = {"startingversion", "startingtimestamp", "readchangefeed"}


def leaf_of(relation: Relation) -> Leaf | None:
    """Return the leaf that `relation` itself is, or None."""
    if relation.WhichOneof("rel_type") != "read":
        return None
    read = relation.read
    plan_id = relation.common.plan_id if relation.common.HasField("plan_id") else None
    if read.HasField("named_table"):
        return Leaf(
            kind=LeafKind.TABLE,
            streaming=read.is_streaming,
            name=read.named_table.unparsed_identifier,
            options={key.lower(): value for key, value in read.named_table.options.items()},
            plan_id=plan_id,
            origin=call_site(relation.common),
        )
    if read.HasField("data_source"):
        source = read.data_source
        paths = tuple(source.paths)
        options = {key.lower(): value for key, value in source.options.items()}
        if not paths and "path" in options:
            paths = (options.pop("path"),)
        return Leaf(
            kind=LeafKind.DATA_SOURCE,
            streaming=read.is_streaming,
            format=(source.format or "parquet").lower(),
            paths=paths,
            schema=source.schema,
            options=options,
            plan_id=plan_id,
            origin=call_site(relation.common),
        )
    return None


def leaves(relation: Relation, *, above: Origin | None = None) -> Iterator[Leaf]:
    """Yield every leaf of the tree; one that knows no line of its own, as in SQL text, has that of what reads it.

    Args:
        above: the line of what reads `relation`.
    """
    leaf = leaf_of(relation)
    if leaf is not None:
        yield leaf if leaf.origin or not above else replace(leaf, origin=above)
        return
    here = call_site(relation.common) or above
    for inner in children(relation):
        yield from leaves(inner, above=here)


def is_streaming(relation: Relation) -> bool:
    """Return whether the tree reads at least one stream."""
    return any(leaf.streaming for leaf in leaves(relation))
