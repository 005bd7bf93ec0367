"""The image, built from the Dockerfile on a real daemon, and both services run as compose.yaml runs them.

No registry is needed: the base is this machine's own Python (rootfs.py), the wheels come from pip's configured index.
"""

import contextlib
import http.client
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.image.rootfs import python_rootfs
from tests.services.dockerd import Dockerd, running_dockerd

ROOT = Path(__file__).resolve().parents[2]
COPIED = ("fleet", "store", "queries", "collectors", "dashboard", "pages", ".streamlit", "deploy")
SECRET = "a-token-of-this-test-only-0123456789"
pytestmark = [pytest.mark.docker, pytest.mark.timeout(900)]
#: What compose.yaml gives to both services, as `docker run` says it. The first test holds the two together.
HARDENED = (
    "--user", "10001:10001", "--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges:true",
    "--tmpfs", "/tmp:size=256m,mode=1777", "--health-interval", "1s",
)  # fmt: skip


def wheelhouse(folder: Path) -> None:
    """Every wheel of requirements.txt, checked against its hash."""
    subprocess.run(
        [
            sys.executable, "-m", "pip", "download", "--quiet", "--require-hashes", "--only-binary", ":all:",
            "-r", str(ROOT / "requirements.txt"), "-d", str(folder),
        ],
        check=True,
        capture_output=True,
    )  # fmt: skip


def build_context(folder: Path) -> None:
    """The parts of the repository that the build reads, and some that must not get into it."""
    for name in COPIED:
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("Dockerfile", ".dockerignore", "LICENSE", "requirements.txt"):
        shutil.copy(ROOT / name, folder / name)
    (folder / "deploy/secrets").mkdir(exist_ok=True)
    (folder / "deploy/secrets/decoy").write_text("not for the image\n")
    (folder / "fleet/__pycache__").mkdir()
    (folder / "fleet/__pycache__/decoy.pyc").write_bytes(b"stale")
    wheelhouse(folder / "build/wheelhouse")


@pytest.fixture(scope="module")
def daemon() -> Iterator[Dockerd]:
    with running_dockerd(networks=True) as running:
        yield running


@pytest.fixture(scope="module")
def image(daemon: Dockerd, tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("build")
    try:
        python_rootfs(folder / "rootfs.tar")
        daemon.cli("import", "--change", "ENV PATH=/usr/local/bin:/bin", str(folder / "rootfs.tar"), "base:test")
        context = folder / "context"
        build_context(context)
        subprocess.run(
            [
                "docker", "-H", daemon.url, "build", "--quiet", "--network", "none", "--tag", "ai-fleet:test",
                "--build-arg", "BASE_IMAGE=base:test", "--build-arg", "PIP_OPTIONS=--no-index --find-links /build",
                str(context),
            ],
            check=True,
            capture_output=True,
            env={**os.environ, "DOCKER_BUILDKIT": "0"},
            timeout=800,
        )  # fmt: skip
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return "ai-fleet:test"


def inside(daemon: Dockerd, name: str, code: str) -> str:
    """Run Python in a running container, as its user."""
    return daemon.cli("exec", name, "python", "-c", code)


def until(question: Callable[[], bool], seconds: float, what: str) -> None:
    end = time.monotonic() + seconds
    while not question():
        if time.monotonic() > end:
            raise AssertionError(f"not within {seconds:.0f} s: {what}")
        time.sleep(0.2)


def health(daemon: Dockerd, name: str) -> str:
    return daemon.cli("inspect", "--format", "{{.State.Health.Status}}", name)


def get(port: int, path: str) -> tuple[int, str]:
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=5)) as connection:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()


def published(daemon: Dockerd, name: str, port: int) -> int:
    return int(daemon.cli("port", name, str(port)).splitlines()[0].rpartition(":")[2])


@pytest.fixture(scope="module")
def services(daemon: Dockerd, image: str, tmp_path_factory: pytest.TempPathFactory) -> Dockerd:
    """Collector and dashboard, wired as in compose.yaml; names, ports and paths are this test's own."""
    secrets = tmp_path_factory.mktemp("secrets")
    for name in ("writer", "reader"):
        (secrets / name).write_text(f"{SECRET}-{name}\n")
        (secrets / name).chmod(0o644)
    # The group of the socket is how user 10001 may use it, as DOCKER_GID in compose.yaml.
    os.chown(daemon.socket, 0, 10777)
    daemon.socket.chmod(0o660)
    daemon.cli("network", "create", "fleet")
    daemon.cli("run", "-d", "--name", "busy", "--network", "none", "busybox:latest", "sleep", "1000")
    daemon.cli(
        "run", "-d", "--name", "collector", *HARDENED, "--network", "fleet", "--network-alias", "collector",
        "--group-add", "10777", "--pid", "host", "--cgroupns", "host",
        "-v", "data:/data", "-v", f"{daemon.socket}:/var/run/docker.sock:ro", "-v", "/sys/fs/cgroup:/sys/fs/cgroup:ro",
        "-v", f"{secrets}/writer:/run/secrets/gateway_writer:ro",
        "-v", f"{secrets}/reader:/run/secrets/gateway_reader:ro",
        "-e", "AIFLEET_HOST=test-host", "-e", "AIFLEET_GATEWAY_HOST=0.0.0.0",
        "-e", "AIFLEET_GATEWAY_WRITER_TOKEN_FILE=/run/secrets/gateway_writer",
        "-e", "AIFLEET_GATEWAY_READER_TOKEN_FILE=/run/secrets/gateway_reader",
        "-p", "127.0.0.1::8710", image, "collectors", "run",
    )  # fmt: skip
    daemon.cli(
        "run", "-d", "--name", "dashboard", *HARDENED, "--network", "fleet",
        "-v", f"{secrets}/reader:/run/secrets/gateway_reader:ro",
        "-e", "HEALTH_PORT=8501", "-e", "AIFLEET_DASHBOARD_HOST=0.0.0.0",
        "-e", "AIFLEET_DASHBOARD_DSN=clickhouse://reader@collector:8710/default",
        "-e", "AIFLEET_DASHBOARD_TOKEN_FILE=/run/secrets/gateway_reader",
        "-p", "127.0.0.1::8501", image, "dashboard",
    )  # fmt: skip
    for name in ("collector", "dashboard"):
        try:
            until(lambda name=name: health(daemon, name) == "healthy", 90, f"{name} is healthy")
        except AssertionError as error:
            raise AssertionError(f"{error}\n{daemon.cli('logs', '--tail', '40', name)}") from error
    return daemon


