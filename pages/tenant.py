"""Tenant: everything for one tenant, in the same order as the Overview; without a tenant, all side by side."""

from __future__ import annotations

from dashboard import (
    events,
    fleet_panels,
    frame,
    gpu_panels,
    latency_panels,
    navigation,
    overview_panels,
    panels,
    tenant_panels,
    token_panels,
)
from dashboard import format as fmt
from dashboard.look import Look
from queries import containers, gpu_contract, gpu_idle, gpu_time, latency, overview, slo, tenants, tokens
from queries import events as happened

visit = frame.visit()


def open_tenant(name: str) -> None:
    navigation.go("tenant", visit.context, tenant=name)


def open_container(key: str) -> None:
    navigation.go("container", visit.context, id=key)


def render(look: Look) -> None:
    host = look.context.host
    if look.context.tenant is None:
        rows = look.ask(tenants.tenant_table, host=host).rows.to_pylist()
        frame.headline(look, f"{len(rows)} tenants :gray[select one]")
        tenant_panels.table(rows, open_tenant)
        return
    slow = look.every(overview_panels.NUMBERS_SECONDS)
    look.ahead(overview.verdict, host=host)
    slow.ahead(overview.fleet_numbers, host=host)
    slow.ahead(tenants.tenant_series, host=host)
    span = look.every(gpu_panels.SPAN_SECONDS)
    span.ahead(gpu_time.gpu_time, by="container", host=host)
    span.ahead(gpu_idle.idle_ranking, host=host)
    span.ahead(gpu_contract.gpu_contract, host=host, **gpu_panels.contract_terms())
    span.ahead(slo.slo_table, host=host, objectives=latency_panels.objectives())
    span.ahead(latency.latency_table, host=host, by="model")
    span.ahead(tokens.token_table, host=host, by="model")
    worst = look.ask(containers.container_table, host=host, limit=10).rows.to_pylist()
    series = slow.ask(tenants.tenant_series, host=host)
    told = look.ask(happened.recent_events, host=host, limit=60).rows.to_pylist()
    numbers = {row["name"]: row for row in slow.ask(overview.fleet_numbers, host=host).rows.to_pylist()}
    found = look.ask(overview.verdict, host=host)
    verdict = found.rows.to_pylist()[0]
    words = overview_panels.sentence(verdict, int(numbers["containers_running"]["total"] or 0))
    frame.headline(look, f"{fmt.markdown(look.context.tenant, 60)} {words}")
    if not worst:
        panels.nothing("No container in this view: none of this name, or not yours to see.", height=120)
        return
    overview_panels.cards(numbers, fleet=False)
    marks = events.marks([row for row in told if row["kind"] in overview_panels.TOLD], look.colours)
    tenant_panels.trends(look, series, marks)
    fleet_panels.worst(worst, look.window.end, key="worst", on_pick=open_container)
    gpus(look)
    served(look)
    panels.gaps(found.gaps, found.coverage)


def gpus(look: Look) -> None:
    host, span, terms = look.context.host, look.every(gpu_panels.SPAN_SECONDS), gpu_panels.contract_terms()
    tenant_panels.gpus(
        look,
        span.ask(gpu_time.gpu_time, by="container", host=host).rows.to_pylist(),
        span.ask(gpu_idle.idle_ranking, host=host),
        span.ask(gpu_contract.gpu_contract, host=host, **terms),
    )


def served(look: Look) -> None:
    host, span = look.context.host, look.every(latency_panels.SPAN_SECONDS)
    promises = span.ask(slo.slo_table, host=host, objectives=latency_panels.objectives()).rows.to_pylist()
    models = span.ask(latency.latency_table, host=host, by="model").rows.to_pylist()
    if not promises and not models:
        panels.title("Latency")
        panels.nothing("No model server of this tenant was seen in this range")
        return
    latency_panels.slo(promises, look, shown_rows=6)
    latency_panels.red(look, models, promises, by="model", name="ttft", shown_rows=6)
    token_panels.table(span.ask(tokens.token_table, host=host, by="model").rows.to_pylist(), by="model", shown_rows=6)


frame.live(visit, render)
