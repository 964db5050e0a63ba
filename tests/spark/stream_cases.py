"""Queries with state that Apache Spark and the runtime both run over the same micro-batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

Row = tuple[str | None, int | None, int]
"""Key, minute of the event time (None for NULL), value."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamCase:
    """One query over one or two streams with the columns `k`, `at`, `v`.

    Attributes:
        query: an expression over `a` and `b`, the streams, and `F`.
        a, b: micro-batches; one file each.
        complete: the query rewrites its result in each batch.
        differs: why the rows are not Spark's, for a difference that is documented.
    """

    id: str
    query: str
    a: Sequence[Sequence[Row]]
    b: Sequence[Sequence[Row]] = field(default_factory=tuple)
    complete: bool = False
    differs: str = ""


A = [
    [("x", 0, 1), ("y", 3, 2), ("x", 4, 3), (None, 5, 4)],
    [("x", 12, 5), ("x", 12, 6), ("y", 1, 7), ("z", None, 8)],
    [("y", 40, 9), ("x", 2, 10), ("z", 33, 11)],
    [("x", 15, 12), ("x", 31, 13), ("y", 41, 14), ("x", 40, 15)],
    [("w", 90, 16)],
]
B = [
    [("x", 1, 100), ("y", 9, 101), ("q", 2, 102)],
    [("x", 13, 103), (None, 6, 104), ("z", None, 105)],
    [("y", 38, 106), ("x", 3, 107), ("z", 36, 108)],
    [("x", 30, 109), ("y", 44, 110)],
    [("w", 95, 111)],
]
ONCE = [
    [("x", 0, 1), ("y", 3, 2), (None, 5, 4)],
    [("x", 12, 5), ("y", 1, 7), ("z", 9, 8)],
    [("y", 40, 9), ("x", 14, 10), ("z", 33, 11)],
    [("x", 45, 12), ("new", 2, 13), ("z", 41, 14)],
    [("w", 90, 16), ("x", 61, 17), ("late", 20, 18)],
]
"""No key twice in a batch: which of two rows Spark keeps is open."""
KEYED = [[row for row in batch if row[0] is not None] for batch in A]
WA, WB = 'a.withWatermark("at", "10 minutes")', 'b.withWatermark("at", "5 minutes")'
LEFT, RIGHT = f'{WA}.alias("l")', f'{WB}.alias("r")'
RANGE = "l.k = r.k AND r.at BETWEEN l.at - INTERVAL 5 MINUTES AND l.at + INTERVAL 10 MINUTES"
ONLY_AFTER = "l.k = r.k AND r.at >= l.at AND r.at <= l.at + INTERVAL 2 MINUTES"
SIDES = '.select(F.col("l.v").alias("lv"), F.col("r.v").alias("rv"))'


def joined(how: str, condition: str = RANGE) -> str:
    return f'{LEFT}.join({RIGHT}, F.expr("{condition}"), "{how}"){SIDES}'


AGGREGATES = ", ".join(f'F.{name}("v").alias("{name}")' for name in ("count", "sum", "min", "max", "avg"))
CASES = [
    StreamCase(id="dropDuplicates", query='a.dropDuplicates(["k"]).select("k")', a=A),
    StreamCase(id="distinct", query='a.select("k").distinct()', a=A),
    StreamCase(id="dropDuplicates with event time", query=f'{WA}.dropDuplicates(["k", "at"]).select("k", "at")', a=A),
    StreamCase(id="dropDuplicates late rows", query=f'{WA}.dropDuplicates(["k"])', a=ONCE),
    StreamCase(id="dropDuplicatesWithinWatermark", query=f'{WA}.dropDuplicatesWithinWatermark(["k"])', a=ONCE),
    StreamCase(
        id="dropDuplicatesWithinWatermark without event time",
        query=f'{WA}.dropDuplicatesWithinWatermark(["k"])',
        a=[[("z", None, 1)], [("y", 40, 2)], [("x", 41, 3)], [("z", 52, 4)]],
        differs="the key of a row without an event time is remembered for ever, and forgotten at once by Spark",
    ),
    StreamCase(id="tumbling windows", query=f'{WA}.groupBy(F.window("at", "10 minutes"), "k").agg({AGGREGATES})', a=A),
    StreamCase(
        id="sliding windows",
        query=f'{WA}.groupBy(F.window("at", "10 minutes", "5 minutes")).agg({AGGREGATES})',
        a=A,
    ),
    StreamCase(
        id="windows with an offset",
        query=f'{WA}.groupBy(F.window("at", "10 minutes", "10 minutes", "3 minutes"), "k").agg(F.count("*").alias("n"))',
        a=A,
    ),
    StreamCase(id="by event time", query=f'{WA}.groupBy("at").agg({AGGREGATES})', a=A),
    StreamCase(
        id="windows, filtered above",
        query=f'{WA}.groupBy(F.window("at", "10 minutes").alias("w"), "k").agg(F.sum("v").alias("s"))'
        '.where("s > 5").select("w.start", "k", "s")',
        a=A,
    ),
    StreamCase(id="complete by key", query=f'a.groupBy("k").agg({AGGREGATES})', a=A, complete=True),
    StreamCase(id="complete total", query=f"a.agg({AGGREGATES})", a=A, complete=True),
    StreamCase(
        id="complete windows",
        query='a.groupBy(F.window("at", "10 minutes")).agg(F.count("*").alias("n"))',
        a=A,
        complete=True,
    ),
    *(StreamCase(id=f"{how} join", query=joined(how), a=A, b=B) for how in ("inner", "left", "right")),
    *(
        StreamCase(id=f"{how} join, a short range", query=joined(how, ONLY_AFTER), a=A, b=B)
        for how in ("inner", "left", "right")
    ),
    StreamCase(id="full join", query=joined("full"), a=KEYED, b=B),
    StreamCase(id="full join, a short range", query=joined("full", ONLY_AFTER), a=KEYED, b=B),
    StreamCase(
        id="full join with NULL keys",
        query=joined("full"),
        a=A,
        b=B,
        differs="Spark matches NULL with NULL in a full join of streams",
    ),
    StreamCase(id="inner join without watermark", query=f'a.alias("l").join(b.alias("r"), "k"){SIDES}', a=A, b=B),
    StreamCase(
        id="union of watermarked streams, windows",
        query=f'{WA}.union({WB}).groupBy(F.window("at", "10 minutes")).agg(F.sum("v").alias("s"))',
        a=A,
        b=B,
    ),
]
