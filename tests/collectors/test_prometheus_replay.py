"""Every recording and every dialect through a real Prometheus: what is stored is what the profile check reads."""

from __future__ import annotations

import contextlib
import json
import math
import re
import urllib.parse
import urllib.request
from datetime import UTC, datetime
from pathlib import Path

import pytest

from collectors.sources.prometheus import PrometheusSource
from fleet.inventory import HostInventory, Inventory
from fleet.model import Histogram, InferenceSample
from fleet.profile_check import check_exposition
from fleet.profiles import builtin_profiles
from fleet.settings import PrometheusServer
from fleet.settings_table import EndpointRule
from tests.fakes.expositions import exposition_of
from tests.services.metrics_server import running_server
from tests.services.prometheus import running_prometheus, scrape_config, wait_until

pytestmark = pytest.mark.prometheus
RECORDED = Path(__file__).parents[1] / "recorded"
PROFILES = builtin_profiles()
INFERENCE = tuple(one for one in PROFILES if one.table == "inference")
RECORDINGS = (
    "vllm_0.33_synth_from_source",
    "vllm_v0_june2024_opt125m",
    "sglang_docs_llama31-8b_overloaded",
    "litellm_1.109.1_selfrun_mock",
    "fastapi_instrumentator_summary_selfrun",
)
#: As a server writes them that has just started: every number at 0.
VALUE = re.compile(r"^(?!#)(\S.*) \S+$", re.MULTILINE)


def texts():
    """name -> exposition text; without the process's start, which would say that it is another process."""
    found = {name: (RECORDED / f"{name}.prom").read_text() for name in RECORDINGS}
    found |= {f"made:{one.id}": "\n".join(exposition_of(one)) + "\n" for one in INFERENCE}
    return {
        name: re.sub(r"^process_start_time_seconds.*\n", "", text, flags=re.MULTILINE) for name, text in found.items()
    }


@pytest.fixture(scope="module")
def replayed(tmp_path_factory):
    """Rows of the poll after all servers went from 0 to their text, by name; and how many requests that poll took."""
    with contextlib.ExitStack() as stack:
        every = texts()
        servers = {
            name: stack.enter_context(running_server(VALUE.sub(r"\1 0.0", text))) for name, text in every.items()
        }
        by_address = {server.address: name for name, server in servers.items()}
        config = scrape_config([server.address for server in servers.values()], job="ai", interval="1s")
        prometheus = stack.enter_context(running_prometheus(tmp_path_factory.mktemp("prometheus"), config))
        inventory = Inventory()
        inventory.publish(HostInventory(host="h", at=datetime.now(UTC), local=True, containers=()))
        # A web framework counts as a model server only where an operator, or a container here, says so.
        mapped = EndpointRule(instance=re.escape(servers["made:fastapi"].address), container="external")
        source = PrometheusSource(
            PrometheusServer(url=prometheus.url, timeout_seconds=20.0), inventory, rules=[mapped], settle_seconds=0.0
        )
        stack.callback(source.close)
        wait_until(lambda: count(prometheus, "up == 1") == len(servers), 60)
        first = source.collect(datetime.now(UTC))
        for name, server in servers.items():
            server.serve(every[name])
        (now,) = values(prometheus, "time()")
        wait_until(lambda: count(prometheus, f"timestamp(up) > {now + 1}") == len(servers), 60)
        asked = []
        ask = source._client.query
        source._client.query = lambda query, *, time=None: (asked.append(query), ask(query, time=time))[1]
        reading = source.collect(datetime.now(UTC))
        rows = {name: [] for name in every}
        for row in reading.rows:
            rows[by_address[row.endpoint.partition("/")[2]]].append(row)
        yield rows, asked, first


def values(prometheus, text):
    url = f"{prometheus.url}/api/v1/query?query={urllib.parse.quote(text)}"
    with urllib.request.urlopen(url, timeout=10) as answer:
        result = json.load(answer)["data"]
    return (
        [float(result["result"][1])]
        if result["resultType"] == "scalar"
        else [float(i["value"][1]) for i in result["result"]]
    )


def count(prometheus, text):
    return len(values(prometheus, text))


@pytest.mark.parametrize("name", [*RECORDINGS, *(f"made:{one.id}" for one in INFERENCE)])
def test_what_is_stored_is_what_the_profile_check_reads(replayed, name):
    rows = replayed[0][name]
    checked = check_exposition(texts()[name].splitlines(), INFERENCE)
    assert {row.server for row in rows} == {one.profile.id for one in checked.matched}
    compared = 0
    for one in checked.matched:
        assert {row.role for row in rows if row.server == one.profile.id} == {one.profile.role}
        samples = [row for row in rows if isinstance(row, InferenceSample) and row.server == one.profile.id]
        for wanted, read in zip(one.profile.fields, one.fields, strict=True):
            if wanted.distributed:
                found = [row for row in rows if isinstance(row, Histogram) and row.server == one.profile.id]
                found = [row for row in found if row.field == wanted.name]
                stored = sum(sum(row.increments) for row in found)
                assert stored == (read.count or 0.0), wanted.key
                if read.count and read.value is not None:
                    assert sum(row.sum_increment for row in found) / stored == pytest.approx(read.value), wanted.key
                    assert all(row.bounds[-1] == math.inf for row in found)
                    assert wanted.type != "mean" or {row.bounds for row in found} == {(math.inf,)}
                    compared += 1
                continue
            stored = [getattr(row, wanted.name) for row in samples]
            known = [value for value in stored if value is not None]
            if read.value is None:
                assert not known, wanted.key
                continue
            combined = max(known) if wanted.combine == "max" else sum(known)
            assert combined == pytest.approx(read.value), wanted.key
            compared += 1
    assert compared, "nothing was compared"


def test_a_poll_of_every_dialect_takes_less_than_twenty_queries(replayed):
    _, asked, first = replayed
    assert len(asked) <= 18, asked
    assert not any(text.startswith("group by") for text in asked)  # asked at the first poll, and again in a minute
    assert f"{len(texts())} inference endpoints" in first.detail


def test_tenants_of_a_gateway_have_rows_of_their_own_and_the_word_none_is_no_tenant(replayed):
    rows = [row for row in replayed[0]["litellm_1.109.1_selfrun_mock"] if isinstance(row, InferenceSample)]
    by_tenant = {}
    for row in rows:
        by_tenant[row.tenant] = by_tenant.get(row.tenant, 0.0) + (row.requests or 0.0)
    assert "None" not in by_tenant
    assert len(by_tenant) == 3, by_tenant  # two teams, and what no team asked for
    assert len({(row.tenant, row.model) for row in rows}) == len(rows)


def test_a_web_service_that_nobody_named_is_no_model_server(tmp_path):
    """Each FastAPI service of a company became an inference endpoint "not joined to a container"."""
    [web] = [one for one in INFERENCE if one.id == "fastapi"]
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(running_server("\n".join(exposition_of(web)) + "\n"))
        config = scrape_config([server.address], job="web", interval="1s")
        prometheus = stack.enter_context(running_prometheus(tmp_path, config))
        source = PrometheusSource(
            PrometheusServer(url=prometheus.url, timeout_seconds=20.0), Inventory(), settle_seconds=0.0
        )
        stack.callback(source.close)
        wait_until(lambda: count(prometheus, "up == 1") == 1, 60)
        assert source.collect(datetime.now(UTC)).rows == ()
