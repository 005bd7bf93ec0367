from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import settings as limits
from hypothesis import strategies as st

from fleet import settings_docs
from fleet.settings import (
    SECTIONS,
    TABLE,
    Settings,
    SettingsError,
    load_settings,
    masked,
    read_secret,
    with_password,
)
from fleet.severity import Thresholds

ROOT = Path(__file__).parents[2]


def mistakes(text: str = "", environment: dict[str, str] | None = None) -> tuple[str, ...]:
    with pytest.raises(SettingsError) as caught:
        load_settings(text, environment or {}, origin="fleet.toml", host="node1")
    return caught.value.mistakes


def settings(text: str = "", **environment: str) -> Settings:
    return load_settings(text, environment, host="node1")


def test_without_a_file_this_machine_is_read_and_nothing_leaves_it():
    found = settings()
    assert [(daemon.name, daemon.url) for daemon in found.docker] == [("node1", "unix:///var/run/docker.sock")]
    assert found.nvml.enabled == "auto"
    assert found.prometheus == ()
    assert (found.gateway.host, found.gateway.port) == ("127.0.0.1", 8710)
    assert (found.dashboard.host, found.dashboard.port, found.dashboard.refresh_seconds) == ("127.0.0.1", 8501, 5.0)
    assert (found.retention.raw_days, found.retention.minute_days, found.retention.hour_days) == (14, 90, 400)
    assert (found.store.memory_limit_bytes, found.store.spool_limit_bytes) == (1_500_000_000, 512_000_000)
    assert found.store_dsn() == f"chdb://{Path('data').absolute()}/store"
    assert found.origins == {}


