"""`dbutils` for pipeline files: files below the pipeline's storage, secrets from the environment, widgets.

`/Volumes/a/b/c` and `dbfs:/Volumes/a/b/c` mean `<storage>/Volumes/a/b/c`.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from lakelet.errors import DefinitionError, did_you_mean
from lakelet.places import ObjectPath, Place
from lakelet.spec import absolute_path


@dataclass(frozen=True, slots=True)
class FileInfo:
    """One entry of `dbutils.fs.ls`; `modificationTime` is in milliseconds."""

    path: str
    name: str
    size: int
    modificationTime: int

    def isDir(self) -> bool:
        return self.name.endswith("/")

    def isFile(self) -> bool:
        return not self.isDir()


class DBUtils:
    """What a pipeline file finds under the name `dbutils`."""

    def __init__(self, *, storage: Place, configuration: Mapping[str, str] | None = None) -> None:
        self.fs = FileSystem(storage)
        self.secrets = Secrets()
        self.widgets = Widgets(configuration or {})
        self.notebook = Notebook()


class FileSystem:
    """`dbutils.fs`: reads anywhere, changes only what is below the pipeline's storage."""

    def __init__(self, storage: Place) -> None:
        self._remote = storage if isinstance(storage, ObjectPath) else None
        self._storage = Path(os.devnull) if isinstance(storage, ObjectPath) else absolute_path(storage)

    def ls(self, path: str) -> list[FileInfo]:
        """List a folder, or the one file that `path` names; folders end in `/`.

        Raises:
            FileNotFoundError: nothing is there.
        """
        local = self.local_path(path)
        if not local.exists():
            raise FileNotFoundError(f"{path} (looked for {local})")
        if local.is_file():
            return [_file_info(path, local)]
        base = path.rstrip("/")
        return [_file_info(f"{base}/{child.name}", child) for child in sorted(local.iterdir())]

    def exists(self, path: str) -> bool:
        """Tell whether a file or folder is there."""
        return self.local_path(path).exists()

    def mkdirs(self, path: str) -> bool:
        """Make a folder and its parents below the storage; True also when it is there."""
        self._own_path(path, "mkdirs").mkdir(parents=True, exist_ok=True)
        return True

    def rm(self, path: str, recurse: bool = False) -> bool:
        """Remove a file, or a folder with `recurse`; False when nothing is there."""
        local = self._own_path(path, "rm")
        if local.is_symlink() or local.is_file():
            local.unlink()
            return True
        if not local.exists():
            return False
        if not recurse and any(local.iterdir()):
            raise OSError(f"the folder {path} is not empty: give `recurse=True`")
        shutil.rmtree(local)
        return True

    def put(self, path: str, contents: str, overwrite: bool = False) -> bool:
        """Write a text file below the storage."""
        local = self._own_path(path, "put")
        if local.exists() and not overwrite:
            raise FileExistsError(f"{path} exists: give `overwrite=True`")
        local.parent.mkdir(parents=True, exist_ok=True)
        local.write_text(contents, encoding="utf-8")
        return True

    def head(self, path: str, max_bytes: int = 65536) -> str:
        """Return the beginning of a text file."""
        with self.local_path(path).open("rb") as file:
            return file.read(max_bytes).decode("utf-8", errors="replace")

    def cp(self, source: str, target: str, recurse: bool = False) -> bool:
        """Copy a file, or a folder with `recurse`, to below the storage."""
        origin, local = self.local_path(source), self._own_path(target, "cp")
        local.parent.mkdir(parents=True, exist_ok=True)
        if origin.is_dir():
            if not recurse:
                raise OSError(f"{source} is a folder: give `recurse=True`")
            shutil.copytree(origin, local, dirs_exist_ok=True)
        else:
            shutil.copy2(origin, local)
        return True

    def local_path(self, path: str) -> Path:
        """Return where a path of a pipeline file is on this machine."""
        text = re.sub(r"^(dbfs|file):(//)?(?=/)", "", path)
        is_volume = text == "/Volumes" or text.startswith("/Volumes/")
        if is_volume and self._remote is not None:
            raise DefinitionError(
                "UNSUPPORTED_FEATURE",
                f"`dbutils.fs` cannot reach `{path}`",
                cause=f"the storage is `{self._remote}`, and `dbutils.fs` knows folders of this machine only",
                hint="use the object store's own client, or a storage folder on this machine",
            )
        if is_volume:
            return absolute_path(self._storage / text.lstrip("/"))
        if re.match(r"[A-Za-z][A-Za-z0-9+.-]+:", text):
            raise DefinitionError(
                "UNSUPPORTED_FEATURE",
                f"`dbutils.fs` cannot reach `{path}`",
                cause="this release reads local paths and /Volumes",
                hint="use a path below `/Volumes/...`",
            )
        return absolute_path(text)

    def _own_path(self, path: str, call: str) -> Path:
        """Return a local path that lies below the storage, links followed, and is not the storage itself."""
        local = self.local_path(path)
        real, storage = local.parent.resolve() / local.name, self._storage.resolve()
        if real == storage or not real.is_relative_to(storage):
            raise DefinitionError(
                "PATH_OUTSIDE_STORAGE",
                f"`dbutils.fs.{call}` may not change `{path}`",
                cause=f"it is not below the pipeline's storage `{self._storage}`",
                hint="use a path below `/Volumes/...`",
            )
        return local


