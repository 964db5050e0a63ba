"""A Python function over the Arrow batches of a relation, run by the engine where the rows are (`mapInArrow`)."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, TypeAlias

from lakelet.names import quote
from lakelet.plan import relation as plan
from lakelet.plan.relation import Relation

if TYPE_CHECKING:
    import pyarrow as pa
    from pyspark.sql.types import StructType

ArrowFunction: TypeAlias = "Callable[[Iterator[pa.RecordBatch]], Iterator[pa.RecordBatch]]"

_pickling = threading.Lock()


def mapped(source: Relation, names: Iterable[str], function: ArrowFunction, columns: StructType) -> Relation:
    """Return what a function makes of the batches of each partition of `source`.

    Args:
        names: the columns of `source`. The function gets them all, but an optimizer takes out those that are not named.
        function: code of ours, which goes along by value: workers have pyarrow and numpy, but no lakelet.
        columns: of the batches that it yields.
    """
    from pyspark.sql.connect.types import pyspark_types_to_proto_types
    from pyspark.util import PythonEvalType

    result = plan.new()
    result.map_partitions.input.CopyFrom(source)
    called = result.map_partitions.func
    called.function_name, called.deterministic = "lakelet", True
    called.arguments.extend(plan.attribute(quote(name)) for name in names)
    called.python_udf.output_type.CopyFrom(pyspark_types_to_proto_types(columns))
    called.python_udf.eval_type = PythonEvalType.SQL_MAP_ARROW_ITER_UDF
    called.python_udf.command = _pickled((function, columns))
    called.python_udf.python_ver = f"{sys.version_info.major}.{sys.version_info.minor}"
    return result


def _pickled(command: Any) -> bytes:
    """Return a command whose functions and classes of ours are in it, and not references to modules."""
    from pyspark import cloudpickle, serializers

    registry: Any = cloudpickle
    package = sys.modules[__name__.partition(".")[0]]
    with _pickling:
        registry.register_pickle_by_value(package)
        try:
            return bytes(serializers.CloudPickleSerializer().dumps(command))  # type: ignore[no-untyped-call]
        finally:
            registry.unregister_pickle_by_value(package)