def test_all_mistakes_come_at_once_with_place_finding_and_advice():
    text = """
    stroe = 1
    [[docker]]
    url = "unix:///a.sock"
    [[docker]]
    url = "tcp://x:2375"
    intervall_seconds = 4
    [nvml]
    enabled = "maybe"
    interval_seconds = "5"
    [[prometheus]]
    url = "vllm:8000"
    [[prometheus]]
    name = "x"
    [gateway]
    port = 99999
    [retention]
    raw_days = 100
    """
    environment = {
        "AIFLEET_DASHBOARD_PORT": "x",
        "AIFLEET_DATADIR": "/x",
        "AIFLEET_DOCKER_5_URL": "unix:///x",
        "AIFLEET_STORE_DSN": "clickhous://u:secret@h",
    }
    assert mistakes(text, environment) == (
        'fleet.toml: stroe: unknown; did you mean "store"?',
        'fleet.toml: docker[1].intervall_seconds: unknown; did you mean "interval_seconds"?',
        'environment: AIFLEET_DATADIR: unknown; did you mean "AIFLEET_DATA_DIR"?',
        "environment: AIFLEET_DOCKER_5_URL: there is no entry 4 before it; write AIFLEET_DOCKER_2_URL",
        'fleet.toml: nvml.enabled: found "maybe", not a choice; write "auto", "on" or "off"',
        'fleet.toml: nvml.interval_seconds: found "5", not a number; write 5.0',
        'fleet.toml: prometheus[0].url: found "vllm:8000", no scheme; write "http://vllm:8000"',
        "fleet.toml: gateway.port: found 99999, not a port; write a number from 1 to 65535",
        'environment: AIFLEET_DASHBOARD_PORT: found "x", not a whole number; write 8501',
        'environment: AIFLEET_STORE_DSN: found "clickhous://u:***@h", scheme "clickhous" is unknown; '
        'write "chdb:///absolute/folder" or "clickhouse://user@host:8123/database"',
        'fleet.toml: prometheus[1].url: missing; write url = "http://127.0.0.1:9090"',
        'fleet.toml: docker[1].url: found "tcp://x:2375", plain tcp gives root on that host to everyone who reaches '
        'the port; write "ssh://user@x", or tls_ca_file, tls_cert_file and tls_key_file beside it, '
        "or allow_plain_tcp = true",
        'fleet.toml: retention: found "100, 90, 400", raw, minute and hour days do not ascend; '
        "write raw_days <= minute_days <= hour_days",
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[gateway", "fleet.toml: not TOML: "),
        ("docker = 3", "fleet.toml: docker: found 3, not a table; write [[docker]] and its keys below it"),
        ("gateway = [1]", "fleet.toml: gateway: found [1], not a table; write [gateway] and its keys below it"),
        ("[gateway]\nport = true", "fleet.toml: gateway.port: found true, not a whole number; write 8710"),
        ("[gateway]\nport = 8501", "fleet.toml: gateway.port: found 8501, gateway and dashboard share it; "),
        ("[synthetic]\nenabled = 1", "fleet.toml: synthetic.enabled: found 1, not true or false; write false"),
        ("[tenancy]\nteam_labels = 'x'", 'fleet.toml: tenancy.team_labels: found "x", not a list of texts; write ["ai'),
        ("[alerts]\nmemory_warning_ratio = 90", "fleet.toml: alerts.memory_warning_ratio: found 90, not between 0 and"),
        (
            "[alerts]\nttft_warning_seconds = nan",
            "fleet.toml: alerts.ttft_warning_seconds: found NaN, not above 0; write a",
        ),
        ("[alerts]\nerror_warning_ratio = 0.5", "fleet.toml: alerts.error_critical_ratio: found 0.05, below"),
        ("[[docker]]\nurl = ''", 'fleet.toml: docker[0].url: found "", no scheme; write '),
        ("[[docker]]\nurl = 'unix://run/d.sock'", 'fleet.toml: docker[0].url: found "unix://run/d.sock", the path is'),
        (
            "[[docker]]\nurl = '/run/d.sock'",
            'fleet.toml: docker[0].url: found "/run/d.sock", no scheme; write "unix://',
        ),
        ("[[docker]]\nurl = 'tcp://[::1'", 'fleet.toml: docker[0].url: found "tcp://[::1", not an address'),
        ("[[docker]]\n[[docker]]", 'fleet.toml: docker[1].name: found "node1", docker[0] has the same name; write a d'),
        ("[[tenant_rules]]\nname = 'a('\ntenant = 'a'", 'fleet.toml: tenant_rules[0].name: found "a(", not a regular'),
        ("[[tenant_rules]]\nname = 'a'", 'fleet.toml: tenant_rules[0].tenant: missing; write tenant = "a tenant"'),
        ("[[tenant_rules]]\ntenant = 'a'", "fleet.toml: tenant_rules[0]: matches every container; write at least one "),
        ("[[endpoints]]\njob = 'a'", 'fleet.toml: endpoints[0].container: missing; write container = "a container"'),
        ("[store]\ndsn = 'chdb://data/store'", 'fleet.toml: store.dsn: found "chdb://data/store", the folder is not a'),
        (
            "[[prometheus]]\nurl = 'http://me:hunter2@p:9090'",
            'fleet.toml: prometheus[0].url: found "http://me:***@p:9090", a password in the address would be shown; ',
        ),
    ],
)
def test_each_mistake_says_what_to_write(text, message):
    found = mistakes(text)
    assert len(found) == 1
    assert found[0].startswith(message)
    assert "; " in found[0]
    assert "hunter2" not in found[0]


def test_the_environment_wins_over_the_file_and_origins_say_so():
    found = settings("[gateway]\nport = 9000\n[nvml]\nenabled = 'on'", AIFLEET_GATEWAY_PORT="9001")
    assert (found.gateway.port, found.nvml.enabled) == (9001, "on")
    assert found.origins == {"gateway.port": "AIFLEET_GATEWAY_PORT", "nvml.enabled": "fleet.toml"}


@pytest.mark.parametrize(
    ("variable", "text", "section", "key", "value"),
    [
        ("AIFLEET_DATA_DIR", "/srv/fleet", "general", "data_dir", "/srv/fleet"),
        ("AIFLEET_SYNTHETIC_ENABLED", "yes", "synthetic", "enabled", True),
        ("AIFLEET_TENANCY_TENANT_LABELS", "a, b,", "tenancy", "tenant_labels", ("a", "b")),
        ("AIFLEET_DASHBOARD_REFRESH_SECONDS", "2", "dashboard", "refresh_seconds", 2.0),
        ("AIFLEET_STORE_MEMORY_LIMIT_BYTES", "2_000_000_000", "store", "memory_limit_bytes", 2_000_000_000),
    ],
)
def test_a_variable_of_every_kind_is_read(variable, text, section, key, value):
    assert getattr(getattr(settings(**{variable: text}), section), key) == value


