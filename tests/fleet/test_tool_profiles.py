"""`python -m fleet profiles`: what it prints, and its exit status."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from fleet.__main__ import main

RECORDED = Path(__file__).parents[1] / "recorded"


def test_a_recording_is_read_and_its_fields_are_listed(capsys: pytest.CaptureFixture[str]):
    assert main(["profiles", str(RECORDED / "sglang_docs_llama31-8b_overloaded.prom")]) == 0
    text = capsys.readouterr().out
    assert "sglang  (SGLang, server)" in text
    assert "p95 >= 30 s" in text
    assert "not exposed: sglang:num_aborted_requests_total" in text


def test_json_carries_values_units_and_reasons(capsys: pytest.CaptureFixture[str]):
    assert main(["profiles", "--json", str(RECORDED / "litellm_1.109.1_selfrun_mock.prom")]) == 0
    document = json.loads(capsys.readouterr().out)
    [matched] = document["matched"]
    assert (matched["profile"], matched["role"]) == ("litellm", "gateway")
    fields = {one["field"]: one for one in matched["fields"] if one["type"] == "counter"}
    assert fields["requests"] | {"series": 0} == {
        "field": "requests", "type": "counter", "metric": "litellm_proxy_total_requests_metric_total", "series": 0,
        "value": 61.0, "unit": "requests", "text": "", "count": None, "p95": None, "found": True, "why": "",
    }  # fmt: skip
    assert fields["cached_tokens"]["found"] is False
    assert all(one["why"] for one in document["unmapped"])


def test_damaged_lines_are_named_and_the_status_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    file = tmp_path / "x.prom"
    file.write_bytes(b'vllm:num_requests_running{model_name="m"} 2\nvllm:broken{ 1\n\xff\xfe\x1b[31m 3\n')
    assert main(["profiles", str(file)]) == 1
    text = capsys.readouterr().out
    assert "refused lines: 2" in text
    assert "line 2: vllm:broken{ 1" in text
    assert "\x1b" not in text


def test_a_text_that_no_profile_knows_is_a_finding(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setattr("sys.stdin", io.StringIO("something_total 3\n"))
    assert main(["profiles", "-"]) == 1
    assert "no profile matches" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "No such file"),
        (b"", "it is empty"),
        (b"<html>no</html>\n", "none of 1 lines is a sample, line 1 is '<html>no</html>'"),
        (b"# HELP a b\n", "no sample in it"),
    ],
)
def test_what_is_no_exposition_gets_one_line_and_status_2(
    content: bytes | None, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    file = tmp_path / "x.prom"
    if content is not None:
        file.write_bytes(content)
    assert main(["profiles", str(file)]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1


def test_an_address_is_not_fetched(capsys: pytest.CaptureFixture[str]):
    assert main(["profiles", "http://127.0.0.1:1/metrics"]) == 2
    assert "save it with curl -s http://127.0.0.1:1/metrics > FILE.prom" in capsys.readouterr().err


def test_a_profile_of_ones_own_is_used_and_replaces_one_of_the_same_id(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / "mine.toml").write_text(
        'id = "mine"\ntitle = "Mine"\nsource = "ours"\nanchors = ["my_running"]\n'
        '[fields.requests]\nmetric = "my_requests_total"\ntype = "counter"\n',
        encoding="utf-8",
    )
    text = tmp_path / "x.prom"
    text.write_text("my_running 1\nmy_requests_total 5\n", encoding="utf-8")
    assert main(["profiles", "--profiles", str(tmp_path), str(text)]) == 0
    assert "5 requests" in capsys.readouterr().out
    (tmp_path / "wrong.toml").write_text('id = "Mine"\n', encoding="utf-8")
    assert main(["profiles", "--profiles", str(tmp_path), str(text)]) == 2
    assert "wrong.toml: id is 'Mine'; use small letters, digits, - and _" in capsys.readouterr().err


def test_without_a_file_the_profiles_are_listed(capsys: pytest.CaptureFixture[str]):
    assert main(["profiles"]) == 0
    listed = capsys.readouterr().out
    assert len(listed.splitlines()) == 26
    assert "litellm               inference  gateway" in listed
