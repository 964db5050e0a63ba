"""The modules of a project: importable while its code runs, gone from the process afterwards."""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

RunFile = Callable[[ModuleType, Path], None]


class UserModules:
    """Modules beside the pipeline's files, in the project's root and in listed folders.

    A load has its own `UserModules`, so that a later load sees edited files. Within one load a module is
    executed once; modules of the same name in two folders of pipeline files are two modules.

    Args:
        root: the project's folder.
        folders: extra folders.
        libraries: the pipeline's .py files; importing one from another runs it by `run_file`.
    """

    def __init__(self, *, root: Path, folders: Sequence[Path], libraries: Sequence[Path], run_file: RunFile) -> None:
        self._shared = (root, *folders)
        self._libraries = frozenset(libraries)
        self._run_file = run_file
        self._modules: dict[Path | None, dict[str, ModuleType]] = {}
        self._present: dict[tuple[Path, str], bool] = {}
        self._is_first = True

    @contextmanager
    def active(self, folder: Path) -> Iterator[None]:
        """Make modules importable for code of a file in `folder`; what it changes is restored afterwards."""
        cloudpickle = _cloudpickle()

        search = [folder, *(shared for shared in self._shared if shared != folder)]
        own = None if folder in self._shared else folder
        finder = _Finder(search, libraries=self._libraries, run_file=self._run_file, present=self._present)
        modules = {**self._modules.get(None, {}), **self._modules.get(own, {})}
        replaced = {top for top in {name.partition(".")[0] for name in sys.modules} if finder.replaces(top)}
        hidden = {name: sys.modules.pop(name) for name in list(sys.modules) if name.partition(".")[0] in replaced}
        before = set(sys.modules)
        path, writes_bytecode = list(sys.path), sys.dont_write_bytecode
        by_value = set(cloudpickle.list_registry_pickle_by_value())
        sys.modules.update(modules)
        sys.path[:0] = [str(entry) for entry in search]
        sys.dont_write_bytecode = True
        sys.meta_path.insert(_position(), finder)
        if self._is_first:  # files may have come since an earlier load; a load itself takes them as they are
            importlib.invalidate_caches()
            self._is_first = False
        for name, module in modules.items():
            if "." not in name:
                cloudpickle.register_pickle_by_value(module)
        try:
            yield
        finally:
            sys.meta_path.remove(finder)
            sys.dont_write_bytecode = writes_bytecode
            sys.path[:] = path
            self._keep(own, search, before=before)
            for name in cloudpickle.list_registry_pickle_by_value() - by_value:
                cloudpickle.cloudpickle._PICKLE_BY_VALUE_MODULES.discard(name)
            sys.modules.update(hidden)

    def add(self, name: str, module: ModuleType, *, folder: Path) -> None:
        """Keep a module that was executed without an import."""
        self._modules.setdefault(None if folder in self._shared else folder, {})[name] = module

    def _keep(self, own: Path | None, search: Sequence[Path], *, before: set[str]) -> None:
        """Move the project's modules from `sys.modules` to this object."""
        for name in [name for name in sys.modules if name not in before]:
            module = sys.modules[name]
            folder = _folder_of(sys.modules.get(name.partition(".")[0], module), search)
            if folder is not None:
                self._modules.setdefault(own if folder == own else None, {})[name] = module
        for kept in self._modules.values():
            for name, module in kept.items():
                if sys.modules.get(name) is module:
                    del sys.modules[name]


class _Finder(importlib.abc.MetaPathFinder):
    """Finds a project's modules, and has the pipeline's own files run by the project's loader."""

    def __init__(
        self,
        search: Sequence[Path],
        *,
        libraries: frozenset[Path],
        run_file: RunFile,
        present: dict[tuple[Path, str], bool],
    ) -> None:
        self._search = search
        self._present = present
        self._libraries = libraries
        self._run_file = run_file

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None = None,
        target: ModuleType | None = None,
    ) -> ModuleSpec | None:
        if path is not None:
            return None
        found = importlib.machinery.PathFinder.find_spec(fullname, [str(folder) for folder in self._search])
        if found is None or found.loader is None:
            return None
        library = Path(found.origin) if found.origin else None
        if library in self._libraries:
            found.loader = _LibraryLoader(library, self._run_file)
        else:
            found.loader = _ByValueLoader(found.loader)
        return found

    def replaces(self, top: str) -> bool:
        """Tell whether a top-level module that the process has loaded stands in the way of one of the project's."""
        if top in sys.stdlib_module_names or top in ("lakelet", "pyspark", "databricks", "dlt"):
            return False
        origin = getattr(sys.modules.get(top), "__file__", None)
        if origin is not None and f"{os.sep}site-packages{os.sep}" in origin:
            return False
        return any(self._has(folder, top) for folder in self._search)

    def _has(self, folder: Path, top: str) -> bool:
        """Tell whether a folder has a module; asked for every loaded module each time that user code runs."""
        found = self._present.get((folder, top))
        if found is None:
            found = (folder / f"{top}.py").is_file() or (folder / top / "__init__.py").is_file()
            self._present[folder, top] = found
        return found


class _LibraryLoader(importlib.abc.Loader):
    """Runs a pipeline file that another one imports."""

    def __init__(self, file: Path, run_file: RunFile) -> None:
        self._file = file
        self._run_file = run_file

    def create_module(self, spec: ModuleSpec) -> None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        self._run_file(module, self._file)


class _ByValueLoader(importlib.abc.Loader):
    """Loads a module as usual, and makes its functions travel by value."""

    def __init__(self, loader: importlib.abc.Loader) -> None:
        self._loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._loader.exec_module(module)
        travels_by_value(module)


class _Travelling(ModuleType):
    """A module that leaves behind what a worker has no use for, and on a cluster could not import: `dp`, `spark`, `dbutils`."""

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        state = {
            name: value
            for name, value in vars(self).items()
            if name not in ("__builtins__", "__loader__", "__spec__") and not _is_of_lakelet(value)
        }
        return _cloudpickle().cloudpickle.dynamic_subimport, (self.__name__, state)


def _is_of_lakelet(value: object) -> bool:
    name = value.__name__ if isinstance(value, ModuleType) else getattr(value, "__module__", None)
    return isinstance(name, str) and name.partition(".")[0] == "lakelet"


def travels_by_value(module: ModuleType) -> None:
    """Have the functions of a module go with it into UDFs: no worker can import it."""
    module.__class__ = _Travelling
    _cloudpickle().register_pickle_by_value(module)


def _cloudpickle() -> Any:
    """Return pyspark's own copy of cloudpickle, which it makes UDFs with."""
    from pyspark import cloudpickle

    return cloudpickle


def _position() -> int:
    """Return where our finder goes: before the one that walks `sys.path`, after built-in modules."""
    for position, finder in enumerate(sys.meta_path):
        if finder is importlib.machinery.PathFinder:
            return position
    return 0


def _folder_of(module: ModuleType, search: Sequence[Path]) -> Path | None:
    """Return which searched folder a top-level module was found in."""
    origin = getattr(module, "__file__", None)
    paths = [Path(origin)] if origin else [Path(entry) for entry in getattr(module, "__path__", [])]
    for path in paths:
        folder = path.parent.parent if path.name == "__init__.py" else path.parent
        if folder in search:
            return folder
    return None
