"""Checks of the arguments that users give to the declarative API, with errors that name the parameter."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ParamSpec, TypeVar, cast

from lakelet.errors import DefinitionError, did_you_mean
from lakelet.names import split_name
from lakelet.pipelines.registry import active_registry

P = ParamSpec("P")
R = TypeVar("R")


def declarative(function: Callable[P, R]) -> Callable[P, R]:
    """Make a function part of the declarative API.

    Wrong arguments become definition errors with the user's file and line. When the load collects errors, the
    call returns what lets the user's file go on: the decorated function, a decorator that changes nothing, or
    None.
    """
    signature = inspect.signature(function)

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        registry = active_registry(function.__name__)
        try:
            check_arguments(function.__name__, signature, args, kwargs)
            return function(*args, **kwargs)
        except DefinitionError as error:
            registry.report(error)
            return cast(R, _nothing_declared(signature, args))

    return call


def check_arguments(api: str, signature: inspect.Signature, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    """Check names and number of arguments.

    Raises:
        DefinitionError: `UNKNOWN_PARAMETER`, `TOO_MANY_ARGUMENTS` or `ARGUMENT_REQUIRED`.
    """
    known = list(signature.parameters)
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in signature.parameters.values())
    for name in kwargs:
        if name not in known and not takes_any:
            near = did_you_mean(name, known)
            raise DefinitionError(
                "UNKNOWN_PARAMETER",
                f"`{api}` has no parameter `{name}`",
                cause=f"its parameters are {', '.join(f'`{parameter}`' for parameter in known if parameter != 'query_function')}",
                hint=f"did you mean `{near}`?" if near else f"remove `{name}`",
            )
    try:
        signature.bind(*args, **kwargs)
    except TypeError as error:
        missing = [
            name
            for position, (name, parameter) in enumerate(signature.parameters.items())
            if parameter.default is parameter.empty and position >= len(args) and name not in kwargs
        ]
        if missing:
            raise DefinitionError(
                "ARGUMENT_REQUIRED",
                f"`{api}` needs the argument `{missing[0]}`",
                hint=f"add `{missing[0]}=...`",
            ) from None
        raise DefinitionError(
            "TOO_MANY_ARGUMENTS",
            f"`{api}` was called with arguments that do not fit: {error}",
            hint="name the arguments: " + ", ".join(f"`{name}=`" for name in known[1:5]),
        ) from None


def text(name: str, value: Any) -> str:
    """Require a non-empty string."""
    if not isinstance(value, str):
        raise not_expected_type(name, "str", value)
    if not value.strip():
        raise DefinitionError("INVALID_PARAMETER_VALUE", f"`{name}` is empty", hint=f"give `{name}` a value")
    return value


def optional_text(name: str, value: Any) -> str | None:
    """Require a string or None; an empty string is allowed, as in comments."""
    if value is not None and not isinstance(value, str):
        raise not_expected_type(name, "str", value)
    return value


def flag(name: str, value: Any) -> bool:
    """Require a bool; None counts as False."""
    if value is not None and not isinstance(value, bool):
        raise not_expected_type(name, "bool", value)
    return bool(value)


def texts(name: str, value: Any) -> tuple[str, ...]:
    """Require a list of strings or None."""
    if value is None:
        return ()
    if isinstance(value, str):
        raise not_expected_type(name, "list[str]", value, hint=f'write `{name}=["{value}"]`')
    if not isinstance(value, Sequence | set | frozenset) or not all(isinstance(item, str) for item in value):
        raise not_expected_type(name, "list[str]", value)
    return tuple(value)


def settings(name: str, value: Any) -> dict[str, str]:
    """Require a dict of strings or None; numbers and bools become Spark's text for them."""
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise not_expected_type(name, "dict[str, str]", value)
    result: dict[str, str] = {}
    for key, item in value.items():
        if not isinstance(key, str):
            raise not_expected_type(f"{name} key {key!r}", "str", key)
        if isinstance(item, bool):
            result[key] = "true" if item else "false"
        elif isinstance(item, str | int | float):
            result[key] = str(item)
        else:
            raise not_expected_type(f"{name}[{key!r}]", "str", item)
    return result


def schema(name: str, value: Any) -> Any:
    """Require a DDL string, a StructType or None."""
    if value is None or isinstance(value, str) or _is_instance(value, "pyspark.sql.types", "StructType"):
        return value
    raise not_expected_type(name, "StructType or DDL str", value)


def expression(name: str, value: Any) -> Any:
    """Require SQL text or a Column."""
    if is_column(value):
        return value
    if not isinstance(value, str):
        raise not_expected_type(name, "str or Column", value)
    if not value.strip():
        raise DefinitionError("INVALID_PARAMETER_VALUE", f"`{name}` is empty", hint=f"give `{name}` a value")
    return value


