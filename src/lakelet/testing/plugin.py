"""The pytest plugin: the fixture `pipeline_test`, and the option and setting that name the project file.

pytest loads this in every session of an environment that has lakelet, so it imports nothing heavy until a test asks.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import pytest

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from lakelet.testing.pipeline import PipelineTest

SETTING = "lakelet_spec"
OPTION = "--lakelet-spec"


class MakePipelineTest(Protocol):
    """Makes a `PipelineTest`, which is closed when the test ends; a relative path starts at pytest's root folder."""

    def __call__(
        self,
        source: str | Path | None = None,
        *,
        now: datetime | str | None = None,
        configuration: Mapping[str, str] | None = None,
    ) -> PipelineTest: ...


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option and the setting."""
    parser.getgroup("lakelet").addoption(
        OPTION, metavar="PATH", help="project file or folder of the pipeline that the fixture `pipeline_test` loads"
    )
    parser.addini(SETTING, "project file or folder of the pipeline, relative to this configuration file")


@pytest.fixture
def pipeline_test(request: pytest.FixtureRequest) -> Iterator[MakePipelineTest]:
    """Makes tests of a pipeline, by default the one of `--lakelet-spec`, of `lakelet_spec`, or of the test's folder."""
    from lakelet.testing.pipeline import PipelineTest

    made: list[PipelineTest] = []

    def make(
        source: str | Path | None = None,
        *,
        now: datetime | str | None = None,
        configuration: Mapping[str, str] | None = None,
    ) -> PipelineTest:
        place = request.config.rootpath / source if source is not None else _default_source(request)
        test = PipelineTest(place, now=now, configuration=configuration)
        made.append(test)
        return test

    yield make
    for test in made:
        test.close()


def _default_source(request: pytest.FixtureRequest) -> Path | None:
    config = request.config
    given: str | None = config.getoption(OPTION)
    if given:
        return Path(config.invocation_params.dir, given)
    setting = config.getini(SETTING)
    if setting:
        return (config.inipath.parent if config.inipath else config.rootpath) / str(setting)
    folder = request.path.parent
    names = ("spark-pipeline.yml", "spark-pipeline.yaml")
    return next((above for above in (folder, *folder.parents) if any((above / name).is_file() for name in names)), None)
