import asyncio
from datetime import UTC, datetime

import httpx
import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.routing import Route

from dashboard import process, serve
from fleet.settings import SettingsError


def get(path):
    app = Starlette(
        routes=[Route("/healthz", serve.healthz, methods=["GET"])], middleware=[Middleware(serve.SecurityHeaders)]
    )

    async def ask():
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://x") as client:
            return await client.get(path)

    return asyncio.run(ask())


def test_health_answers_and_tells_nothing_about_the_fleet():
    answer = get("/healthz")
    assert (answer.status_code, answer.json()) == (200, {"status": "ok"})


@pytest.mark.parametrize("path", ["/healthz", "/not-there"])
def test_every_answer_forbids_frames_sniffing_and_foreign_scripts(path):
    headers = get(path).headers
    assert headers["x-frame-options"] == "DENY"
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"
    assert "frame-ancestors 'none'" in headers["content-security-policy"]
    assert "object-src 'none'" in headers["content-security-policy"]
    assert "connect-src 'self'" in headers["content-security-policy"]


def test_without_a_file_the_defaults_bind_to_loopback(tmp_path):
    settings, origin = serve.read_settings({}, tmp_path)
    assert settings.dashboard.host == "127.0.0.1"
    assert origin == "defaults and environment"


def test_a_named_file_that_is_missing_is_an_error_not_a_default(tmp_path):
    with pytest.raises(SettingsError, match="AIFLEET_CONFIG"):
        serve.read_settings({"AIFLEET_CONFIG": str(tmp_path / "no.toml")}, tmp_path)


def test_without_an_access_file_nobody_is_told_apart(tmp_path):
    assert not serve.read_access({}, tmp_path).configured


def test_an_access_file_beside_the_data_is_used(tmp_path):
    (tmp_path / "access.toml").write_text('trusted_header = "X-User"\n[viewers]\nann = ["acme"]\n')
    access = serve.read_access({}, tmp_path)
    assert access.scope(["ann"]).tenants == {"acme"}
    assert access.scope([]).tenants == frozenset()


@pytest.mark.parametrize("text", ["", "trusted_header = 1", "x = [", 'trusted_header = "X"\n[viewers]\nann = "acme"'])
def test_a_broken_access_file_stops_the_start_and_never_opens_the_fleet(tmp_path, text):
    (tmp_path / "access.toml").write_text(text)
    with pytest.raises(SettingsError, match=r"access\.toml"):
        serve.read_access({}, tmp_path)


def test_settings_that_cannot_be_used_end_the_start_with_two_and_one_line_each(tmp_path, capsys):
    (tmp_path / "fleet.toml").write_text('[dashboard]\nport = "x"\n')
    assert serve.main({}, tmp_path) == 2
    assert capsys.readouterr().err.startswith("dashboard: ")


def test_the_pages_start_before_the_collector_and_say_what_is_missing(tmp_path):
    environment = {"AIFLEET_DATA_DIR": str(tmp_path)}
    settings, origin = serve.read_settings(environment, tmp_path)
    deployment = serve.deploy(settings, origin, environment)
    with pytest.raises(serve.StoreUnavailable, match=r"reader\.token"):
        deployment.reader.ask(1, lambda store: None)
    deployment.reader.close()


def test_pages_without_their_server_say_how_to_start_it():
    process.install(None)
    with pytest.raises(RuntimeError, match="python -m dashboard"):
        process.current()


@pytest.mark.parametrize(
    ("published", "is_open"), [("127.0.0.1", False), ("::1", False), ("10.0.0.5", True), ("", True)]
)
def test_a_container_s_pages_are_as_open_as_their_port_is_published(tmp_path, published, is_open):
    environment = {"AIFLEET_DASHBOARD_HOST": "0.0.0.0", "AIFLEET_DASHBOARD_PUBLISHED_ON": published}
    settings, origin = serve.read_settings(environment, tmp_path)
    deployment = serve.deploy(settings, origin, {})
    assert deployment.open_to_network is is_open
    deployment.reader.close()


def test_only_an_address_beyond_this_machine_without_login_is_open_to_the_network(tmp_path):
    settings, origin = serve.read_settings({"AIFLEET_DASHBOARD_HOST": "0.0.0.0"}, tmp_path)
    deployment = serve.deploy(settings, origin, {})
    assert deployment.open_to_network
    assert deployment.now() <= datetime.now(UTC)
    deployment.reader.close()
