"""Everything that can be set, as one table: name, default, unit, help and rule stand in one place.

The fields below ARE the table: `TABLE` is read from them, and feeds the parser (`fleet/settings.py`), `check-config`
and `docs/settings.md`. Secrets are never settings: a setting names the file that holds one, and it is read at use.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar, cast
from urllib.parse import quote

from fleet.settings_rules import (
    Rule,
    Value,
    activity_edge,
    at_least,
    between,
    file_size,
    host_name,
    http_url,
    one_of,
    port,
    positive,
    regex,
    store_dsn,
)
from fleet.settings_secrets import read_secret, with_password
from fleet.severity import Thresholds
from fleet.slo import Objective

T = TypeVar("T", bound=Value)
DEFAULT_DOCKER_URL = "unix:///var/run/docker.sock"


def setting(default: T, text: str, *, unit: str = "", rule: Rule | None = None, required: bool = False) -> T:
    """A dataclass field that is also a row of the settings table."""
    metadata = {"unit": unit, "help": text, "rule": rule, "required": required}
    return field(default=default, metadata=metadata)


@dataclass(frozen=True, slots=True, kw_only=True)
class General:
    """Settings that stand at the top of the file, outside any table."""

    data_dir: str = setting("data", "Folder of the embedded store, the spool and the gateway's tokens")
    host: str = setting("", "Name of this machine in every row; empty = the name the system gives", rule=host_name)
    profiles_dir: str = setting("", "Folder with metric profiles of your own (*.toml), beside those of the product")
    log_level: str = setting("info", "How much is logged", rule=one_of("debug", "info", "warning", "error"))


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreSettings:
    """Where samples go. Empty `dsn` = the embedded store in `data_dir`."""

    dsn: str = setting(
        "",
        "chdb:///absolute/folder (embedded), clickhouse://user@host:8123/database or clickhouses://… (TLS); "
        "empty = embedded in data_dir",
        rule=store_dsn,
    )
    password_file: str = setting("", "File with the password or token for a clickhouse DSN")
    memory_limit_bytes: int = setting(
        1_500_000_000, "Memory the embedded engine may use", unit="bytes", rule=at_least(200_000_000)
    )
    spool_limit_bytes: int = setting(
        512_000_000, "Disk space for batches that wait while the store is away", unit="bytes", rule=file_size
    )
    unwatched_seconds: float = setting(
        15.0,
        "While nobody has looked for a minute, samples wait this long to be stored together; 0 = stored at once. "
        "A server does not tell who looks: there they wait only if this is written",
        unit="seconds",
        rule=between(0, 60),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class RetentionSettings:
    """How long each resolution is kept."""

    raw_days: int = setting(14, "Rows of single cycles", unit="days", rule=at_least(1))
    minute_days: int = setting(90, "1-minute rollup", unit="days", rule=at_least(1))
    hour_days: int = setting(400, "1-hour rollup and events", unit="days", rule=at_least(1))
    ledger_months: int = setting(0, "GPU job ledger; 0 = for ever", unit="months", rule=at_least(0))


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewaySettings:
    """The collector's own HTTP port: health, metrics, and the store for the dashboard."""

    host: str = setting(
        "127.0.0.1", "Address to listen on; anything but loopback is reported by doctor", rule=host_name
    )
    port: int = setting(8710, "Port to listen on", rule=port)
    writer_token_file: str = setting("", "File with the writing token; empty = made in data_dir at first start (0600)")
    reader_token_file: str = setting("", "File with the reading token; empty = made in data_dir at first start (0600)")
    query_timeout_seconds: float = setting(20.0, "Longest query of a reader", unit="seconds", rule=between(1, 600))
    query_row_limit: int = setting(
        1_000_000, "Most rows a reader gets from one query", unit="rows", rule=at_least(1000)
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class DashboardSettings:
    """The pages."""

    host: str = setting("127.0.0.1", "Address to listen on; a page served beyond loopback says so", rule=host_name)
    published_on: str = setting(
        "",
        "Address at which the port is really reached, as Docker or a proxy publishes it; empty = host",
        rule=host_name,
    )
    port: int = setting(8501, "Port to listen on", rule=port)
    refresh_seconds: float = setting(5.0, "Time between two live updates", unit="seconds", rule=between(1, 3600))
    dsn: str = setting(
        "", "Store to read; empty = the collector's gateway, or store.dsn when that is a server", rule=store_dsn
    )
    token_file: str = setting("", "File with the password or token for dsn; empty = the gateway's reading token")


@dataclass(frozen=True, slots=True, kw_only=True)
class DockerDaemon:
    """One Docker daemon."""

    url: str = setting(DEFAULT_DOCKER_URL, "unix:///path, ssh://user@host or tcp://host:2376 with TLS")
    name: str = setting(
        "", "Host name in every row; empty = `host` for a unix socket, else the host of the url", rule=host_name
    )
    interval_seconds: float = setting(5.0, "Time between two polls", unit="seconds", rule=between(1, 3600))
    timeout_seconds: float = setting(
        10.0, "A poll without an answer for this long failed", unit="seconds", rule=between(0.5, 600)
    )
    tls_ca_file: str = setting("", "Certificate authority of a tcp daemon (PEM)")
    tls_cert_file: str = setting("", "Our certificate for a tcp daemon (PEM)")
    tls_key_file: str = setting("", "Key of our certificate (PEM)")
    allow_plain_tcp: bool = setting(False, "Accept tcp:// without TLS: whoever reaches that port is root on the host")
    cgroup_root: str = setting("/sys/fs/cgroup", "Where this daemon's cgroup files are mounted, if it is local")
    proc_root: str = setting("/proc", "Where the host's /proc is mounted, if it is local")
    statistics: str = setting("auto", "How statistics are read", rule=one_of("auto", "cgroup", "api"))
    inspect_interval_seconds: float = setting(
        3600.0, "Time between two full inspections", unit="seconds", rule=at_least(60)
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class NvmlSettings:
    """The GPUs of this machine."""

    enabled: str = setting(
        "auto", "auto = read GPUs if there are any; on = their absence is a failure", rule=one_of("auto", "on", "off")
    )
    interval_seconds: float = setting(5.0, "Time between two polls", unit="seconds", rule=between(1, 3600))
    timeout_seconds: float = setting(
        8.0, "A poll without an answer for this long failed", unit="seconds", rule=between(0.5, 600)
    )
    call_timeout_seconds: float = setting(
        3.0, "One driver call may take this long", unit="seconds", rule=between(0.1, 600)
    )
    idle_power_to: str = setting(
        "host",
        "Who is charged with what a GPU draws when idle: host = nobody (the unattributed row), holders = equally the "
        "containers that hold it",
        rule=one_of("host", "holders"),
    )
    idle_power_watts: float = setting(
        0.0,
        "What each GPU of this machine draws when idle; 0 = the lowest seen while it had no work",
        unit="watts",
        rule=between(0, 1000),
    )
    library: str = setting("", "Path of libnvidia-ml.so.1; empty = the system's own")
    proc_root: str = setting("/proc", "Where the host's /proc is mounted")


@dataclass(frozen=True, slots=True, kw_only=True)
class PrometheusServer:
    """One Prometheus server (or anything that speaks its query API)."""

    url: str = setting("", "Base address, for example http://127.0.0.1:9090", rule=http_url, required=True)
    name: str = setting("", "Name on the pages; empty = host and port of the url", rule=host_name)
    docker_host: str = setting(
        "",
        "Docker host this server runs on, for localhost targets; empty = `host` if the url is loopback",
        rule=host_name,
    )
    interval_seconds: float = setting(15.0, "Time between two polls", unit="seconds", rule=between(1, 3600))
    timeout_seconds: float = setting(
        10.0, "A poll without an answer for this long failed", unit="seconds", rule=between(0.5, 600)
    )
    body_limit_bytes: int = setting(20_000_000, "Longer answers are refused", unit="bytes", rule=at_least(100_000))
    username: str = setting("", "User of basic authentication")
    password_file: str = setting("", "File with the password of basic authentication")
    token_file: str = setting("", "File with a bearer token")
    ca_file: str = setting("", "Certificate authority of an https server (PEM); empty = the system's")


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointRule:
    """Says which container an inference endpoint is, before anything is guessed."""

    job: str = setting("", "Regular expression over the job; empty = any", rule=regex)
    instance: str = setting("", "Regular expression over the instance; empty = any", rule=regex)
    container: str = setting("", "Key of the container, or `external`", required=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class TenantRule:
    """Whose a container is. The first rule whose expressions all match decides; labels come after."""

    tenant: str = setting(
        "", "Tenant of what matches; `\\1` takes the first group of the last expression", required=True
    )
    team: str = setting("", "Team of the tenant")
    owner: str = setting("", "Who to ask")
    name: str = setting("", "Regular expression over the container's name; empty = any", rule=regex)
    image: str = setting("", "Regular expression over the image; empty = any", rule=regex)
    label: str = setting("", "Regular expression over `key=value` of any label; empty = any", rule=regex)
    compose_project: str = setting("", "Regular expression over the compose project; empty = any", rule=regex)


@dataclass(frozen=True, slots=True, kw_only=True)
class TenancySettings:
    """Labels that name a tenant, after the rules."""

    file: str = setting("", "TOML file with more [[tenant_rules]], which go before those of this file")
    tenant_labels: tuple[str, ...] = setting(
        ("aifleet.tenant", "tenant"), "Labels that name the tenant, first one wins"
    )
    team_labels: tuple[str, ...] = setting(("aifleet.team", "team"), "Labels that name the team")
    owner_labels: tuple[str, ...] = setting(("aifleet.owner", "owner", "maintainer"), "Labels that name the owner")
    compose_project_is_tenant: bool = setting(True, "A container without such a label belongs to its compose project")


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuSettings:
    """What is held against a container that has GPUs."""

    held_unused_after_seconds: float = setting(
        14_400.0,
        "A GPU held for this long without a process or activity breaks the GPU contract",
        unit="seconds",
        rule=at_least(600),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class JobSettings:
    """What the GPU job ledger takes from labels."""

    user_labels: tuple[str, ...] = setting(
        ("aifleet.user", "user"), "Labels that name who a GPU job is for, first one wins; else the container's user"
    )
    workload_labels: tuple[str, ...] = setting(
        ("aifleet.workload", "aifleet.job", "com.docker.compose.service"),
        "Labels that name a GPU job's workload, first one wins; else the container's name",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class SyntheticSettings:
    """The demo fleet. Its pages are labelled DEMO."""

    enabled: bool = setting(False, "Show a living synthetic fleet instead of this machine")
    seed: int = setting(7, "The same seed gives the same fleet", rule=at_least(0))
    interval_seconds: float = setting(5.0, "Time between two live cycles", unit="seconds", rule=between(1, 3600))
    timeout_seconds: float = setting(
        10.0, "A cycle without an answer for this long failed", unit="seconds", rule=between(0.5, 600)
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class AlertSettings:
    """From where on a number is worth a person's look. The same fields as `fleet.severity.Thresholds`."""

    memory_warning_ratio: float = setting(0.90, "Working set over limit", unit="ratio 0-1", rule=between(0, 1))
    throttled_warning_ratio: float = setting(
        0.25, "CPU periods that were throttled", unit="ratio 0-1", rule=between(0, 1)
    )
    error_warning_ratio: float = setting(0.01, "Failed requests", unit="ratio 0-1", rule=between(0, 1))
    error_critical_ratio: float = setting(0.05, "Failed requests", unit="ratio 0-1", rule=between(0, 1))
    ttft_warning_seconds: float = setting(2.0, "p95 of the time to the first token", unit="seconds", rule=positive)
    ttft_critical_seconds: float = setting(5.0, "p95 of the time to the first token", unit="seconds", rule=positive)
    restarts_critical: int = setting(3, "Restarts in the window looked at", unit="restarts", rule=at_least(1))
    idle_sm_ratio: float = setting(0.05, "A held GPU below this activity is idle", unit="ratio 0-1", rule=activity_edge)
    busy_sm_ratio: float = setting(
        0.5, "A GPU from this activity on is busy; between the two its use is low", unit="ratio 0-1", rule=activity_edge
    )
    idle_warning_seconds: float = setting(3600.0, "... for this long", unit="seconds", rule=positive)
    gpu_hot_celsius: float = setting(87.0, "GPU temperature", unit="°C", rule=between(30, 150))


@dataclass(frozen=True, slots=True, kw_only=True)
class SloSettings:
    """A promise about latency, judged for each tenant and model. None = p95 within `alerts.ttft_warning_seconds`."""

    name: str = setting("", "How it is called on the pages", required=True)
    field: str = setting(
        "ttft_seconds",
        "Which duration: first token, whole request, between tokens, in the queue",
        rule=one_of("ttft_seconds", "e2e_seconds", "itl_seconds", "queue_seconds"),
    )
    target_seconds: float = setting(
        2.0,
        "Longest duration that keeps the promise; counted at the nearest bucket bound of the servers, which is shown",
        unit="seconds",
        rule=positive,
    )
    objective_ratio: float = setting(
        0.95, "Share of the requests that must be within it", unit="ratio 0-1", rule=between(0.5, 0.99999)
    )
    window_days: float = setting(30.0, "Time over which the error budget counts", unit="days", rule=between(1, 90))
    tenant: str = setting("", "Regular expression over the tenant; empty = any", rule=regex)
    model: str = setting("", "Regular expression over the model; empty = any", rule=regex)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """All settings in force, frozen. `origins`: where each value that is not a default comes from, by its name."""

    general: General = field(default_factory=General)
    store: StoreSettings = field(default_factory=StoreSettings)
    retention: RetentionSettings = field(default_factory=RetentionSettings)
    gateway: GatewaySettings = field(default_factory=GatewaySettings)
    dashboard: DashboardSettings = field(default_factory=DashboardSettings)
    docker: tuple[DockerDaemon, ...] = (DockerDaemon(),)
    nvml: NvmlSettings = field(default_factory=NvmlSettings)
    prometheus: tuple[PrometheusServer, ...] = ()
    endpoints: tuple[EndpointRule, ...] = ()
    tenancy: TenancySettings = field(default_factory=TenancySettings)
    tenant_rules: tuple[TenantRule, ...] = ()
    gpu: GpuSettings = field(default_factory=GpuSettings)
    jobs: JobSettings = field(default_factory=JobSettings)
    synthetic: SyntheticSettings = field(default_factory=SyntheticSettings)
    alerts: AlertSettings = field(default_factory=AlertSettings)
    slo: tuple[SloSettings, ...] = ()
    origins: Mapping[str, str] = field(default_factory=dict[str, str])

    @property
    def data_dir(self) -> Path:
        """Absolute folder of everything this machine keeps."""
        return Path(self.general.data_dir).expanduser().absolute()

    @property
    def spool_dir(self) -> Path:
        """Folder of batches that wait for the store."""
        return self.data_dir / "spool"

    @property
    def embedded(self) -> bool:
        """The collector itself holds the store, and serves it through the gateway."""
        return self.store.dsn == "" or self.store.dsn.startswith("chdb:")

    @property
    def writer_token_path(self) -> Path:
        """File with the gateway's writing token."""
        return Path(self.gateway.writer_token_file or self.data_dir / "gateway-writer.token")

    @property
    def reader_token_path(self) -> Path:
        """File with the gateway's reading token."""
        return Path(self.gateway.reader_token_file or self.data_dir / "gateway-reader.token")

    @property
    def thresholds(self) -> Thresholds:
        """The limits that queries judge by."""
        return Thresholds(**dataclasses.asdict(self.alerts))

    @property
    def objectives(self) -> tuple[Objective, ...]:
        """The promises in force: those written, else that p95 of the first token is within its warning limit."""
        if self.slo:
            return tuple(Objective(**dataclasses.asdict(one)) for one in self.slo)
        limit = self.alerts.ttft_warning_seconds
        return (
            Objective(name="first token", target_seconds=limit, objective_ratio=0.95, window_days=7.0, assumed=True),
        )

    def store_dsn(self) -> str:
        """DSN the collector writes to, with its password from `password_file`. Raises SettingsError."""
        if self.store.dsn == "":
            return f"chdb://{self.data_dir / 'store'}"
        if self.embedded or not self.store.password_file:
            return self.store.dsn
        return with_password(self.store.dsn, read_secret(Path(self.store.password_file), "store.password_file"))

    def dashboard_dsn(self) -> str:
        """DSN the dashboard reads from, with its token. Raises SettingsError when the token cannot be read."""
        if self.dashboard.dsn:
            if not self.dashboard.token_file:
                return self.dashboard.dsn
            token = read_secret(Path(self.dashboard.token_file), "dashboard.token_file")
            return with_password(self.dashboard.dsn, token)
        if not self.embedded:
            return self.store_dsn()
        token = read_secret(Path(self.dashboard.token_file or self.reader_token_path), "gateway.reader_token_file")
        # A wildcard address is for listening, not for dialling.
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.gateway.host, self.gateway.host)  # noqa: S104
        address = f"[{host}]" if ":" in host else host
        return f"clickhouse://reader:{quote(token, safe='')}@{address}:{self.gateway.port}"


#: Name in the file -> (field of Settings, dataclass, is an array of tables). "" = the top of the file.
SECTIONS: Mapping[str, tuple[str, type, bool]] = {
    "": ("general", General, False),
    "store": ("store", StoreSettings, False),
    "retention": ("retention", RetentionSettings, False),
    "gateway": ("gateway", GatewaySettings, False),
    "dashboard": ("dashboard", DashboardSettings, False),
    "docker": ("docker", DockerDaemon, True),
    "nvml": ("nvml", NvmlSettings, False),
    "prometheus": ("prometheus", PrometheusServer, True),
    "endpoints": ("endpoints", EndpointRule, True),
    "tenancy": ("tenancy", TenancySettings, False),
    "tenant_rules": ("tenant_rules", TenantRule, True),
    "gpu": ("gpu", GpuSettings, False),
    "jobs": ("jobs", JobSettings, False),
    "synthetic": ("synthetic", SyntheticSettings, False),
    "alerts": ("alerts", AlertSettings, False),
    "slo": ("slo", SloSettings, True),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One row of the table. `rule` looks at a value of the right type."""

    section: str
    key: str
    default: Value
    unit: str
    help: str
    rule: Rule | None
    required: bool
    array: bool

    @property
    def name(self) -> str:
        """As a person writes it, e.g. `docker[].url`."""
        return f"{self.section}{'[]' if self.array else ''}.{self.key}" if self.section else self.key

    @property
    def variable(self) -> str:
        """Environment variable that overrides it; of an array of tables, the first entry."""
        return "AIFLEET_" + "_".join(part.upper() for part in (self.section, self.key) if part)


def _table() -> tuple[Setting, ...]:
    return tuple(
        Setting(
            section=section, key=item.name, default=cast("Value", item.default), array=array,
            unit=item.metadata["unit"], help=item.metadata["help"], rule=item.metadata["rule"],
            required=item.metadata["required"],
        )
        for section, (_, kind, array) in SECTIONS.items()
        for item in dataclasses.fields(kind)
    )  # fmt: skip


TABLE: tuple[Setting, ...] = _table()
