"""One rendering of an error, and what it knows about itself."""

from __future__ import annotations

import pytest

from lakelet.errors import (
    DefinitionError,
    DefinitionErrors,
    FlowError,
    GraphError,
    LakeletError,
    LockError,
    Origin,
    QueryError,
    SourceError,
    SpecError,
    StorageError,
    did_you_mean,
)


def test_an_error_is_rendered_with_place_cause_and_hint() -> None:
    error = GraphError(
        "PIPELINE_DATASET_WITHOUT_FLOW",
        "streaming table `bronze.orders` has no flow writing to it",
        origin=Origin(file="transformations/bronze.py", line=41, dataset="bronze.orders"),
        cause="declared without a query\nand no flow has it as target",
        hint="remove the table",
    )
    assert error.render() == (
        "error[PIPELINE_DATASET_WITHOUT_FLOW]: streaming table `bronze.orders` has no flow writing to it\n"
        "  --> transformations/bronze.py:41, dataset `bronze.orders`\n"
        "  cause: declared without a query\n"
        "         and no flow has it as target\n"
        "\n"
        "hint: remove the table"
    )
    assert str(error).startswith("[PIPELINE_DATASET_WITHOUT_FLOW] ")


def test_what_an_error_does_not_know_is_left_out() -> None:
    assert LakeletError("X", "y", cause="").render() == "error[X]: y"


@pytest.mark.parametrize(
    ("origin", "text"),
    [
        (Origin(), ""),
        (Origin(file="a.py"), "a.py"),
        (Origin(line=3, dataset="d"), "dataset `d`"),
        (Origin(file="a.py", line=3, dataset="d", flow="d"), "a.py:3, dataset `d`"),
        (Origin(dataset="d", flow="f"), "dataset `d`, flow `f`"),
    ],
)
def test_an_origin_says_what_it_knows(origin: Origin, text: str) -> None:
    assert str(origin) == text


def test_the_nearest_place_wins_and_the_rest_is_filled_in() -> None:
    error = QueryError("X", "y", origin=Origin(file="near.py", line=7))
    assert error.at(Origin(file="far.py", line=1, dataset="d", flow="f")) is error
    assert error.origin == Origin(file="near.py", line=7, dataset="d", flow="f")
    assert GraphError("X", "y").at(Origin(file="far.py", line=1)).origin == Origin(file="far.py", line=1)


def test_a_place_without_a_line_does_not_borrow_one_of_another_file() -> None:
    error = QueryError("X", "y", origin=Origin(file="near.py"))
    assert str(error.at(Origin(file="far.py", line=9)).origin) == "near.py"


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        (SpecError, 2),
        (DefinitionError, 2),
        (GraphError, 2),
        (LockError, 2),
        (FlowError, 1),
        (SourceError, 1),
        (StorageError, 1),
    ],
)
def test_exit_codes(kind: type[LakeletError], code: int) -> None:
    assert kind("X", "y").exit_code == code


def test_several_errors_are_one_with_all_of_them() -> None:
    both = DefinitionErrors([GraphError("A", "first"), DefinitionError("B", "second")])
    assert both.exit_code == 2
    assert both.render() == "error[A]: first\n\nerror[B]: second"


@pytest.mark.parametrize(
    ("name", "near"),
    [("order", "orders"), ("bronze.ordrs", "bronze.orders"), ("ordrs", "orders"), ("entirely_else", None)],
)
def test_near_names(name: str, near: str | None) -> None:
    assert did_you_mean(name, ["customers", "orders", "bronze.orders"]) == near


def test_a_cause_from_elsewhere_has_no_colours() -> None:
    error = StorageError(
        "DISK_FULL", "no space left", cause="LocalFileSystem error\n\x1b[31m↳\x1b[0m No space left on device"
    )
    assert error.render().splitlines()[1:] == ["  cause: LocalFileSystem error", "         ↳ No space left on device"]
