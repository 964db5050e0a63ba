"""Where a test's pipeline lives: its project file, its folder, and the paths that lead into that folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from lakelet.errors import SpecError
from lakelet.spec import PipelineSpec, load_spec
from lakelet.storage.catalog import Catalog

PIPELINE_FILES = (".py", ".sql")


def spec_of(source: str | Path | None, storage: Path) -> PipelineSpec:
    """Return the project that `source` is: a project file, its folder, or one pipeline file without a project.

    Raises:
        SpecError: there is nothing, or the project file is wrong.
    """
    path = Path(source) if source is not None else None
    if path is None or path.suffix not in PIPELINE_FILES:
        return load_spec(path, storage=storage)
    file = path.expanduser().absolute()
    if not file.is_file():
        raise SpecError(
            "PIPELINE_LIBRARY_NOT_FOUND", f"the pipeline file `{source}` does not exist", hint="check the path"
        )
    return PipelineSpec(
        name=file.stem,
        storage=storage,
        catalog="spark_catalog",
        database="default",
        configuration={},
        settings={},
        libraries=(file.name,),
        root=file.parent,
        file=file,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class SandboxCatalog(Catalog):
    """A catalog that sends some paths outside of the storage folder into it.

    A path to which no rows were given is read where it is; a test never writes there.

    Attributes:
        inside: local path → the folder that stands in for it.
    """

    inside: dict[str, str] = field(default_factory=dict)

    def path(self, text: str) -> str:
        local = Catalog.path(self, text).rstrip("/")
        return self.inside.get(local, local)

    def own(self, text: str) -> str:
        """Return the path of `text` in the storage folder, one that stands in for it if it lies elsewhere."""
        local = self.path(text)
        if Path(local).is_relative_to(str(self.storage)):
            return local
        return self.inside.setdefault(local, str(self.storage / "_outside" / str(len(self.inside))))


def external_locations(spec: PipelineSpec, catalog: SandboxCatalog) -> Mapping[str, str]:
    """Return the tables that `lakelet.tables.<name>` settings map, by the name in the setting."""
    return {name: catalog.path(path) for name, path in spec.external_tables.items()}
