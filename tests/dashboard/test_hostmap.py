from xml.etree import ElementTree

from dashboard import hostmap
from dashboard.theme import DARK, LIGHT, Status


def tile(**more):
    return hostmap.Tile(
        **{
            "model": "H100", "busy_ratio": 0.92, "memory_ratio": 0.4, "memory_used_bytes": 29e9,
            "holder": "acme", "state": "busy", **more,
        }
    )  # fmt: skip


def test_the_map_is_well_formed_and_names_cannot_leave_their_text():
    row = hostmap.HostRow(
        host='<script>alert(1)</script>"', tiles=[tile(holder="<b>&x", model="\x00H")], containers=[("a", [Status.OK])]
    )
    for colours in (LIGHT, DARK):
        root = ElementTree.fromstring(hostmap.draw([row], colours))
        assert {element.tag.rpartition("}")[2] for element in root.iter()} <= {
            "svg", "defs", "pattern", "rect", "text", "path",
        }  # fmt: skip


def test_an_unknown_gpu_is_drawn_empty_with_a_question_mark_not_as_zero():
    svg = hostmap.draw([hostmap.HostRow(host="h", tiles=[tile(busy_ratio=None, state="unknown")], containers=[])], DARK)
    assert "H100 ?" in svg
    assert "0 %" not in svg.replace("0–100 %", "")


def test_a_thousand_containers_cost_less_than_forty_kilobytes():
    statuses = [Status.OK] * 220 + [Status.WARNING] * 20 + [Status.CRITICAL] * 10
    rows = [hostmap.HostRow(host=f"h{i}", tiles=[tile()] * 8, containers=[("t", statuses)]) for i in range(4)]
    assert len(hostmap.draw(rows, DARK)) < 40_000


def test_the_map_has_a_sentence_for_those_who_cannot_see_it():
    row = hostmap.HostRow(host="h", tiles=[tile(), tile(state="held_idle")], containers=[("a", [Status.OK] * 3)])
    assert hostmap.describe([row]) == (
        "Map of 1 hosts with 2 GPUs: 1 busy, 0 free, 1 held but idle, 0 with errors; 3 containers."
    )


def test_the_squares_of_each_status_are_one_path_and_lie_in_a_row():
    row = hostmap.HostRow(host="h", tiles=[tile()], containers=[("a", [Status.OK, Status.OK]), ("b", [Status.OK])])
    svg = hostmap.draw([row], DARK)
    # 92 is where names end; squares are 9 apart, tenants 5 more.
    assert f'<path d="M92 37h7v7h-7zM101 37h7v7h-7zM115 37h7v7h-7z" fill="{DARK.ok}"/>' in svg
