"""Configuration for a Prometheus that feeds the fleet: a scrape job that finds containers, and recording rules.

The rules are made from the metric profiles, so that a dashboard or an alert of one's own names one metric whatever the
server. The collector reads the raw counters all the same: increments per series are exact through restarts, sums over
series are not, and fetching recorded buckets costs a Prometheus as much as fetching raw ones.
"""

from __future__ import annotations

from collections.abc import Sequence

from fleet.profile import Profile, ProfileField

_WINDOW = "2m"
_GROUP = "container_id, container, tenant, job, instance"
_QUANTILES = ((0.5, "p50"), (0.95, "p95"), (0.99, "p99"))
_COUNTERS = ("requests", "errors", "prompt_tokens", "generation_tokens")
RULES_FILE, SCRAPE_FILE = "aifleet.rules.yml", "prometheus.yml"

_SCRAPE = """\
# A Prometheus for AI containers. Give each container that serves metrics the labels
#   aifleet.scrape=true   aifleet.port=8000   (and aifleet.path=/metrics, aifleet.tenant=... where they apply)
# Prometheus then finds it by itself and every series carries the container's id, which is what joins it exactly.
# Reading the Docker socket is as good as root on that host: put a read-only socket proxy between where you can.
global:
  scrape_interval: 15s
  evaluation_interval: 15s

rule_files:
  - {rules}

scrape_configs:
  - job_name: ai-containers
    docker_sd_configs:
      - host: {docker}
        refresh_interval: 15s
        filters:
          - name: label
            values: ["aifleet.scrape=true"]
    relabel_configs:
      # Service discovery lists one target per exposed port; all of them become the one address that serves metrics.
      - source_labels: [__meta_docker_network_ip, __meta_docker_container_label_aifleet_port]
        regex: (.+);(\\d+)
        target_label: __address__
        replacement: ${{1}}:${{2}}
      - source_labels: [__meta_docker_container_label_aifleet_path]
        regex: (/.+)
        target_label: __metrics_path__
      - source_labels: [__meta_docker_container_id]
        target_label: container_id
      - source_labels: [__meta_docker_container_name]
        regex: /(.*)
        target_label: container
      - source_labels: [__meta_docker_container_label_aifleet_tenant]
        target_label: tenant
      - source_labels: [__meta_docker_container_label_com_docker_compose_project]
        target_label: compose_project
      - source_labels: [__meta_docker_container_label_com_docker_compose_service]
        target_label: compose_service
      # The name of this Docker host as in fleet.toml.
      - target_label: docker_host
        replacement: {host}
"""


def scrape_config(*, docker_url: str, host: str) -> str:
    """prometheus.yml that finds the containers of one Docker host by their labels."""
    return _SCRAPE.format(docker=docker_url, host=host, rules=RULES_FILE)


def recording_rules(profiles: Sequence[Profile]) -> str:
    """Rules that record, per endpoint and model, rates and quantiles under one name for all profiles.

    Gateways are left out: what they count, a server behind them counts too. Buckets of different servers are never
    added: each series keeps the label `server`.
    """
    servers = [one for one in profiles if one.table == "inference" and one.role == "server" and not one.generic]
    lines = [
        "# Made by `python -m collectors prometheus-config --rules` from the metric profiles; do not edit by hand.",
        "groups:",
        "  - name: aifleet-rates",
        "    rules:",
    ]
    for name in _COUNTERS:
        parts = [
            _with_server(one, f"sum by ({_by(one)}) (rate({_selector(metric, read)}[{_WINDOW}]))", read.scale)
            for one in servers
            for read in one.samples
            if read.name == name
            for metric in read.metrics
        ]
        lines += _rule(f"aifleet:{name}:rate{_WINDOW}", parts)
    lines += ["  - name: aifleet-latency", "    rules:"]
    fields = sorted({read.name for one in servers for read in one.histograms if read.name.endswith("_seconds")})
    for name in fields:
        for quantile, word in _QUANTILES:
            parts = [
                _with_server(
                    one,
                    f"histogram_quantile({quantile}, sum by ({_by(one)}, le) "
                    f"(rate({_selector(f'{metric}_bucket', read)}[{_WINDOW}])))",
                    read.scale,
                )
                for one in servers
                for read in one.histograms
                if read.name == name and read.type == "histogram"
                for metric in read.metrics
            ]
            lines += _rule(f"aifleet:{name}:{word}_{_WINDOW}", parts)
    return "\n".join(lines) + "\n"


def _by(profile: Profile) -> str:
    return ", ".join([_GROUP, *profile.model_labels])


def _selector(metric: str, read: ProfileField) -> str:
    # In a rules file the pattern stands inside YAML and PromQL: single quotes keep backslashes as they are.
    pairs = ", ".join(f"{label}=~'{pattern}'" for label, pattern in read.match.items() if "(?!" not in pattern)
    # RE2 has no lookahead: "anything but OK" is written as a negation.
    pairs += ", ".join(f"{label}!='OK'" for label, pattern in read.match.items() if "(?!" in pattern)
    return f"{metric}{{{pairs}}}" if pairs else metric


def _with_server(profile: Profile, expression: str, scale: float) -> str:
    scaled = expression if scale == 1 else f"{scale:g} * {expression}"
    return f'label_replace({scaled}, "server", "{profile.id}", "", "")'


def _rule(record: str, parts: Sequence[str]) -> list[str]:
    first, *rest = parts
    return [
        f"      - record: {record}",
        "        expr: >-",
        f"          {first}",
        *(f"          or {part}" for part in rest),
    ]