def query_function(decorator: str, value: Any) -> None:
    """Require a function that can be called without arguments."""
    if not callable(value):
        hint = f'write `@{decorator}(name="{value}")`' if isinstance(value, str) else "decorate a function"
        raise DefinitionError(
            "DECORATOR_ARGUMENT_NOT_CALLABLE",
            f"the first argument of `{decorator}` must be the query function, not {type(value).__name__}",
            hint=hint,
        )
    try:
        parameters = inspect.signature(value).parameters.values()
    except (TypeError, ValueError):  # some callables of extension modules have no signature
        return
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    for parameter in parameters:
        if parameter.default is parameter.empty and parameter.kind not in variadic:
            function = getattr(value, "__name__", "function")
            raise DefinitionError(
                "QUERY_FUNCTION_NEEDS_ARGUMENT",
                f"the query function `{function}` cannot be called: it needs an argument `{parameter.name}`",
                hint=f"bind it in the definition: `def {function}({parameter.name}={parameter.name}):`",
            )


def not_together(**values: Any) -> None:
    """Refuse two parameters that exclude each other."""
    given = [name for name, value in values.items() if value]
    if len(given) > 1:
        raise DefinitionError(
            "CANNOT_SET_TOGETHER",
            " and ".join(f"`{name}`" for name in given) + " cannot be set together",
            hint=f"remove `{given[-1]}`",
        )


def refuse(name: str, value: Any, *, hint: str) -> None:
    """Refuse a parameter of the API that this release does not implement, if it is given."""
    if value is not None and value is not False:
        raise unsupported(f"`{name}` is not supported in this release", hint=hint)


def unsupported(message: str, *, hint: str) -> DefinitionError:
    """Return the error for a part of the API that this release does not implement."""
    return DefinitionError("UNSUPPORTED_FEATURE", message, hint=hint)


def not_expected_type(name: str, expected: str, value: Any, *, hint: str | None = None) -> DefinitionError:
    """Return Spark's error for an argument of the wrong type."""
    return DefinitionError(
        "NOT_EXPECTED_TYPE",
        f"`{name}` must be {expected}, got {type(value).__name__} {value!r:.60}",
        hint=hint or f"give `{name}` a value of type {expected}",
    )


def is_column(value: Any) -> bool:
    """Tell whether a value is a pyspark Column, without importing pyspark."""
    return _is_instance(value, "pyspark.sql.column", "Column")


def column_names(name: str, value: Any) -> tuple[str, ...] | None:
    """Return a list of names or `col(...)` objects as names; None when empty, which means omitted."""
    if value is None:
        return None
    if isinstance(value, str) or is_column(value):
        raise not_expected_type(name, "list[str] or list[Column]", value, hint=f"write `{name}=[...]`")
    if not isinstance(value, Sequence | set | frozenset):
        raise not_expected_type(name, "list[str] or list[Column]", value)
    return tuple(column_name(name, item) for item in value) or None


def column_name(name: str, value: Any) -> str:
    """Return one name or `col(...)` object as a plain name without back-ticks.

    Raises:
        DefinitionError: `AUTOCDC_NON_COLUMN_IDENTIFIER` for anything that is not a column,
            `AUTOCDC_MULTIPART_COLUMN_IDENTIFIER` for a qualified or nested one.
    """
    identifier = value
    if is_column(value):
        reference = value._expr
        if type(reference).__name__ != "ColumnReference" or reference._plan_id is not None:
            raise DefinitionError(
                "AUTOCDC_NON_COLUMN_IDENTIFIER",
                f"`{name}` has {value}, which is not the plain name of a column",
                cause="an expression, or a column of a particular DataFrame",
                hint='name the column: `"id"` or `col("id")`',
            )
        identifier = reference._unparsed_identifier
    if not isinstance(identifier, str):
        raise not_expected_type(name, "list[str] or list[Column]", value)
    parts = split_name(identifier)
    if len(parts) > 1:
        raise DefinitionError(
            "AUTOCDC_MULTIPART_COLUMN_IDENTIFIER",
            f"`{name}` has `{identifier}`, a name of {len(parts)} parts",
            cause="columns are named without a table and without fields of a struct",
            hint=f"write `{parts[-1]}`, or back-ticks if the column's name contains a dot",
        )
    return parts[0]


def _is_instance(value: Any, module: str, name: str) -> bool:
    """Tell whether a value is of a class of a module; if that was never imported, it cannot be."""
    loaded = sys.modules.get(module)
    return loaded is not None and isinstance(value, getattr(loaded, name))


def _nothing_declared(signature: inspect.Signature, args: Sequence[Any]) -> Any:
    """Return what a failed declaration gives back, so that the rest of the user's file still loads."""
    if signature.return_annotation in (None, "None"):
        return None
    if args and callable(args[0]):
        return args[0]
    return lambda function: function