class Secrets:
    """`dbutils.secrets`: a secret is the environment variable `LAKELET_SECRET_<SCOPE>_<KEY>`."""

    def get(self, scope: str, key: str) -> str:
        """Return a secret.

        Raises:
            DefinitionError: `SECRET_NOT_FOUND`, with the name of the variable.
        """
        variable = "LAKELET_SECRET_" + "_".join(re.sub(r"[^A-Za-z0-9]", "_", part).upper() for part in (scope, key))
        value = os.environ.get(variable)
        if value is None:
            raise DefinitionError(
                "SECRET_NOT_FOUND",
                f"there is no secret `{key}` in the scope `{scope}`",
                hint=f"set the environment variable `{variable}`",
            )
        return value

    def getBytes(self, scope: str, key: str) -> bytes:
        """Return a secret as bytes."""
        return self.get(scope, key).encode("utf-8")


class Widgets:
    """`dbutils.widgets`: values come from the pipeline's `configuration`, then from the default."""

    def __init__(self, configuration: Mapping[str, str]) -> None:
        self._configuration = configuration
        self._defaults: dict[str, str] = {}

    def get(self, name: str) -> str:
        """Return a value.

        Raises:
            DefinitionError: `WIDGET_NOT_FOUND`.
        """
        if name in self._configuration:
            return self._configuration[name]
        if name in self._defaults:
            return self._defaults[name]
        near = did_you_mean(name, [*self._configuration, *self._defaults])
        raise DefinitionError(
            "WIDGET_NOT_FOUND",
            f"there is no widget `{name}`",
            cause="a pipeline's widgets are the keys of its `configuration`",
            hint=f"did you mean `{near}`?" if near else f"add `{name}` to `configuration` in `spark-pipeline.yml`",
        )

    def getArgument(self, name: str, default: str | None = None) -> str:
        """Return a value, or the default."""
        if default is not None and name not in self._configuration and name not in self._defaults:
            return default
        return self.get(name)

    def text(self, name: str, defaultValue: str, label: str | None = None) -> None:
        """Declare a widget with a default."""
        self._defaults[name] = defaultValue

    def dropdown(self, name: str, defaultValue: str, choices: list[str], label: str | None = None) -> None:
        """Declare a widget with a default."""
        self._defaults[name] = defaultValue

    combobox = dropdown
    multiselect = dropdown

    def remove(self, name: str) -> None:
        """Forget a declared default."""
        self._defaults.pop(name, None)

    def removeAll(self) -> None:
        """Forget all declared defaults."""
        self._defaults.clear()


class Notebook:
    """`dbutils.notebook`: a pipeline runs no notebooks."""

    def run(self, path: str, timeout_seconds: int = 0, arguments: Mapping[str, str] | None = None) -> NoReturn:
        """Refused."""
        raise _notebook_refused("run", "use `%run ./other`, or import what you need from a module")

    def exit(self, value: str = "") -> NoReturn:
        """Refused."""
        raise _notebook_refused("exit", "let the file end, or put the rest under an `if`")


def _notebook_refused(call: str, hint: str) -> DefinitionError:
    return DefinitionError(
        "UNSUPPORTED_FEATURE", f"`dbutils.notebook.{call}` is not available in a pipeline", hint=hint
    )


def _file_info(path: str, local: Path) -> FileInfo:
    status = local.stat()
    folder = local.is_dir()
    return FileInfo(
        path=path.rstrip("/") + "/" if folder else path,
        name=local.name + "/" if folder else local.name,
        size=0 if folder else status.st_size,
        modificationTime=int(status.st_mtime * 1000),
    )
