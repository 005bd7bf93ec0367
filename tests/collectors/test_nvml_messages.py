from __future__ import annotations

import pytest

from collectors import nvml_messages as messages


@pytest.mark.parametrize(
    "message",
    [
        messages.Begin(uuid="GPU-1"),
        messages.DeviceReading(
            identity=messages.Identity(uuid="MIG-1", index=1, parent_uuid="GPU-1", mig_index=0, gpu_instance=2),
            metrics=messages.Metrics(busy_ratio=0.5, remap_pending=False, energy_millijoules=2**60),
            errors={"power_watts": 3},
            processes=(messages.Process(7, None, 2, 0, "CG"),),
            samples=(messages.Sample(7, 2**62, 40),),
        ),
        messages.DeviceReading(identity=messages.Identity(uuid="GPU-1", index=0)),
        messages.End(code=18, doing="listing", missing={"1": 15}, relisted=True),
        messages.Happened(event=messages.DriverEvent(at=1.5, uuid="GPU-1", kind=8, data=79, sequence=3)),
    ],
)
def test_an_answer_survives_the_pipe(message):
    line = messages.encode(message)
    assert line.count(b"\n") == 1
    assert messages.decode_answer(line) == message


def test_a_request_survives_the_pipe():
    request = messages.Request(
        processes=False, health=True, since_us={"GPU-1": 2**62}, skip=("GPU-2",), skip_indices=(1,)
    )
    assert messages.decode_request(messages.encode(request)) == request


@pytest.mark.parametrize(
    "line", [b"", b"nonsense", b"[]", b'{"type":"Other"}', b'{"type":"End","x":1}', b'{"type":"DeviceReading"}']
)
def test_nonsense_is_a_value_error(line):
    with pytest.raises(ValueError):
        messages.decode_answer(line)
