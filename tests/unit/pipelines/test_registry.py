import threading
from pathlib import Path

import pytest

from lakelet.errors import DefinitionError
from lakelet.names import NameContext
from lakelet.pipelines import dp
from lakelet.pipelines.registry import Registry, active_registry


def test_outside_of_a_load_a_decorator_says_how_to_load_the_file() -> None:
    with pytest.raises(DefinitionError) as caught:
        dp.table(lambda: None)
    error = caught.value
    assert error.condition == "GRAPH_ELEMENT_DEFINED_OUTSIDE_OF_DECLARATIVE_PIPELINE"
    assert error.origin is not None
    assert error.origin.file == __file__
    assert "lakelet run" in (error.hint or "")


def test_the_inner_of_two_active_registries_is_written_to() -> None:
    outer, inner = Registry(NameContext()), Registry(NameContext())
    with outer.activate():
        with inner.activate():
            assert active_registry() is inner
        assert active_registry() is outer


def test_a_registry_is_inactive_after_an_exception() -> None:
    with pytest.raises(KeyError), Registry(NameContext()).activate():
        raise KeyError
    with pytest.raises(DefinitionError):
        active_registry()


def test_another_thread_does_not_see_the_active_registry() -> None:
    seen: list[str] = []

    def look() -> None:
        try:
            active_registry()
        except DefinitionError as error:
            seen.append(error.condition)

    with Registry(NameContext()).activate():
        thread = threading.Thread(target=look)
        thread.start()
        thread.join()
    assert seen == ["GRAPH_ELEMENT_DEFINED_OUTSIDE_OF_DECLARATIVE_PIPELINE"]


def test_collected_errors_let_the_file_go_on_and_keep_the_functions() -> None:
    registry = Registry(NameContext())
    with registry.activate(collect_errors=True):

        @dp.table(nam="t")
        @dp.expect("rule", "a > 1")
        def orders() -> int:
            return 7

        dp.create_streaming_table()  # type: ignore[call-arg]

        @dp.materialized_view
        def good() -> None: ...

        definitions = registry.definitions()
    assert orders() == 7
    assert [error.condition for error in registry.errors] == ["UNKNOWN_PARAMETER", "ARGUMENT_REQUIRED"]
    assert [dataset.name.name for dataset in definitions.datasets] == ["good"]


def test_files_below_the_root_are_shown_relative_to_it() -> None:
    registry = Registry(NameContext(), root=Path(__file__).parents[1])
    with registry.activate():
        assert registry.origin().file == "pipelines/test_registry.py"
