"""Loads the files of a project into a registry, and gives back everything that they declare."""

from __future__ import annotations
import __future__

import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

from lakelet.errors import DefinitionError, DefinitionErrors, Origin, SpecError
from lakelet.graph.elements import Definitions, Flow
from lakelet.pipelines.call_site import display_path
from lakelet.pipelines.dbutils import DBUtils
from lakelet.pipelines.modules import display, pipeline_modules
from lakelet.pipelines.notebook import PythonPart, RunPart, SqlPart, parts_of
from lakelet.pipelines.phase import Phase
from lakelet.pipelines.registry import Registry
from lakelet.pipelines.user_errors import (
    file_failed,
    query_function_failed,
    syntax_error,
)
from lakelet.pipelines.user_modules import UserModules, travels_by_value
from lakelet.spec import PipelineSpec, absolute_path

_FUTURE_FLAGS = 0
for _name in __future__.all_feature_names:
    _FUTURE_FLAGS |= getattr(__future__, _name).compiler_flag


def load_project(
    spec: PipelineSpec,
    registry: Registry,
    session: Any,
    *,
    dbutils: Any = None,
) -> Definitions:
    """Run every file of a project, in the order of their paths, and return what they declare.

    All files are loaded even when some fail, so that all errors are reported at once. The query of a flow in
    the result is a `QueryFunction`: calling it activates the session and the project's modules.

    Args:
        session: what the files find under the name `spark`, from `lakelet.pipelines.session.user_session`.
        dbutils: what the files find under the name `dbutils`; default: one for the pipeline's storage.

    Raises:
        LakeletError: the only error of the load: `PIPELINE_FILE_SYNTAX_ERROR`, `PIPELINE_FILE_FAILED`,
            `RUN_EMPTY_PIPELINE` or whatever a declaration got wrong.
        DefinitionErrors: when there are several.
    """
    files = library_files(spec)
    dbutils = dbutils or DBUtils(storage=spec.storage, configuration=spec.configuration)
    registry.root = spec.root
    loader = _Loader(spec, files, registry, session, dbutils)
    with registry.activate(collect_errors=True):
        for file in files:
            loader.load(file)
        definitions = registry.definitions()
    if registry.errors:
        raise registry.errors[0] if len(registry.errors) == 1 else DefinitionErrors(registry.errors)
    if not definitions.datasets:
        raise DefinitionError(
            "RUN_EMPTY_PIPELINE",
            "the pipeline has no datasets",
            origin=Origin(file=spec.file.name),
            cause=_empty_cause(spec, len(files)),
            hint="declare one with `@dp.table`"
            if files
            else "put a .py or .sql file there"
            if spec.libraries
            else "add `libraries:` with `- glob: {include: transformations/**}`",
        )
    return replace(definitions, flows=tuple(loader.bound(flow) for flow in definitions.flows))


def _empty_cause(spec: PipelineSpec, num_files: int) -> str:
    if num_files:
        loaded, which = ("s were", "them") if num_files > 1 else (" was", "it")
        return f"{num_files} file{loaded} loaded, and nothing in {which} declares one"
    if spec.libraries:
        return f"there is no file in {', '.join(f'`{pattern}`' for pattern in spec.libraries)}"
    return "the project file has no `libraries`"


def library_files(spec: PipelineSpec) -> list[Path]:
    """Return the files that `libraries` names, sorted, each once, without hidden files and `__pycache__`.

    Raises:
        SpecError: `PIPELINE_LIBRARY_NOT_FOUND`.
        DefinitionError: `PIPELINE_UNSUPPORTED_DEFINITIONS_FILE_EXTENSION`.
    """
    files: set[Path] = set()
    for pattern in spec.libraries:
        folder = pattern.endswith("/**")
        place = absolute_path(spec.root / (pattern.removesuffix("/**") if folder else pattern))
        if folder and place.is_dir():
            files.update(file for file in place.rglob("*") if file.is_file() and not _is_left_out(file, place))
        elif not folder and place.is_file():
            files.add(place)
        else:
            raise SpecError(
                "PIPELINE_LIBRARY_NOT_FOUND",
                f"`{pattern}` of `libraries` does not exist",
                origin=Origin(file=spec.file.name),
                cause=f"looked for {'the folder' if folder else 'the file'} `{place}`",
                hint="correct the path, which is relative to the project file",
            )
    for file in files:
        if file.suffix not in (".py", ".sql"):
            raise _unsupported_extension(file, spec)
    return sorted(files)


class QueryFunction:
    """A query function of the user with what it needs around it: session, modules, folders to import from.

    What the user's function raises becomes a definition error `QUERY_FUNCTION_FAILED` with the user's line,
    and has the user's exception as its cause; errors of ours pass through.
    """

    def __init__(
        self,
        function: Callable[[], Any],
        *,
        origin: Origin,
        root: Path,
        running: Callable[[Path, Phase], AbstractContextManager[None]],
    ) -> None:
        code = getattr(inspect.unwrap(function), "__code__", None)
        self.__wrapped__ = function
        self.__name__ = getattr(function, "__name__", "query")
        self._folder = Path(code.co_filename).parent if code is not None else root
        self._origin = origin
        self._root = root
        self._running = running

    def __call__(self) -> Any:
        with self._running(self._folder, Phase.QUERY):
            try:
                return self.__wrapped__()
            except (Exception, SystemExit) as error:
                failed = query_function_failed(error, name=self.__name__, origin=self._origin, root=self._root)
                if failed is error:
                    raise
                raise failed from error


