"""A Python function over the Arrow batches of a relation, run by the engine where the rows are (`mapInArrow`)."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Iterable, Iterator
from types import FunctionType
from typing import TYPE_CHECKING, Any, TypeAlias

from lakelet.names import quote
from lakelet.plan import relation as plan
from lakelet.plan.relation import Relation

if TYPE_CHECKING:
    import pyarrow as pa
    from pyspark.sql.types import StructType

ArrowFunction: TypeAlias = "Callable[[Iterator[pa.RecordBatch]], Iterator[pa.RecordBatch]]"

_PACKAGE = __name__.partition(".")[0]


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
    from pyspark.cloudpickle import cloudpickle
    from pyspark.serializers import pickle_protocol

    library: Any = cloudpickle

    class Pickler(library.Pickler):  # type: ignore[misc]
        """Pickles what is ours by value. The registry for that is of the whole process, which pickles users' functions, too."""

        def reducer_override(self, value: Any) -> Any:
            if (getattr(value, "__module__", None) or "").partition(".")[0] == _PACKAGE:
                if isinstance(value, FunctionType):
                    return self._dynamic_function_reduce(value)
                if isinstance(value, type):
                    return library._dynamic_class_reduce(value)
            return super().reducer_override(value)

    written = io.BytesIO()
    Pickler(written, protocol=pickle_protocol).dump(command)
    return written.getvalue()
