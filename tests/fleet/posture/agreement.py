"""The recorded containers: our results beside the expected ones and docker-bench's.

python tests/fleet/posture/agreement.py
"""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT))

from fleet.posture.container import Container  # noqa: E402
from fleet.posture.evaluation import Finding, evaluate  # noqa: E402
from fleet.posture.evidence import Evidence, Image  # noqa: E402

RECORDED = ROOT / "tests" / "recorded" / "posture"
NOW = datetime(2026, 11, 22, 5, tzinfo=UTC)


def load(name: str) -> Any:
    return json.loads((RECORDED / name).read_text(encoding="utf-8"))


def inspected(name: str) -> dict[str, Any]:
    document = load(name)
    return document[0] if isinstance(document, list) else document


def recorded_containers() -> list[Container]:
    return [
        Container(inspected(f"containers/{path.name}")) for path in sorted((RECORDED / "containers").glob("*.json"))
    ]


def recorded_images() -> list[Image]:
    names = ("sec-good_1.0.2", "sec-llm_latest")
    return [Image(inspected(f"images/{name}.inspect.json"), load(f"images/{name}.history.json")) for name in names]


def recorded_evidence(**more: Any) -> Evidence:
    containers = recorded_containers()
    label = "com.example.tenant"
    return Evidence(
        **{
            "containers": containers,
            "images": recorded_images(),
            "info": load("host/info.json"),
            "version": load("host/version.json"),
            "networks": load("host/networks.json"),
            "volumes": load("host/volumes.json")["Volumes"],
            "now": NOW,
            "tenants": {one.id: one.labels[label] for one in containers if label in one.labels},
            **more,
        }
    )


def together(findings: list[Finding]) -> str:
    """One word for the results of one check (or of two checks that CIS counts as one) on one subject."""
    results = {finding.result for finding in findings}
    for word in ("fail", "unknown", "pass"):
        if word in results:
            return word
    return "not_applicable" if results else "missing"


def rows() -> list[tuple[str, str, str, str, str, str]]:
    """(container, check, CIS, expected, ours, docker-bench's)."""
    findings = evaluate(recorded_evidence(), include_low=True)
    names = {one.id: one.name for one in recorded_containers()}
    found: list[tuple[str, str, str, str, str, str]] = []
    for name, checks in load("expected.json").items():
        for check, row in checks.items():
            ids = {"RUN-03", "RUN-04"} if check == "RUN-03/04" else {check}
            ours = [one for one in findings if names.get(one.container_id) == name and one.check in ids]
            found.append((name, check, row["cis"], row["expected"], together(ours), row.get("docker_bench", "-")))
    return found


def main() -> int:
    table = rows()
    print(f"{'fixture':18} {'check':10} {'CIS':8} {'expected':15} {'ours':15} {'docker-bench':13} agree")
    for name, check, cis, expected, ours, bench in table:
        print(f"{name:18} {check:10} {cis:8} {expected:15} {ours:15} {bench:13} {'yes' if expected == ours else 'NO'}")
    agreed = sum(row[3] == row[4] for row in table)
    bench = [row for row in table if row[5] != "-"]
    same = sum((row[4] == "fail") == (row[5] == "flagged") for row in bench)
    print(f"\n{agreed} of {len(table)} as expected; {same} of {len(bench)} as docker-bench-security 1.6.0")
    return 0 if agreed == len(table) else 1


if __name__ == "__main__":
    sys.exit(main())
