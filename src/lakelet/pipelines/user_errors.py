"""Errors that user code raised, as definition errors with the user's line and only the user's frames."""

from __future__ import annotations

import builtins
import re
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from lakelet.errors import DefinitionError, LakeletError, Origin, did_you_mean
from lakelet.pipelines.call_site import display_path, is_internal

MAX_SUMMARY = 160


def file_failed(error: BaseException, *, file: str, root: Path | None) -> LakeletError:
    """Return the definition error for what a pipeline file raised while it loaded."""
    message = f"`{display_path(file, root=root)}` failed to load: {_one_line(error)}"
    return user_code_failed("PIPELINE_FILE_FAILED", message, error, root=root, file=file)


def query_function_failed(error: BaseException, *, name: str, origin: Origin, root: Path | None) -> LakeletError:
    """Return the definition error for what a query function raised while it built its query."""
    message = f"the query function `{name}` failed: {_one_line(error)}"
    return user_code_failed("QUERY_FUNCTION_FAILED", message, error, root=root, origin=origin)


def syntax_error(error: SyntaxError, *, file: str, root: Path | None) -> DefinitionError:
    """Return the definition error for a file that is not Python."""
    line = (error.text or "").rstrip("\n")
    marker = "\n" + " " * (error.offset - 1) + "^" if line and error.offset and error.offset > 0 else ""
    return DefinitionError(
        "PIPELINE_FILE_SYNTAX_ERROR",
        f"`{display_path(error.filename or file, root=root)}` is not valid Python: {error.msg}",
        origin=Origin(file=display_path(error.filename or file, root=root), line=error.lineno),
        cause=line + marker if line else None,
        hint=_syntax_hint(error),
    )


def _syntax_hint(error: SyntaxError) -> str:
    if "Missing parentheses in call to 'print'" in (error.msg or ""):
        return "this is Python 2: write `print(...)`"
    if isinstance(error, TabError | IndentationError):
        return "indent the block with spaces, all of its lines alike"
    return f"correct the line; files are read by Python {sys.version_info.major}.{sys.version_info.minor}"


def user_code_failed(
    condition: str,
    message: str,
    error: BaseException,
    *,
    root: Path | None,
    file: str | None = None,
    origin: Origin | None = None,
) -> LakeletError:
    """Return an error that wraps what user code raised; one of ours stays itself and learns its line.

    The line is the innermost one below `root`, else the innermost of user code. The cause holds the user
    frames of the traceback; `__cause__` is the user's exception, whose traceback begins in the user's code.
    """
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not is_internal(frame.filename)]
    place = origin or Origin()
    inner = _innermost(frames, root=root)
    if inner is not None:
        shown = display_path(inner.filename, root=root)
        place = Origin(file=shown, line=inner.lineno, dataset=place.dataset, flow=place.flow)
    elif place.file is None and file is not None:
        place = Origin(file=display_path(file, root=root), dataset=place.dataset, flow=place.flow)
    if isinstance(error, LakeletError):
        return _at_relative(error, place, root=root)
    wrapped = DefinitionError(
        condition,
        message,
        origin=place,
        cause=_text(error, frames, root=root),
        hint=_hint(error),
    )
    wrapped.__cause__ = error.with_traceback(_from_user_code(error.__traceback__))
    return wrapped


def _at_relative(error: LakeletError, place: Origin, *, root: Path | None) -> LakeletError:
    """Complete one of our errors, and show its file as all others are shown."""
    if error.origin is not None and error.origin.file is not None:
        error.origin = Origin(
            file=display_path(error.origin.file, root=root),
            line=error.origin.line,
            dataset=error.origin.dataset,
            flow=error.origin.flow,
        )
    return error.at(place)


def _innermost(frames: Sequence[traceback.FrameSummary], *, root: Path | None) -> traceback.FrameSummary | None:
    own = [frame for frame in frames if root is not None and Path(frame.filename).is_relative_to(root)]
    found = own or list(frames)
    return found[-1] if found else None


def _text(error: BaseException, frames: Sequence[traceback.FrameSummary], *, root: Path | None) -> str:
    lines = [
        f"{display_path(frame.filename, root=root)}:{frame.lineno} in {frame.name}"
        + (f": {frame.line}" if frame.line else "")
        for frame in frames
    ]
    lines += [_as_imported(line.rstrip()) for line in traceback.format_exception_only(error)]
    return "\n".join(lines)


def _from_user_code(trace: TracebackType | None) -> TracebackType | None:
    """Drop the frames above the first one of user code."""
    while trace is not None and is_internal(trace.tb_frame.f_code.co_filename):
        trace = trace.tb_next
    return trace


def _one_line(error: BaseException) -> str:
    """Return kind and text of an exception; of a long text its first sentence, as the cause has all of it."""
    text = _as_imported(str(error)).strip().splitlines()
    name = type(error).__name__
    if not text:
        return name
    first = text[0] if len(text[0]) <= MAX_SUMMARY else text[0].partition(". ")[0]
    return f"{name}: {first}"


def _as_imported(text: str) -> str:
    """Return a text with our modules under the names that users import them by."""
    text = re.sub(r"'lakelet\.pipelines\.dp'( \([^)]*\))?", "'pyspark.pipelines'", text)
    return re.sub(r"'lakelet\.pipelines\.dlt'( \([^)]*\))?", "'dlt'", text)


def _hint(error: BaseException) -> str:
    """Return what to do about an exception of user code: the name that was meant, where one is near."""
    near: str | None = None
    match error:
        case AttributeError(name=str(name), obj=owner) if owner is not None:
            near = did_you_mean(name, [known for known in dir(owner) if not known.startswith("_")])
        case NameError(name=str(name)):
            near = did_you_mean(name, _names_in(error.__traceback__))
        case ImportError(name=str(module)) if isinstance(error, ModuleNotFoundError):
            return (
                f"install `{module}` into the environment that runs `lakelet`, or list the folder that has it under "
                "`lakelet.source.folders`"
            )
        case ImportError(name=str(module)) if module in sys.modules:
            wanted = re.search(r"cannot import name '(\w+)'", str(error))
            near = did_you_mean(wanted[1], dir(sys.modules[module])) if wanted else None
    if near:
        return f"did you mean `{near}`?"
    if getattr(error, "getCondition", lambda: None)() == "SQL_CONF_NOT_FOUND":
        return (
            "add the key to `configuration` in `spark-pipeline.yml`, or give a default: `spark.conf.get(key, default)`"
        )
    return "correct the line, or catch the exception"


def _names_in(trace: TracebackType | None) -> list[str]:
    """Return the names that the innermost frame of a traceback sees."""
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return [*trace.tb_frame.f_locals, *trace.tb_frame.f_globals, *dir(builtins)] if trace is not None else []