def test_variables_reach_entries_of_arrays_by_number_and_make_new_ones():
    found = settings(
        "[[docker]]\nurl = 'unix:///a.sock'",
        AIFLEET_DOCKER_URL="unix:///b.sock",
        AIFLEET_DOCKER_1_URL="ssh://ops@gpu2",
        AIFLEET_PROMETHEUS_URL="http://localhost:9090",
    )
    assert [(daemon.name, daemon.url) for daemon in found.docker] == [
        ("node1", "unix:///b.sock"),
        ("gpu2", "ssh://ops@gpu2"),
    ]
    assert [(server.name, server.docker_host) for server in found.prometheus] == [("localhost:9090", "node1")]


def test_docker_host_is_honoured_like_the_docker_command_does_unless_the_settings_name_a_daemon():
    certificates = {"DOCKER_HOST": "tcp://d:2376", "DOCKER_TLS_VERIFY": "1", "DOCKER_CERT_PATH": "/c"}
    daemon = settings(**certificates).docker[0]
    assert (daemon.url, daemon.name, daemon.tls_key_file) == ("tcp://d:2376", "d", "/c/key.pem")
    assert settings("[[docker]]\nurl = 'unix:///a.sock'", **certificates).docker[0].url == "unix:///a.sock"
    assert mistakes("", {"DOCKER_HOST": "tcp://d:2375"})[0].startswith(
        'environment: DOCKER_HOST: found "tcp://d:2375", plain tcp gives root'
    )


def test_variables_that_say_where_files_are_are_no_unknown_settings():
    assert settings(AIFLEET_CONFIG="x.toml", AIFLEET_ACCESS_FILE="a.toml", AIFLEET_VERSION="1").origins == {}


def test_docker_can_be_switched_off():
    assert settings("docker = []").docker == ()


def test_plain_tcp_is_taken_when_it_is_explicitly_allowed():
    found = settings("[[docker]]\nurl = 'tcp://x:2375'\nallow_plain_tcp = true")
    assert found.docker[0].allow_plain_tcp


def test_the_settings_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        settings().gateway.port = 1  # type: ignore[misc]


def test_the_dashboard_reads_through_the_gateway_with_its_own_token(tmp_path):
    found = settings(AIFLEET_DATA_DIR=str(tmp_path))
    with pytest.raises(SettingsError, match=r"gateway\.reader_token_file: .* cannot be read"):
        found.dashboard_dsn()
    found.reader_token_path.write_text("to/k:en\n")
    assert found.dashboard_dsn() == "clickhouse://reader:to%2Fk%3Aen@127.0.0.1:8710"
    everywhere = settings(AIFLEET_DATA_DIR=str(tmp_path), AIFLEET_GATEWAY_HOST="0.0.0.0")
    assert everywhere.dashboard_dsn().endswith("@127.0.0.1:8710")


def test_a_server_is_written_and_read_with_the_password_of_its_file(tmp_path):
    secret = tmp_path / "password"
    secret.write_text("s3cret\nnot this line\n")
    found = settings(f"[store]\ndsn = 'clickhouse://fleet@ch:8123/db'\npassword_file = '{secret}'")
    assert found.store_dsn() == found.dashboard_dsn() == "clickhouse://fleet:s3cret@ch:8123/db"
    assert not found.embedded


@pytest.mark.parametrize("content", [b"", b"\n", b"\xff\xfe"])
def test_a_secret_file_that_holds_none_is_a_mistake_that_names_the_setting(tmp_path, content):
    path = tmp_path / "token"
    path.write_bytes(content)
    with pytest.raises(SettingsError, match=r"prometheus\[0\]\.token_file: "):
        read_secret(path, "prometheus[0].token_file")


def test_passwords_are_masked_and_addresses_without_one_are_left_alone():
    assert masked("clickhouse://u:pw@h:1/db") == "clickhouse://u:***@h:1/db"
    assert masked("clickhouse://u@h:1/db") == "clickhouse://u@h:1/db"
    assert masked("http://[::1") == "http://[::1"
    assert masked("http://u:pw@[::1") == "http://***@[::1"
    assert masked(with_password("clickhouse://u@[::1]:1/db", "p@:/w")) == "clickhouse://u:***@[::1]:1/db"


