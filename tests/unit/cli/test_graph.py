"""`pipeflow graph`: what an app declares, as text and as a drawing."""

from __future__ import annotations

import itertools
import json
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from pipeflow.cli.drawing import svg
from pipeflow.cli.layout import laid_out
from pipeflow.cli.nodes import Edge, Graph, Node, policy_text
from pipeflow.specs import FilterPolicy

Call = Callable[..., Result]


def test_mermaid_names_every_noun_and_what_joins_them(call: Call, shop: Path) -> None:
    shown = call("graph").stdout
    assert shown.startswith("flowchart LR\n")
    for name in ("orders", "billing", "billing-dlq", "charge", "lake", "file://./lake", "alerts"):
        assert name in shown
    assert '|"kind: placed"|' in shown
    assert '-.->|"after 5 receives"|' in shown
    assert '|"emits"|' in shown


def test_S31_the_way_of_originals_into_a_backup_is_drawn(call: Call, here: Path) -> None:
    (here / "app.py").write_text(
        'from pipeflow import App\n\napp = App("shop")\n'
        'kept = app.stream("kept", bytes, sink="file://./kept")\n'
        'lake = app.stream("lake", bytes, sink="file://./lake", backup=kept)\n'
    )
    drawn = json.loads(call("graph", "--format", "json").stdout)
    assert {"source": "stream:lake", "target": "stream:kept", "label": "as they came", "aside": False} in drawn["edges"]


def test_topics_of_a_name_are_joined_to_who_takes_them_unless_that_takes_one_itself(call: Call, here: Path) -> None:
    (here / "app.py").write_text(
        'from pipeflow import App\n\napp = App("shop")\neu = app.topic("orders-eu", bytes)\n'
        'app.topic("orders-us", bytes)\napp.topic("returns", bytes)\n'
        'app.queue("audit", bytes, app.topics_named("orders-*", bytes), eu.where(kind="paid"))\n'
    )
    drawn = json.loads(call("graph", "--format", "json").stdout)
    assert sorted((each["source"], each["label"]) for each in drawn["edges"] if each["target"] == "queue:audit") == [
        ("topic:orders-eu", "kind: paid"),
        ("topic:orders-us", ""),
    ]


def test_json_is_the_graph_itself(call: Call, shop: Path) -> None:
    drawn = json.loads(call("graph", "app:app", "--format", "json").stdout)
    assert {"source": "queue:billing", "target": "handler:billing", "label": "", "aside": False} in drawn["edges"]
    assert [node["kind"] for node in drawn["nodes"] if node["name"] == "billing-dlq"] == ["dead letters"]


def test_svg_goes_to_a_file_by_its_name_and_is_well_formed(call: Call, shop: Path) -> None:
    assert call("graph", "--out", "shop.svg").exit_code == 0
    root = ET.fromstring((shop / "shop.svg").read_text())
    texts = ["".join(each.itertext()) for each in root.iter("{http://www.w3.org/2000/svg}text")]
    assert {"shop", "orders", "billing", "charge", "lake"} <= set(texts)


def test_names_are_escaped_in_svg() -> None:
    drawn = svg(Graph("a<b>&c", [Node("n", "sink", "x<y>&z")], []))
    ET.fromstring(drawn)
    assert "x&lt;y&gt;&amp;z" in drawn


def graphs() -> list[tuple[dict[str, tuple[float, float]], list[tuple[str, str]]]]:
    sizes = dict.fromkeys("abcdefgh", (100.0, 40.0))
    return [
        (sizes, []),
        (sizes, [("a", "b"), ("a", "c"), ("a", "d"), ("b", "e"), ("c", "e"), ("d", "f"), ("a", "f"), ("f", "g")]),
        (sizes, [("a", "b"), ("b", "c"), ("c", "a"), ("c", "d"), ("d", "d")]),
        (sizes, [("h", "a"), ("g", "b"), ("f", "c"), ("e", "d"), ("h", "d"), ("e", "a")]),
    ]


@pytest.mark.parametrize(("sizes", "edges"), graphs())
def test_no_two_boxes_overlap_and_edges_go_to_the_right(
    sizes: dict[str, tuple[float, float]], edges: list[tuple[str, str]]
) -> None:
    layout = laid_out(sizes, edges)
    boxes = [layout.spots[key] for key in sizes]
    for one, other in itertools.combinations(boxes, 2):
        apart = abs(one.x - other.x) >= (one.width + other.width) / 2 or (
            abs(one.y - other.y) >= (one.height + other.height) / 2
        )
        assert apart, (one, other)
    for number, (source, target) in enumerate(edges):
        if number not in layout.back:
            assert layout.spots[source].x < layout.spots[target].x
    assert all(spot.y - spot.height / 2 >= -0.01 for spot in boxes)


def test_a_cycle_is_drawn_around() -> None:
    nodes = [Node(key, "topic", key) for key in "ab"]
    drawn = svg(Graph("cycle", nodes, [Edge("a", "b"), Edge("b", "a", "emits"), Edge("a", "a")]))
    assert drawn.count('class="edge"') == 3
    assert "emits" in drawn


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        ('{"kind":["placed"]}', "kind: placed"),
        ('{"kind":["placed","paid"]}', "kind: placed or paid"),
        ('{"dep_delay":[{"numeric":[">=",60]}]}', "dep_delay >= 60"),
        ('{"kind":[{"prefix":"eu-"}]}', "kind: eu-*"),
        ('{"kind":[{"exists":true}]}', 'kind: [{"exists":true}]'),
    ],
)
def test_filters_are_told_in_few_words(policy: str, expected: str) -> None:
    assert policy_text(FilterPolicy(policy)) == expected
