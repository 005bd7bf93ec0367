"""`python -m collectors`: collect until stopped, or look once, check the settings, find out what is wrong.

Exit status: 0 fine, 1 findings or failed checks, 2 bad usage or something that cannot be read.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import socket
import sys
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import NoReturn

from fleet.settings import DEFAULT_DOCKER_URL, Settings, SettingsError
from fleet.settings_file import read_settings

FINE, FINDINGS, UNUSABLE = 0, 1, 2
_UNITS = {"s": 1, "m": 60, "h": 3600}


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line instead of a usage text."""

    def error(self, message: str) -> NoReturn:
        self.exit(UNUSABLE, f"{self.prog}: {message}; write {self.prog} --help\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="python -m collectors", description="Collect from Docker, NVML and Prometheus.")
    common = _Parser(add_help=False)
    common.add_argument("--config", type=Path, help="settings file (default: fleet.toml here, if there is one)")
    common.add_argument("--json", action="store_true", help="print JSON instead of text")
    commands = parser.add_subparsers(dest="command", metavar="command", parser_class=_Parser)
    commands.add_parser("run", parents=[common], help="collect until stopped (the default)")
    once = commands.add_parser("once", parents=[common], help="read every source, print what each brought")
    once.add_argument("--wait", type=_seconds, default=1.5, metavar="SECONDS", help="between the two readings (1.5)")
    commands.add_parser("check-config", parents=[common], help="print the settings in force and where each comes from")
    commands.add_parser("doctor", parents=[common], help="check what is needed, say what to do")
    demo = commands.add_parser("demo", parents=[common], help="show a living synthetic fleet")
    demo.add_argument("--seed", type=int, help="the same seed gives the same fleet")
    feed = commands.add_parser("prometheus-config", parents=[common], help="print what a Prometheus needs to feed us")
    feed.add_argument("--rules", action="store_true", help="print the recording rules instead of the scrape config")
    feed.add_argument("--out", type=Path, metavar="FOLDER", help="write both files there instead of printing one")
    cluster = commands.add_parser("cluster-schema", parents=[common], help="print the schema for a ClickHouse cluster")
    cluster.add_argument("--cluster", required=True, metavar="NAME", help="as in the server's remote_servers")
    jobs = commands.add_parser("jobs", parents=[common], help="verify the GPU job ledger, or export a period of it")
    jobs.add_argument("action", choices=("verify", "export"), nargs="?", default="verify", help="verify is the default")
    jobs.add_argument("--from", dest="start", metavar="TIME", help="export: 2026-10-01 or 2026-10-01T08:00, UTC")
    jobs.add_argument("--to", dest="end", metavar="TIME", help="export: the end, itself not in it")
    jobs.add_argument("--format", choices=("csv", "json"), default="csv", help="export: csv is the default")
    jobs.add_argument("--out", type=Path, metavar="FOLDER", help="export: a new folder for the files")
    jobs.add_argument("--tenant", action="append", default=[], metavar="NAME", help="export: withhold all others")
    release = commands.add_parser("release-gpus", parents=[common], help="let go of the NVIDIA driver for a while")
    release.add_argument("--for", dest="period", type=_period, default="10m", metavar="TIME", help="30s, 10m, 2h (10m)")
    release.add_argument("--end", action="store_true", help="take the GPUs back before the time is over")
    return parser


def _period(text: str) -> timedelta:
    amount, unit = text[:-1], text[-1:]
    if not amount.isdigit() or unit not in _UNITS or not 0 < int(amount) * _UNITS[unit] <= 86_400:
        raise argparse.ArgumentTypeError(f"found {text!r}, write a time such as 30s, 10m or 2h, at most 24h")
    return timedelta(seconds=int(amount) * _UNITS[unit])


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 3600:
        raise argparse.ArgumentTypeError(f"found {text!r}, write seconds from 0 to 3600")
    return value


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit status."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or (words[0].startswith("-") and words[0] not in {"-h", "--help"}):
        words.insert(0, "run")
    options = _parser().parse_args(words)
    try:
        settings, _ = read_settings(os.environ, named=options.config, host=socket.gethostname())
        return _command(options, settings)
    except SettingsError as error:
        if options.json:
            print(json.dumps({"mistakes": error.mistakes}, indent=1))
        print(error, file=sys.stderr)
        return UNUSABLE
    except BrokenPipeError:
        # The reader (head, a pager) has seen enough. stdout is closed already: keep Python from complaining at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FINE


def _command(options: argparse.Namespace, settings: Settings) -> int:
    # Each command imports what it needs: check-config must not take a second to load an engine.
    if options.command == "check-config":
        from collectors import check_config
        from collectors.prometheus_profiles import profiles_of

        profiles_of(settings)  # its mistakes are mistakes of the settings
        print(check_config.as_json(settings) if options.json else check_config.as_text(settings))
        return FINE
    logging.basicConfig(
        level=logging.WARNING if options.command in {"once", "doctor", "jobs"} else settings.general.log_level.upper(),
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
        stream=sys.stderr,
    )
    # Its retries are the source's business; a server that is away would fill the log with them.
    logging.getLogger("urllib3").setLevel(logging.ERROR)
    if options.command == "once":
        return _once(options, settings)
    if options.command == "prometheus-config":
        return _prometheus_config(options, settings)
    if options.command == "cluster-schema":
        return _cluster_schema(options)
    if options.command == "release-gpus":
        return _release_gpus(options, settings)
    if options.command == "doctor":
        from collectors import doctor

        checks = doctor.examine(settings)
        print(doctor.as_json(checks) if options.json else doctor.as_text(checks))
        return FINDINGS if any(check.state == "FAIL" for check in checks) else FINE
    if options.command == "jobs":
        return _jobs(options, settings)
    from collectors import service

    try:
        return service.run(settings, demo=options.command == "demo", seed=getattr(options, "seed", None))
    except service.ServiceError as error:
        print(error, file=sys.stderr)
        return UNUSABLE


def _prometheus_config(options: argparse.Namespace, settings: Settings) -> int:
    from collectors.prometheus_config import RULES_FILE, SCRAPE_FILE, recording_rules, scrape_config
    from fleet.profiles import builtin_profiles

    daemon = next(iter(settings.docker), None)
    host = (daemon.name if daemon else "") or settings.general.host or socket.gethostname()
    files = {
        SCRAPE_FILE: scrape_config(docker_url=daemon.url if daemon else DEFAULT_DOCKER_URL, host=host),
        RULES_FILE: recording_rules(builtin_profiles()),
    }
    if options.out is None:
        print(
            json.dumps(files, indent=1) if options.json else files[RULES_FILE if options.rules else SCRAPE_FILE], end=""
        )
        return FINE
    try:
        options.out.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            (options.out / name).write_text(text, encoding="utf-8")
    except OSError as error:
        print(
            f"--out {options.out}: cannot be written ({error.strerror}); name a folder you may write", file=sys.stderr
        )
        return UNUSABLE
    print(f"{', '.join(files)} written to {options.out}; promtool check config {options.out / SCRAPE_FILE} checks both")
    return FINE


def _cluster_schema(options: argparse.Namespace) -> int:
    from store import migrations

    try:
        found = [*migrations.render_cluster(options.cluster), *migrations.cluster_versions(options.cluster)]
    except ValueError as error:
        print(f"--cluster: {error}", file=sys.stderr)
        return UNUSABLE
    print(json.dumps(found, indent=1) if options.json else "\n\n".join(f"{statement};" for statement in found))
    return FINE


def _release_gpus(options: argparse.Namespace, settings: Settings) -> int:
    from collectors import nvml_release

    try:
        answer = (
            nvml_release.take_back(settings) if options.end else nvml_release.release_gpus(settings, options.period)
        )
    except nvml_release.ReleaseError as error:
        print(error, file=sys.stderr)
        return UNUSABLE
    print(json.dumps({"free": answer.free, "words": answer.words}) if options.json else answer.words)
    return FINE if answer.free or options.end else FINDINGS


def _jobs(options: argparse.Namespace, settings: Settings) -> int:
    from collectors import jobs_command
    from collectors.runner import utc_now
    from fleet import __version__
    from fleet.tools.jobs import as_json, as_text

    try:
        if options.action == "verify":
            chains, others = jobs_command.verify_store(settings)
            print(as_json(chains, others) if options.json else as_text(chains, others), end="")
            return FINDINGS if others or any(chain.findings for chain in chains) else FINE
        request = jobs_command.request_from(options.start, options.end, options.format, options.out, options.tenant)
        files = jobs_command.export_store(settings, request, now=utc_now(), version=__version__)
    except jobs_command.CommandError as error:
        print(f"jobs: {error}", file=sys.stderr)
        return UNUSABLE
    manifest = json.loads(files["manifest.json"])
    if options.json:
        print(json.dumps(manifest, indent=1, ensure_ascii=False))
    else:
        print(f"{request.out}: {manifest['jobs']} jobs, {manifest['gaps']} gaps; verify with")
        heads = "".join(f" --head {chain['head']['hash']}" for chain in manifest["chains"])
        print(f"python -m fleet jobs verify {request.out}{heads}")
    return FINE


def _once(options: argparse.Namespace, settings: Settings) -> int:
    from collectors import build, once
    from collectors.outcome import guarded
    from collectors.runner import utc_now
    from fleet.inventory import Inventory

    inventory = Inventory()
    docker = build.docker_sources(settings, inventory)
    others = [*build.nvml_sources(settings, inventory), *build.prometheus_sources(settings, inventory)]
    reads = once.read_all([docker, others], wait_seconds=options.wait)
    print(once.as_json(once.report(reads, utc_now())) if options.json else once.as_text(reads))
    for read in reads:
        if read.outcome.reason != "timeout":  # its close would hang as well
            guarded(f"close of {read.source.kind}", read.source.close)
    return FINDINGS if any(read.outcome.failed for read in reads) else FINE


if __name__ == "__main__":
    sys.exit(main())