def test_every_setting_has_help_and_its_number_a_unit():
    for row in TABLE:
        assert row.help, row.name
        ending = row.key.rpartition("_")[2]
        if ending in {"seconds", "days", "bytes"}:
            assert row.unit == ending, row.name
        elif ending == "ratio":
            assert row.unit == "ratio 0-1", row.name


def test_every_default_passes_its_own_rule():
    for row in TABLE:
        if row.rule is not None and not row.required:
            assert row.rule(row.default) is None, row.name


def test_the_table_holds_every_field_of_the_settings():
    fields = {field.name for field in dataclasses.fields(Settings)} - {"origins"}
    assert fields == {name for name, _, _ in SECTIONS.values()}


def test_thresholds_of_the_settings_are_those_that_queries_judge_by():
    assert settings().thresholds == Thresholds()
    assert settings("[alerts]\nidle_sm_ratio = 0.1").thresholds == Thresholds(idle_sm_ratio=0.1)


def test_variables_are_unambiguous():
    assert len({row.variable for row in TABLE}) == len(TABLE)


def test_the_settings_page_is_made_from_the_table():
    page = (ROOT / "docs/settings.md").read_text(encoding="utf-8")
    assert page == settings_docs.render(), "run: python -m fleet.settings_docs > docs/settings.md"


def test_the_example_file_is_valid_as_it_is_and_with_every_line_switched_on():
    text = (ROOT / "fleet.example.toml").read_text(encoding="utf-8")
    load_settings(text, {}, origin="fleet.example.toml")
    lines = [line.removeprefix("# ") for line in text.splitlines() if not line.startswith("# ") or _is_setting(line)]
    found = load_settings("\n".join(lines), {}, origin="fleet.example.toml", host="node1")
    assert len(found.docker) == 3
    assert found.tenant_rules[0].team == "search"
    assert not found.embedded


def _is_setting(line: str) -> bool:
    text = line.removeprefix("# ")
    return text.startswith("[") or (" = " in text and text.partition(" = ")[0].isidentifier())


def settings_or_mistakes(text: str, environment: dict[str, str]) -> Settings | tuple[str, ...]:
    try:
        return load_settings(text, environment, host="node1")
    except SettingsError as error:
        return error.mistakes


@limits(deadline=None)
@given(st.text(max_size=200))
def test_any_text_gives_settings_or_mistakes_and_nothing_else(text):
    assert settings_or_mistakes(text, {})


@limits(deadline=None)
@given(st.sampled_from([row.variable for row in TABLE]), st.text(max_size=50))
def test_any_variable_gives_settings_or_mistakes_and_nothing_else(variable, text):
    assert settings_or_mistakes("", {variable: text})


def test_promises_are_read_and_without_any_the_warning_limit_stands_for_one():
    (assumed,) = settings("[alerts]\nttft_warning_seconds = 0.5").objectives
    assert (assumed.target_seconds, assumed.objective_ratio, assumed.assumed) == (0.5, 0.95, True)
    text = '[[slo]]\nname = "chat"\ntarget_seconds = 1\nobjective_ratio = 0.99\nmodel = "llama"\n'
    (own,) = settings(text).objectives
    assert (own.name, own.target_seconds, own.objective_ratio, own.model) == ("chat", 1.0, 0.99, "llama")
    assert not own.assumed


def test_a_promise_that_cannot_be_kept_track_of_is_refused():
    found = mistakes('[[slo]]\nfield = "ttft"\nobjective_ratio = 1\n')
    assert any(
        one.startswith('fleet.toml: slo[0].field: found "ttft", not a choice; write "ttft_seconds"') for one in found
    )
    assert any(one.startswith("fleet.toml: slo[0].objective_ratio: found 1") for one in found)
    assert any(one.startswith("fleet.toml: slo[0].name: missing") for one in found)
    (twice,) = mistakes('[[slo]]\nname = "a"\n[[slo]]\nname = "a"\n')
    assert "slo[0] has the same name" in twice
