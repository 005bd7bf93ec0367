"""What holds of every question the product answers, found by looking, not listed by hand."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Callable
from datetime import timedelta
from typing import get_args, get_type_hints

import pytest

import queries
from fleet.model import Scope, Window
from fleet.slo import Objective
from queries.answer import Answer
from store import Store
from tests.queries.three_tenants import END, EVERYONE, TENANTS, key_of, window


def _questions() -> dict[str, Callable[..., Answer]]:
    found: dict[str, Callable[..., Answer]] = {}
    for module in pkgutil.iter_modules(queries.__path__):
        loaded = importlib.import_module(f"queries.{module.name}")
        for name, function in inspect.getmembers(loaded, inspect.isfunction):
            public = not name.startswith("_") and function.__module__ == loaded.__name__
            if public and inspect.signature(function).return_annotation == "Answer" and module.name != "freshness":
                found[f"{module.name}.{name}"] = function
    return found


QUESTIONS = _questions()
#: Arguments beyond (store, scope, window), by name.
SUBJECTS = {
    "container_key": key_of("chat"),
    "gpu_uuid": "GPU-1",
    "objectives": (Objective(name="fast", target_seconds=0.25, objective_ratio=0.9, window_days=7),),
}


def _cases() -> dict[str, tuple[str, dict[str, object]]]:
    """Every question once for each value of its `by`, and once more about one subject where it may be asked so."""
    found: dict[str, tuple[str, dict[str, object]]] = {}
    for name, function in QUESTIONS.items():
        parameters = inspect.signature(function).parameters
        needed = {key: SUBJECTS[key] for key in SUBJECTS if key in parameters and parameters[key].default is _NONE}
        chosen = {key: SUBJECTS[key] for key in SUBJECTS if key in parameters and key not in needed}
        kinds = get_args(get_type_hints(function)["by"]) if "by" in parameters else ()
        assert kinds or "by" not in parameters, f"{name}: `by` is no Literal"
        for kind in kinds:
            found[f"{name} by {kind}"] = (name, {**needed, "by": kind})
        if not kinds:
            found[name] = (name, needed)
        if chosen:
            found[f"{name} of one"] = (name, {**needed, **chosen})
    return found


_NONE = inspect.Parameter.empty
CASES = _cases()
#: No row of these belongs to one tenant, so there is nothing to filter; that they show a tenant its own part only is
#: held by the tests named after them, and by test_a_tenant_never_learns_of_another.
_SUMS = "sums or means over all that the scope sees"
_POINTS = "points in time, added up over all that the scope sees"
_SUBJECT = "one subject, which the scope sees or does not see; the row names no tenant"
WITHOUT_TENANT: dict[str, str] = {
    "containers.container_events": _SUBJECT,
    "containers.container_gpu_series": _SUBJECT,
    "containers.container_host_series": _SUBJECT,
    "containers.container_inference_series": _SUBJECT,
    "gpu_detail.gpu_facts": _SUBJECT,
    "gpu_detail.gpu_signals": _SUBJECT,
    "gpu_time.gpu_funnel_time": _SUMS,
    "gpu_time.gpu_time": "devices and hosts: a limited scope sees what its containers held of them",
    "gpu_time.gpu_time_series": _POINTS,
    "gpu_use.gpu_use": "devices: one that several tenants hold has one row",
    "gpus.gpu_funnel": _SUMS,
    "gpus.gpu_heatmap": "devices: one that several tenants hold has one row a point",
    "gpus.gpu_series": _POINTS,
    "gpus.gpu_table": "devices, with a list of the tenants that hold them",
    "jobs.ledger_state": "chains: a limited scope is told of its own entries only",
    "latency.latency_heatmap": _POINTS,
    "latency.latency_series": _POINTS,
    "latency.latency_table": "groups of several tenants, with the list of them; by tenant it is compared",
    "overview.fleet_numbers": _SUMS,
    "overview.host_map": "hosts and GPUs, with the list of the tenants on them",
    "overview.verdict": _SUMS,
    "status.choices": "words of the filter bar, one a row",
    "status.host_facts": "hosts: everyone on a host sees its facts",
    "status.source_gaps": "sources of the fleet",
    "status.source_status": "sources of the fleet",
    "storage.store_tables": "tables of the store",
    "tenants.tenant_series": _POINTS,
    "tokens.token_series": _POINTS,
    "tokens.token_table": "by model: groups of several tenants; by tenant it is compared",
}
#: Compared although rows of other groups of the same question name no tenant.
COMPARED_BY = {"tenant", "container"}
#: Questions that this fleet gives no answer to: nothing happened to chat, and nobody set an objective.
SILENT = {"containers.container_events", "slo.slo_table"}
#: The column that names the tenant where it is not called so.
TENANT_COLUMN = {"tokens.token_series by tenant": "name"}
#: Columns in which a limited scope is told less on purpose: what they say of others.
TOLD_LESS = {
    "endpoints.endpoints": {"join_reason"},
    "tenants.tenant_models": {"join_reason"},
    "gpu_contract.gpu_contract": {"sentence", "evidence", "since"},
}  # fmt: skip


def _ask(case: str, store: Store, scope: Scope, span: Window) -> Answer:
    name, more = CASES[case]
    return QUESTIONS[name](store, scope, span, **more)


def test_there_are_questions():
    assert len(QUESTIONS) >= 25


@pytest.mark.parametrize("name", QUESTIONS)
def test_a_question_takes_store_scope_and_window_first(name: str):
    assert list(inspect.signature(QUESTIONS[name]).parameters)[:3] == ["store", "scope", "window"]


@pytest.mark.parametrize("span", [timedelta(minutes=15), timedelta(hours=11), timedelta(days=9)])
@pytest.mark.parametrize("name", CASES)
def test_a_question_answers_over_every_tier(fleet: Store, name: str, span: timedelta):
    answer = _ask(name, fleet, EVERYONE, Window(start=END - span, end=END))
    assert answer.rows.column_names
    assert answer.coverage is None or 0.0 <= answer.coverage <= 1.0


@pytest.mark.parametrize("name", CASES)
def test_a_question_to_an_empty_store_is_answered(empty_fleet: Store, name: str):
    answer = _ask(name, empty_fleet, EVERYONE, window(hours=1))
    assert answer.coverage is None
    assert answer.as_of is None


@pytest.mark.parametrize("name", CASES)
def test_the_empty_scope_sees_nothing(fleet: Store, name: str):
    answer = _ask(name, fleet, Scope(tenants=frozenset()), window(hours=1))
    text = str(answer.rows.to_pylist())
    for word in (*TENANTS, "chat", "batch", "notebook", "GPU-1", "10.0.0.5"):
        assert word not in text
    assert answer.coverage is None
    assert answer.gaps == ()


@pytest.mark.parametrize("tenant", TENANTS)
@pytest.mark.parametrize("name", CASES)
def test_a_tenant_never_learns_of_another(fleet: Store, name: str, tenant: str):
    answer = _ask(name, fleet, Scope(tenants=frozenset({tenant})), window(hours=3))
    text = str(answer.rows.to_pylist()) + str(answer.gaps)
    foreign = {
        "acme": ("globex", "initech", "batch", "notebook", "GPU-2", "GPU-3"),
        "globex": ("acme", "initech", "chat", "worker", "notebook", "GPU-2", "GPU-3", "10.0.0.5"),
        "initech": ("acme", "globex", "chat", "worker", "batch", "GPU-1", "GPU-3", "10.0.0.5"),
    }
    for word in foreign[tenant]:
        assert word not in text, f"{name} shows {word} to {tenant}"


def _compared(case: str) -> bool:
    name, more = CASES[case]
    return name not in WITHOUT_TENANT or more.get("by") in COMPARED_BY


def _without(rows: list[dict[str, object]], columns: set[str]) -> list[dict[str, object]]:
    return [{name: value for name, value in row.items() if name not in columns} for row in rows]


@pytest.mark.parametrize("tenant", TENANTS)
@pytest.mark.parametrize("name", [case for case in CASES if _compared(case)])
def test_a_tenants_view_equals_the_filter_of_the_fleets_view(fleet: Store, name: str, tenant: str):
    # No way around: an answer without a tenant in its rows has to stand in WITHOUT_TENANT, with the reason.
    less = TOLD_LESS.get(CASES[name][0], set())
    whole = _ask(name, fleet, EVERYONE, window(hours=3)).rows.to_pylist()
    own = _ask(name, fleet, Scope(tenants=frozenset({tenant})), window(hours=3)).rows.to_pylist()
    expected = [row for row in whole if row[TENANT_COLUMN.get(name, "tenant")] == tenant]
    assert _without(own, less) == _without(expected, less)


@pytest.mark.parametrize("name", [case for case in CASES if not _compared(case)])
def test_an_answer_that_is_not_compared_has_no_tenant_to_compare(fleet: Store, name: str):
    # What is listed as having no tenant really has none, or beside it the list of all: else the list would hide a leak.
    rows = _ask(name, fleet, EVERYONE, window(hours=3)).rows
    assert (
        "tenant" not in rows.column_names
        or "tenants" in rows.column_names
        or not any(rows.column("tenant").to_pylist())
    )


def test_the_list_of_what_is_not_compared_names_questions_that_exist():
    assert not set(WITHOUT_TENANT) - set(QUESTIONS)


@pytest.mark.parametrize("name", sorted(set(CASES) - SILENT))
def test_no_comparison_is_one_of_nothing_with_nothing(fleet: Store, name: str):
    assert _ask(name, fleet, EVERYONE, window(hours=3)).rows.num_rows > 0


@pytest.mark.parametrize("tenant", TENANTS)
def test_every_tenant_has_a_contract_finding_to_compare(fleet: Store, tenant: str):
    # chat and batch were both given GPU-1 by count; notebook asks for a GPU that is not there.
    rows = _ask("gpu_contract.gpu_contract", fleet, Scope(tenants=frozenset({tenant})), window(hours=3)).rows
    kinds = {"acme": "shared_by_count", "globex": "shared_by_count", "initech": "requested_absent"}
    assert kinds[tenant] in rows.column("kind").to_pylist()


def test_an_endpoint_that_could_be_anybodys_names_nobody_else_to_its_tenant(fleet: Store):
    whole = _ask("endpoints.endpoints", fleet, EVERYONE, window(hours=3)).rows.to_pylist()
    assert "batch (globex)" in next(row["join_reason"] for row in whole if row["state"] == "ambiguous")
    own = _ask("endpoints.endpoints", fleet, Scope(tenants=frozenset({"acme"})), window(hours=3)).rows.to_pylist()
    assert [row["join_reason"] for row in own if row["state"] == "ambiguous"] == ["several containers fit"]