def test_compose_gives_both_services_what_this_test_gives_them() -> None:
    text = (ROOT / "compose.yaml").read_text()
    hardened, _, rest = text.partition("services:\n")
    for line in (
        'user: "10001:10001"', "read_only: true", "cap_drop: [ALL]", '"no-new-privileges:true"',
        'tmpfs: ["/tmp:size=256m,mode=1777"]',
    ):  # fmt: skip
        assert line in hardened
    collector, _, rest = rest.partition("\n  dashboard:\n")
    dashboard, _, _ = rest.partition("\n  clickhouse:\n")
    for service in (collector, dashboard):
        assert "<<: *hardened" in service
        assert 'ports: ["127.0.0.1:' in service
    assert "docker.sock" in collector
    assert "pid: host" in collector
    for forbidden in ("docker.sock", "pid:", "gpus", "/sys/fs/cgroup", "privileged", "gateway_writer", "data:/data"):
        assert forbidden not in dashboard


def test_both_services_answer_on_healthz_through_loopback_ports(services: Dockerd) -> None:
    status, body = get(published(services, "collector", 8710), "/healthz")
    assert status == 200
    assert {(item["source"], item["state"]) for item in json.loads(body)["sources"]} >= {("docker", "ok")}
    assert get(published(services, "dashboard", 8501), "/healthz") == (200, '{"status":"ok"}')
    assert get(published(services, "dashboard", 8501), "/")[0] == 200


def test_neither_service_is_root_nor_can_it_write_outside_its_data(services: Dockerd) -> None:
    for name in ("collector", "dashboard"):
        assert inside(services, name, "import os; print(os.getuid(), os.getgid())") == "10001 10001"
        for path in ("/app/x", "/opt/venv/x", "/x"):
            code = f"import errno\ntry: open('{path}', 'w')\nexcept OSError as e: print(errno.errorcode[e.errno])"
            assert inside(services, name, code) == "EROFS"
        capabilities = inside(
            services,
            name,
            "print([l.split()[1] for l in open('/proc/self/status') if l.startswith(('CapEff', 'CapBnd'))])",
        )
        assert capabilities == "['0000000000000000', '0000000000000000']"


def test_the_dashboard_has_neither_the_socket_nor_the_data_nor_the_writing_token(services: Dockerd) -> None:
    code = "import os; print([os.path.exists(p) for p in ('/var/run/docker.sock', '/run/secrets/gateway_writer')])"
    assert inside(services, "dashboard", code) == "[False, False]"
    assert inside(services, "dashboard", "import os; print(os.listdir('/data'))") == "[]"


def test_the_dashboard_reads_through_the_gateway_what_the_collector_saw_on_the_daemon(services: Dockerd) -> None:
    code = (
        "import os\n"
        "from fleet.settings import load_settings\n"
        "from store import open_store\n"
        "store = open_store(load_settings('', os.environ).dashboard_dsn())\n"
        "sql = 'SELECT container_key FROM container_samples WHERE cpu_seconds IS NOT NULL'\n"
        "print(sorted(set(store.query(sql)['container_key'].to_pylist())))"
    )
    seen = "['test-host:busy', 'test-host:collector', 'test-host:dashboard']"
    until(lambda: inside(services, "dashboard", code) == seen, 60, f"{seen} in the store")


def test_the_image_holds_no_installer_no_tests_and_nothing_that_the_build_should_not_see(services: Dockerd) -> None:
    code = (
        "import importlib.util as u, os; print(u.find_spec('pip'), sorted(os.listdir('/app/deploy')),"
        " [p for p in ('/build', '/app/tests', '/app/.git', '/app/fleet/__pycache__/decoy.pyc') if os.path.exists(p)])"
    )
    assert inside(services, "dashboard", code) == "None ['__pycache__', 'healthcheck.py'] []"


def test_a_stop_ends_both_services_in_good_order(services: Dockerd) -> None:
    for name in ("dashboard", "collector"):
        services.cli("stop", "--time", "20", name)
        state = json.loads(services.cli("inspect", "--format", "{{json .State}}", name))
        assert (state["ExitCode"], state["OOMKilled"]) == (0, False)