class _Loader:
    """Runs the files of one load."""

    def __init__(self, spec: PipelineSpec, files: list[Path], registry: Registry, session: Any, dbutils: Any) -> None:
        self._spec = spec
        self._registry = registry
        self._session = session
        self._globals = {"spark": session, "dbutils": dbutils, "display": display}
        self._done: set[Path] = set()
        self._modules = UserModules(
            root=spec.root, folders=spec.source_folders, libraries=files, run_file=self._run_module
        )

    def load(self, file: Path) -> None:
        """Run one file, unless another one has imported it; what it raises joins the registry's errors."""
        if file in self._done:
            return
        try:
            if file.suffix == ".sql":
                self._done.add(file)
                self._load_sql(file.read_text(encoding="utf-8"), file)
            else:
                with self.running(file.parent, Phase.LOAD):
                    self._import(file)
        except (Exception, SystemExit) as error:
            self._record(error, file)

    @contextmanager
    def running(self, folder: Path, phase: Phase) -> Iterator[None]:
        """Be the context in which code of a file in `folder` runs."""
        dbutils = self._globals["dbutils"]
        with (
            pipeline_modules(session=self._session, dbutils=dbutils, phase_of_code=phase),
            self._modules.active(folder),
        ):
            yield

    def bound(self, flow: Any) -> Any:
        """Return the flow with its query function bound to this load."""
        if isinstance(flow, Flow) and callable(flow.query):
            query = QueryFunction(flow.query, origin=flow.origin, root=self._spec.root, running=self.running)
            return replace(flow, query=query)
        return flow

    def _import(self, file: Path) -> None:
        module = ModuleType(file.stem)
        before = sys.modules.get(file.stem)
        keep = before is None and file.stem.isidentifier()
        sys.modules[file.stem] = module
        try:
            self._run_module(module, file)
        finally:
            if not keep and before is not None:
                sys.modules[file.stem] = before
            else:
                sys.modules.pop(file.stem, None)
        if keep:
            self._modules.add(file.stem, module, folder=file.parent)

    def _run_module(self, module: ModuleType, file: Path) -> None:
        """Run a .py file in a module's namespace; called for imports too."""
        self._done.add(file)
        module.__file__ = str(file)
        travels_by_value(module)  # `spark.udf.register` pickles at once, while the file still loads
        vars(module).update({name: value for name, value in self._globals.items() if name not in vars(module)})
        self._run_source(file, vars(module), running=(file,))

    def _run_source(self, file: Path, namespace: dict[str, Any], *, running: tuple[Path, ...]) -> None:
        shown = display_path(str(file), root=self._spec.root)
        flags = 0
        for part in parts_of(file.read_text(encoding="utf-8"), file=shown):
            match part:
                case PythonPart(text):
                    code = compile(text, str(file), "exec", flags=flags, dont_inherit=True)
                    flags |= code.co_flags & _FUTURE_FLAGS
                    exec(code, namespace)
                case SqlPart(text):
                    self._load_sql(text, file)
                case RunPart(path, line):
                    other = self._notebook(path, line, file)
                    if other in running:
                        raise DefinitionError(
                            "NOTEBOOK_CYCLE",
                            f"`%run {path}` runs a notebook that is running already",
                            origin=Origin(file=shown, line=line),
                            cause=" → ".join(
                                display_path(str(step), root=self._spec.root) for step in (*running, other)
                            ),
                            hint="remove one of the `%run` lines",
                        )
                    self._done.add(other)
                    self._run_source(other, namespace, running=(*running, other))

    def _notebook(self, path: str, line: int, file: Path) -> Path:
        """Return the file of a `%run` line."""
        origin = Origin(file=display_path(str(file), root=self._spec.root), line=line)
        name, *arguments = path.split()
        name = name.strip("\"'")
        if arguments:
            raise DefinitionError(
                "UNSUPPORTED_FEATURE",
                f"`%run {path}` has arguments",
                origin=origin,
                hint="put the values under `configuration`, and read them with `spark.conf.get`",
            )
        place = absolute_path(file.parent / name)
        for candidate in (place, place.with_name(place.name + ".py")):
            if candidate.is_file() and candidate.suffix == ".py":
                return candidate
        raise DefinitionError(
            "NOTEBOOK_NOT_FOUND",
            f"`%run {path}` names no notebook",
            origin=origin,
            cause=f"looked for `{place}.py`",
            hint="correct the path, which is relative to this notebook",
        )

    def _load_sql(self, text: str, file: Path) -> None:
        from lakelet.pipelines.sql_file import load_sql_file

        load_sql_file(text, display_path(str(file), root=self._spec.root), self._registry)

    def _record(self, error: BaseException, file: Path) -> None:
        """Add an error to the registry's, unless it is there: another file may import the one that failed."""
        seen: BaseException | None = error
        while seen is not None:
            if any(seen is known or seen is known.__cause__ for known in self._registry.errors):
                return
            seen = seen.__cause__
        errors = error.errors if isinstance(error, DefinitionErrors) else (error,)
        for each in errors:
            if isinstance(each, SyntaxError) and each.filename and Path(each.filename).is_file():
                self._registry.errors.append(syntax_error(each, file=str(file), root=self._spec.root))
            else:
                self._registry.errors.append(file_failed(each, file=str(file), root=self._spec.root))


def _is_left_out(file: Path, folder: Path) -> bool:
    return any(part == "__pycache__" or part.startswith(".") for part in file.relative_to(folder).parts)


def _unsupported_extension(file: Path, spec: PipelineSpec) -> DefinitionError:
    hint = "move it out of the folders that `libraries` names"
    if file.suffix == ".ipynb":
        hint = "export the notebook as a source file (.py)"
    return DefinitionError(
        "PIPELINE_UNSUPPORTED_DEFINITIONS_FILE_EXTENSION",
        f"`{file.name}` is neither Python nor SQL",
        origin=Origin(file=display_path(str(file), root=spec.root)),
        cause="the files that `libraries` names are .py and .sql",
        hint=hint,
    )
