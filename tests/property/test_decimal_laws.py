"""The law of decimals: whoever wrote a table, Sail finds in it what Python finds in the rows."""

from __future__ import annotations

import tempfile
from collections import Counter
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest
from deltalake import write_deltalake
from hypothesis import given, settings
from hypothesis import strategies as st

from lakelet.engine.sail import SailEngine
from lakelet.execution.reads import Reads
from lakelet.plan import relation as plan
from lakelet.storage import known_tables
from lakelet.storage.base import TableDefinition
from lakelet.storage.delta_rs import DeltaRsStore

pytestmark = pytest.mark.feature("Tables: rows and receipt in one commit")

TYPES = [(p, s) for p in (15, 16, 18, 19, 20, 28, 38) for s in (0, 1, 2, 10, 15, 18, 37) if s <= p]


@st.composite
def commits(draw: Any) -> tuple[pa.DataType, list[list[Decimal]]]:
    """Draw a type, and the values of two files: near each other, near a power of ten or of two, or anywhere."""
    precision, scale = draw(st.sampled_from(TYPES))
    most = 10**precision - 1
    centre = draw(
        st.integers(-most, most)
        | st.integers(0, precision).map(lambda n: 10**n)
        | st.sampled_from([2**53, 2**63, -(2**63), 10**scale, 1234567890123456 * 10**scale // 100])
    )
    near = st.integers(-3, 3).map(lambda n: centre + n) | st.integers(-most, most)
    units = near.map(lambda n: max(-most, min(most, n)))
    files = draw(st.lists(st.lists(units, min_size=1, max_size=3), min_size=2, max_size=2))
    return pa.decimal128(precision, scale), [[_of(unit, scale) for unit in file] for file in files]


def _of(units: int, scale: int) -> Decimal:
    return Decimal((int(units < 0), tuple(map(int, str(abs(units)))), -scale))


@pytest.mark.parametrize("by", ["delta-rs", "lakelet", "lakelet by delta-rs"])
@given(commits())
@settings(deadline=None, max_examples=40)
def test_sail_finds_what_python_finds(
    engine: SailEngine, by: str, drawn: tuple[pa.DataType, list[list[Decimal]]]
) -> None:
    kind, files = drawn
    schema, store = pa.schema([("p", kind)]), DeltaRsStore()
    known_tables.forget()
    with tempfile.TemporaryDirectory() as location:
        if by != "delta-rs":
            store.create(location, TableDefinition(schema=schema))
        for values in files:
            rows = pa.table([pa.array(values, kind)], schema=schema)
            if by == "delta-rs":
                write_deltalake(location, rows, mode="append")
                continue
            table = store.open(location)
            assert table is not None
            table.append(rows, evolve=by != "lakelet")  # with `evolve` it is delta-rs that writes
        table = store.open(location)
        assert table is not None
        if by != "delta-rs":
            assert not table.bounds_lead_astray()
        wanted = [value for values in files for value in values]
        reads = Reads(names=None, catalog=None, engine=engine, store=store)  # type: ignore[arg-type]
        rows = reads.delta_rows(location, table.version)
        assert Counter(engine.collect(rows)["p"].to_pylist()) == Counter(wanted)
        pivot = files[0][0]
        literal = f"CAST('{pivot:f}' AS DECIMAL({kind.precision}, {kind.scale}))"
        for sign, holds in (("=", pivot.__eq__), ("<=", pivot.__ge__), (">", pivot.__lt__)):
            query = plan.sql(f"SELECT count(*) AS n FROM t WHERE p {sign} {literal}", {"t": rows})
            assert engine.collect(query)["n"].to_pylist() == [sum(map(holds, wanted))], sign
