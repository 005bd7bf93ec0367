"""CPU time of judging a host's containers from their inspect JSON; prints one JSON object.

The recorded containers are multiplied under new ids and names, each with thirty harmless variables more (what an AI
image brings). Everything is parsed anew each time, as after a restart; one container alone is what a change costs.

    python bench/posture.py [--containers 2000] [--repeat 5]
"""

from __future__ import annotations

import argparse
import copy
import json
import platform
import statistics
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from fleet.posture.container import Container
from fleet.posture.evaluation import evaluate, evaluate_container
from fleet.posture.evidence import Evidence, Image

RECORDED = Path(__file__).resolve().parent.parent / "tests" / "recorded" / "posture"
NOW = datetime(2026, 11, 22, 5, tzinfo=UTC)


def load(name: str):
    document = json.loads((RECORDED / name).read_text(encoding="utf-8"))
    return document[0] if isinstance(document, list) and "history" not in name else document


def fleet(count: int) -> list[dict]:
    originals = [load(f"containers/{path.name}") for path in sorted((RECORDED / "containers").glob("*.json"))]
    brought = [f"SETTING_{number}=/opt/value/{number}" for number in range(20)]
    brought += [f"https_{number}=https://example.com/{number}?q=1" for number in range(5)]
    brought += [f"CACHE_KEY_{number}=abc{number}" for number in range(5)]
    made = []
    for number in range(count):
        one = copy.deepcopy(originals[number % len(originals)])
        one["Id"], one["Name"] = f"{number:064x}", f"/c{number}"
        one["Config"]["Env"] = [*one["Config"]["Env"], *brought]
        made.append(one)
    return made


def evidence(inspections: list[dict]) -> Evidence:
    names = ("sec-good_1.0.2", "sec-llm_latest")
    return Evidence(
        containers=[Container(one) for one in inspections],
        images=[Image(load(f"images/{name}.inspect.json"), load(f"images/{name}.history.json")) for name in names],
        info=load("host/info.json"),
        version=load("host/version.json"),
        tenants={one["Id"]: f"tenant-{number % 40}" for number, one in enumerate(inspections)},
        now=NOW,
        fingerprint_key=b"k" * 32,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="CPU time of the posture checks.")
    parser.add_argument("--containers", type=int, default=2000)
    parser.add_argument("--repeat", type=int, default=5)
    options = parser.parse_args()
    inspections = fleet(options.containers)
    result: dict[str, object] = {"containers": options.containers, "python": platform.python_version()}
    for include_low in (False, True):
        spent, found = [], ()
        for _ in range(options.repeat):
            host = evidence(inspections)
            begun = time.process_time()
            found = evaluate(host, include_low=include_low)
            spent.append(time.process_time() - begun)
        name = "all_checks" if include_low else "medium_and_worse"
        result[name] = {
            "cpu_seconds_best": round(min(spent), 3),
            "cpu_seconds_median": round(statistics.median(spent), 3),
            "results": len(found),
            "failures": sum(one.counts for one in found),
        }
    host = evidence(inspections)
    begun = time.process_time()
    for one in host.containers[:200]:
        evaluate_container(host, one, include_low=True)
    result["one_changed_container_milliseconds"] = round((time.process_time() - begun) / 200 * 1000, 3)
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
