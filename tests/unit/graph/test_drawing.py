"""The graph as a picture."""

from __future__ import annotations

from xml.etree import ElementTree

from tests.unit.graph.graphs import NAMES, dataset, flow

from lakelet.graph.dataflow_graph import DataflowGraph
from lakelet.graph.drawing import HEIGHT, as_svg

SVG = "{http://www.w3.org/2000/svg}"


def graph(*flows: tuple[str, str, tuple[str, ...]]) -> DataflowGraph:
    datasets = [dataset(name, kind) for name, kind, _ in flows]
    return DataflowGraph(
        names=NAMES,
        datasets={each.name.key: each for each in datasets},
        flows=tuple(flow(name, name, *reads) for name, _, reads in flows),
    )


def boxes(picture: ElementTree.Element) -> dict[str, tuple[float, float, float]]:
    """Return left, top and width of each box by its whole name."""
    found = {}
    for group in picture.iter(f"{SVG}g"):
        title, box = group.find(f"{SVG}title"), group.find(f"{SVG}rect")
        assert title is not None and title.text is not None and box is not None
        found[title.text] = (float(box.attrib["x"]), float(box.attrib["y"]), float(box.attrib["width"]))
    return found


def test_every_dataset_and_source_is_a_box_right_of_what_it_reads() -> None:
    picture = ElementTree.fromstring(
        as_svg(
            graph(
                ("bronze.sales", "streaming", ("~delta:/landing/sales",)),
                ("clean", "temporary", ("~bronze.sales",)),
                ("gold.daily", "view", ("clean", "bronze.sales")),
                ("alone", "view", ()),
            )
        )
    )
    places = boxes(picture)
    assert set(places) == {"delta:/landing/sales", "bronze.sales", "clean", "gold.daily", "alone"}
    for left, right in (("delta:/landing/sales", "bronze.sales"), ("bronze.sales", "clean"), ("clean", "gold.daily")):
        assert places[left][0] + places[left][2] < places[right][0]


def test_streaming_and_batch_reads_are_drawn_differently() -> None:
    text = as_svg(graph(("a", "streaming", ("~delta:/x/y",)), ("b", "view", ("a",))))
    assert text.count('<path class="stream"') == 1
    assert text.count('<path class="batch"') == 1


def test_boxes_do_not_overlap_and_lie_inside_the_picture() -> None:
    flows = [(f"t{number}", "streaming", tuple(f"~t{other}" for other in range(number) if number % (other + 2) == 0))
             for number in range(30)]  # fmt: skip
    picture = ElementTree.fromstring(as_svg(graph(*flows)))
    places = sorted(boxes(picture).values())
    width, height = float(picture.attrib["width"]), float(picture.attrib["height"])
    for x, y, w in places:
        assert x >= 0 and y >= 0 and x + w <= width and y + HEIGHT <= height
    for number, (x, y, w) in enumerate(places):
        for other_x, other_y, _ in places[number + 1 :]:
            assert other_x >= x + w or abs(other_y - y) >= HEIGHT


def test_names_are_escaped() -> None:
    text = as_svg(graph(("a", "streaming", ("~x/<script>&",))))
    assert "<script>" not in text
    ElementTree.fromstring(text)


def test_a_pipeline_without_datasets_is_an_empty_picture() -> None:
    assert not boxes(ElementTree.fromstring(as_svg(graph())))
