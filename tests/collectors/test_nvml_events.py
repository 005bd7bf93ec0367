"""XIDs and other events of the driver: none lost, none twice, each with its own time."""

from __future__ import annotations

import time

import pytest

from collectors.base import SourceError
from collectors.nvml_messages import DriverEvent
from collectors.nvml_rows import driver_event
from fleet.inventory import GpuRequest
from fleet.model import Event, GpuSample
from tests.fakes.gpu_host import HOST, A, B, gpus
from tests.fakes.nvml_stub import gpu

pytestmark = pytest.mark.cc
ALL = GpuRequest(kind="all", text="--gpus all")


def test_an_xid_is_an_event_in_words_and_marks_the_sample(make_host):
    host = make_host(gpu(0, A), gpu(1, B))
    host.poll()
    host.stub.write(gpu(0, A), gpu(1, B, event=["1 79"]))
    event = None
    for _ in range(30):
        time.sleep(0.1)
        rows = host.poll(0.1).rows
        if event := next((row for row in rows if isinstance(row, Event)), None):
            break
    assert (event.kind, event.gpu_uuid, event.severity) == ("xid", B, "critical")
    assert event.title == "XID 79: the GPU has fallen off the bus"
    assert "seating, power" in event.detail
    assert event.attributes == {"xid": "79"}
    assert gpus(rows)[B].xid == 79
    assert not [row for row in host.poll().rows if isinstance(row, Event)]


def heard(host, poll, count=1):
    """Rows of readings until `count` XIDs have come: the listener has a thread of its own."""
    rows = []
    for _ in range(50):
        try:
            rows += poll(0.1).rows
        except SourceError as error:
            rows += error.rows
        if len([row for row in rows if isinstance(row, Event) and row.kind == "xid"]) >= count:
            break
        time.sleep(0.05)
    return rows


def listening(host):
    for _ in range(100):
        if host.stub.count_calls()["nvmlEventSetWait_v2"]:
            return
        time.sleep(0.02)
    raise AssertionError("nobody listens")


def test_xids_between_two_readings_are_stored_once_each_with_their_own_time(make_host):
    host = make_host(gpu(0, A))
    host.poll()
    listening(host)
    before = time.time()
    for number in (31, 31, 94):
        host.stub.event(0, number)
    time.sleep(0.3)
    after = time.time()
    rows = heard(host, host.poll, 3)
    events = [row for row in rows if isinstance(row, Event)]
    assert [row.attributes["xid"] for row in events] == ["31", "31", "94"]
    assert len({row.event_id for row in events}) == 3  # twice the same number is two events
    assert all(before <= row.at.timestamp() <= after for row in events)  # not the time of the reading
    assert {row.xid for row in rows if isinstance(row, GpuSample)} >= {94}
    assert not [row for row in host.poll().rows if isinstance(row, Event)]


def test_the_xid_that_came_before_the_driver_hung_is_not_lost(make_host):
    host = make_host(gpu(0, A), call_timeout_seconds=1.0)
    host.poll()
    listening(host)
    host.stub.event(0, 119)
    time.sleep(0.3)
    host.stub.write(gpu(0, A, busy="~30000 5"))
    with pytest.raises(SourceError) as caught:
        host.poll()
    kinds = [row.kind for row in caught.value.rows if isinstance(row, Event)]
    assert kinds == ["xid", "driver_unresponsive"]


def test_events_are_heard_again_after_the_driver_came_back(make_host):
    host = make_host(gpu(0, A))
    host.poll()
    listening(host)
    host.stub.write("- init !18", gpu(0, A, uuid="!18", handle="!18"), ["- count !18"])
    with pytest.raises(SourceError):
        host.poll(60)
    host.stub.write(gpu(0, A), driver="600.10")
    host.stub.forget_calls()
    host.poll()
    listening(host)
    host.stub.event(0, 79)
    events = [row for row in heard(host, host.poll) if isinstance(row, Event) and row.kind == "xid"]
    assert [row.attributes["xid"] for row in events] == ["79"]


def test_an_event_of_a_mig_instance_names_it():
    event = driver_event(DriverEvent(at=1.0, uuid=A, kind=8, data=13, gpu_instance=2, compute_instance=0), HOST)
    assert event.attributes == {"xid": "13", "gpu_instance": "2", "compute_instance": "0"}
