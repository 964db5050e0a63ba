"""Makes the imports of pipeline files give our modules, only while user code runs.

Entries of `sys.modules` and attributes of parent packages are swapped in and restored exactly, also after an
exception. User code runs one piece at a time: what is swapped belongs to the process, so a lock is held.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import ModuleType
from typing import Any

from lakelet.pipelines.phase import Phase, phase

_LOCK = threading.RLock()
_ABSENT = object()


@contextmanager
def pipeline_modules(*, session: Any = None, dbutils: Any = None, phase_of_code: Phase = Phase.LOAD) -> Iterator[None]:
    """Swap in the modules that pipeline files import, and make `session` the active one.

    `pyspark.pipelines`, `databricks.pipelines` and `dlt` are ours, whatever else has the name;
    `pyspark.dbutils` and `databricks.sdk.runtime` have `dbutils`, `spark` and `display`; a DataFrame has
    `display()`.

    Args:
        phase_of_code: whether user code may read tables (`LOAD`) or only build a query (`QUERY`).
    """
    from lakelet.pipelines import dlt, dp

    with _LOCK, ExitStack() as stack, phase(phase_of_code):
        pyspark = importlib.import_module("pyspark")
        databricks = _package(stack, "databricks")
        _module(stack, "pyspark.pipelines", dp, parent=pyspark)
        _module(stack, "databricks.pipelines", dp, parent=databricks)
        _module(stack, "dlt", dlt)
        _module(stack, "pyspark.dbutils", _dbutils_module(dbutils), parent=pyspark)
        sdk = _package(stack, "databricks.sdk", parent=databricks)
        runtime = _runtime_module(session, dbutils)
        _module(stack, "databricks.sdk.runtime", runtime, parent=sdk)
        if session is not None:
            from pyspark.sql.dataframe import DataFrame

            from lakelet.pipelines.session import call_sites_recorded, session_active

            stack.enter_context(session_active(session))
            stack.enter_context(call_sites_recorded())
            stack.enter_context(_attribute(DataFrame, "display", _display_method))
        yield


def display(*values: Any, **options: Any) -> None:
    """Show nothing: in a pipeline there is no notebook to show it in."""


def _display_method(self: Any, *values: Any, **options: Any) -> None:
    """`df.display()`: shows nothing."""


def _dbutils_module(dbutils: Any) -> ModuleType:
    module = ModuleType("pyspark.dbutils", "Gives pipeline files their `DBUtils`.")

    def make_dbutils(spark: Any = None) -> Any:
        return dbutils

    vars(module)["DBUtils"] = make_dbutils
    return module


def _runtime_module(session: Any, dbutils: Any) -> ModuleType:
    module = ModuleType("databricks.sdk.runtime", "Gives pipeline files the globals of a Databricks notebook.")
    names: dict[str, Any] = {"spark": session, "dbutils": dbutils, "display": display}
    if session is not None:
        from pyspark.sql.functions import udf

        names |= {"udf": udf, "sql": session.sql, "table": session.table}
    vars(module).update(names, __all__=list(names))
    return module


def _module(stack: ExitStack, name: str, module: ModuleType, *, parent: ModuleType | None = None) -> None:
    stack.enter_context(_entry(name, module))
    if parent is not None:
        stack.enter_context(_attribute(parent, name.rpartition(".")[2], module))


def _package(stack: ExitStack, name: str, *, parent: ModuleType | None = None) -> ModuleType | None:
    """Return an installed package if it is loaded or can be found; else put an empty one in its place.

    A package that is installed but not loaded is left alone, because loading it may be slow; imports of our
    modules inside it work without it.
    """
    if name in sys.modules:
        return sys.modules[name]
    if parent is None or getattr(parent, "__path__", None):
        try:
            found = importlib.util.find_spec(name)
        except (ImportError, ValueError):
            found = None
        if found is not None:
            return importlib.import_module(name) if parent is None else None
    package = ModuleType(name)
    package.__path__ = []
    _module(stack, name, package, parent=parent)
    return package


@contextmanager
def _entry(name: str, module: ModuleType) -> Iterator[None]:
    before: Any = sys.modules.get(name, _ABSENT)
    sys.modules[name] = module
    try:
        yield
    finally:
        if before is _ABSENT:
            sys.modules.pop(name, None)
        else:
            sys.modules[name] = before


@contextmanager
def _attribute(owner: Any, name: str, value: Any) -> Iterator[None]:
    before = vars(owner).get(name, _ABSENT)
    setattr(owner, name, value)
    try:
        yield
    finally:
        if before is not _ABSENT:
            setattr(owner, name, before)
        elif name in vars(owner):
            delattr(owner, name)
