"""What holds of every question the product answers, found by looking, not listed by hand."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Callable
from datetime import timedelta

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
#: Rows that name no tenant of their own: what belongs to the fleet as a whole.
OWNERLESS = {"gpus.gpu_funnel", "overview.fleet_numbers", "overview.verdict", "status.source_status", "status.choices"}


def _ask(name: str, store: Store, scope: Scope, span: Window) -> Answer:
    function = QUESTIONS[name]
    more = {key: value for key, value in SUBJECTS.items() if key in inspect.signature(function).parameters}
    return function(store, scope, span, **more)


def test_there_are_questions():
    assert len(QUESTIONS) >= 25


@pytest.mark.parametrize("name", QUESTIONS)
def test_a_question_takes_store_scope_and_window_first(name: str):
    assert list(inspect.signature(QUESTIONS[name]).parameters)[:3] == ["store", "scope", "window"]


@pytest.mark.parametrize("span", [timedelta(minutes=15), timedelta(hours=11), timedelta(days=9)])
@pytest.mark.parametrize("name", QUESTIONS)
def test_a_question_answers_over_every_tier(fleet: Store, name: str, span: timedelta):
    answer = _ask(name, fleet, EVERYONE, Window(start=END - span, end=END))
    assert answer.rows.column_names
    assert answer.coverage is None or 0.0 <= answer.coverage <= 1.0


@pytest.mark.parametrize("name", QUESTIONS)
def test_a_question_to_an_empty_store_is_answered(empty_fleet: Store, name: str):
    answer = _ask(name, empty_fleet, EVERYONE, window(hours=1))
    assert answer.coverage is None
    assert answer.as_of is None


@pytest.mark.parametrize("name", QUESTIONS)
def test_the_empty_scope_sees_nothing(fleet: Store, name: str):
    answer = _ask(name, fleet, Scope(tenants=frozenset()), window(hours=1))
    text = str(answer.rows.to_pylist())
    for word in (*TENANTS, "chat", "batch", "notebook", "GPU-1", "10.0.0.5"):
        assert word not in text
    assert answer.coverage is None
    assert answer.gaps == ()


@pytest.mark.parametrize("tenant", TENANTS)
@pytest.mark.parametrize("name", QUESTIONS)
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


@pytest.mark.parametrize("tenant", TENANTS)
@pytest.mark.parametrize("name", sorted(set(QUESTIONS) - OWNERLESS))
def test_a_tenants_view_equals_the_filter_of_the_fleets_view(fleet: Store, name: str, tenant: str):
    whole = _ask(name, fleet, EVERYONE, window(hours=3)).rows
    if "tenant" not in whole.column_names or "tenants" in whole.column_names:
        return
    own = _ask(name, fleet, Scope(tenants=frozenset({tenant})), window(hours=3)).rows
    expected = [row for row in whole.to_pylist() if row["tenant"] == tenant]
    assert own.to_pylist() == expected
