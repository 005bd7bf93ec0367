from __future__ import annotations

from datetime import UTC, datetime

import pytest

from collectors import build
from fleet.inventory import Inventory
from fleet.model import Batch, Container, Host
from fleet.settings import Settings, SettingsError, load_settings
from store import StoreUnavailable, open_store
from store.columns import prepare

NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)


def settings(text: str = "", **environment: str) -> Settings:
    return load_settings(text, environment, host="node1")


def container(key: str, image: str, minute: int) -> Container:
    return Container(
        seen_at=NOON.replace(minute=minute), host="h1", tenant="acme", team="", owner="", tenant_origin="label",
        container_key=key, container_id=f"{key}{minute}", name=key, image="", image_id=image, image_digest="",
    )  # fmt: skip


def test_each_section_becomes_its_source():
    found = settings(
        "[[docker]]\nurl = 'unix:///a.sock'\nname = 'a'\n[[docker]]\nurl = 'unix:///b.sock'\nname = 'b'\n"
        "[[prometheus]]\nurl = 'http://127.0.0.1:1'\n[nvml]\nlibrary = '/nonexistent/libnvidia-ml.so.1'"
    )
    sources = [
        *build.docker_sources(found, Inventory()),
        *build.nvml_sources(found, Inventory()),
        *build.prometheus_sources(found, Inventory()),
    ]
    names = [(source.kind, source.target) for source in sources]
    for source in sources:
        source.close()
    assert names == [("docker", "a"), ("docker", "b"), ("nvml", "node1"), ("prometheus", "127.0.0.1:1")]


def test_what_is_switched_off_has_no_source():
    found = settings("docker = []\n[nvml]\nenabled = 'off'")
    assert build.docker_sources(found, Inventory()) == []
    assert build.nvml_sources(found, Inventory()) == []
    assert build.prometheus_sources(found, Inventory()) == []


def test_rules_of_the_mapping_file_go_before_those_of_the_settings(tmp_path):
    path = tmp_path / "tenants.toml"
    path.write_text("[[tenant_rules]]\ntenant = 'first'\nname = 'web.*'\n")
    found = settings(f"[tenancy]\nfile = '{path}'\n[[tenant_rules]]\ntenant = 'second'\nname = '.*'\n")
    tenancy = build.build_tenancy(found)
    assert tenancy.resolve("web-1", "nginx", {}).tenant == "first"
    assert tenancy.resolve("db", "nginx", {}).tenant == "second"


@pytest.mark.parametrize("content", [None, b"\xff", b"[[tenant_rules]"])
def test_a_mapping_file_that_cannot_be_used_is_named(tmp_path, content):
    path = tmp_path / "tenants.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SettingsError, match=r"tenants\.toml"):
        build.build_tenancy(settings(f"[tenancy]\nfile = '{path}'"))


def test_the_newest_image_of_each_container_is_remembered_over_a_restart(tmp_path):
    migrating = build.build_store(settings(AIFLEET_DATA_DIR=str(tmp_path)))
    rows = (container("h1:web", "old", 1), container("h1:web", "new", 2), container("h1:db", "only", 1))
    migrating.insert(prepare(Batch(token="t", rows=rows)))
    assert build.images_before(migrating.store) == {"h1": {"h1:web": "new", "h1:db": "only"}}
    migrating.store.close()


def test_a_server_that_is_away_at_the_start_gets_its_schema_before_its_first_batch(tmp_path):
    class AwayOnce:
        """A store whose first call finds nobody."""

        def __init__(self, inner):
            self.inner, self.calls = inner, []

        def migrate(self):
            self.calls.append("migrate")
            if len(self.calls) == 1:
                raise StoreUnavailable(0, "connection refused")
            self.inner.migrate()

        def insert(self, inserts):
            self.calls.append("insert")
            self.inner.insert(inserts)

    store = open_store(f"chdb://{tmp_path}/store")
    away = AwayOnce(store)
    found = settings("[store]\ndsn = 'clickhouse://u@ch/db'")
    migrating = build.build_store(found, opener=lambda dsn, options: away)
    migrating.insert(prepare(Batch(token="t", rows=(Host(seen_at=NOON, host="h1"),))))
    migrating.insert(prepare(Batch(token="u", rows=(Host(seen_at=NOON, host="h2"),))))
    assert away.calls == ["migrate", "migrate", "insert", "insert"]
    assert store.query("SELECT count() AS n FROM hosts").to_pylist() == [{"n": 2}]
    store.close()


def test_events_stay_as_long_as_the_hour_rollup():
    policy = build.retention_policy(settings("[retention]\nraw_days = 3\nminute_days = 30\nhour_days = 365"))
    # 365 / 30.4 = 12.0
    assert (policy.raw_days, policy.minute_days, policy.hour_days, policy.event_months) == (3, 30, 365, 12)
