"""The text of values in files of sinks."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from lakelet.errors import Origin, StorageError
from lakelet.execution.sink_formats import write_rows
from lakelet.graph.elements import Dataset, DatasetKind
from lakelet.names import TableName


def lines(folder: Path, values: Sequence[Any], kind: pa.DataType) -> list[str]:
    """Return the lines of a JSON file with one column `x`."""
    sink = Dataset(
        name=TableName("c", "s", "out"),
        kind=DatasetKind.SINK,
        origin=Origin(file="sinks.py", line=1),
        sink_format="json",
        sink_options={"path": "out"},
    )
    write_rows(folder / "out", pa.table({"x": pa.array(values, kind)}).to_reader(), sink)
    return (folder / "out").read_text().splitlines()


def test_floats_have_the_digits_that_tell_them_from_others(tmp_path: Path) -> None:
    values = [0.1, 16777216.0, 1e20, -3.4028235e38, 1e-30, 0.3333333432674408]
    texts = [line.removeprefix('{"x":').removesuffix("}") for line in lines(tmp_path, values, pa.float32())]
    assert texts == ["0.1", "16777216.0", "1e+20", "-3.4028235e+38", "1e-30", "0.33333334"]


def test_every_float_is_read_back_as_it_was(tmp_path: Path) -> None:
    seed = random.randrange(2**32)
    bits = [random.Random(seed + number).randrange(2**32) for number in range(3_000)]
    floats = pa.array(bits, pa.uint32()).view(pa.float32())
    finite = [value for value in floats.to_pylist() if value == value and abs(value) != float("inf")]
    found = [json.loads(line)["x"] for line in lines(tmp_path, finite, pa.float32())]
    assert pa.array(found, pa.float32()).to_pylist() == finite, seed


@pytest.mark.parametrize(("kind", "value"), [(pa.date32(), 2932897), (pa.timestamp("us", "UTC"), 253402300800000000)])
def test_a_year_that_python_does_not_have_is_told(tmp_path: Path, kind: pa.DataType, value: int) -> None:
    with pytest.raises(StorageError, match="UNSUPPORTED_DATA_TYPE_FOR_DATASOURCE") as raised:
        lines(tmp_path, [date(2024, 5, 1).toordinal() - 719163, value], kind)
    assert "between 1 and 9999" in str(raised.value.cause)
