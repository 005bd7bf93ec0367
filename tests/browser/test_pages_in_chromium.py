"""Every page in a real browser, light and dark; an error on the console or in the page fails the test.

With FLEET_SCREENSHOTS=folder the pictures are kept there: `make screenshots` writes docs/images that way.
"""

import os
import urllib.request
from pathlib import Path
from urllib.parse import quote

import pytest

from collectors.synthetic.layout import Identities
from tests.browser.conftest import settle

pytestmark = pytest.mark.browser
CONTAINER = quote("gpu-a01:acme-chat/llm-chat/1", safe="")
GPU = Identities(7).gpu_uuid("gpu-a01", 2)
PAGES = {
    "overview": "/",
    "containers": "/containers",
    "container": f"/container?id={CONTAINER}",
    "container-gpu": f"/container?id={CONTAINER}&tab=GPU",
    "gpus": "/gpus",
    "gpu": f"/gpus?id={GPU}",
    "latency": "/latency?range=6h",
    "jobs": "/jobs?range=6h",
    "tenant": "/tenant?tenant=acme",
    "status": "/status",
}


def keep(page, name):
    folder = os.environ.get("FLEET_SCREENSHOTS")
    if folder:
        Path(folder).mkdir(parents=True, exist_ok=True)
        page.screenshot(path=str(Path(folder) / f"{name}.png"))


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", PAGES)
def test_every_page_draws_without_a_fault(visit, demo_url, name, scheme):
    path = PAGES[name]
    page = visit(demo_url + path + ("&" if "?" in path else "?") + "every=0", scheme=scheme)
    page.wait_for_selector('[data-testid="stDataFrame"] canvas, .js-plotly-plot .main-svg', timeout=60_000)
    page.wait_for_timeout(800)
    assert page.get_by_text("DEMO", exact=True).count() >= 1
    assert page.locator('[data-testid="stException"]').count() == 0
    keep(page, f"{name}-{scheme}")


def test_the_overview_needs_no_scrolling_on_a_laptop(visit, demo_url):
    page = visit(f"{demo_url}/?every=0")
    page.wait_for_selector('[data-testid="stDataFrame"] canvas', timeout=60_000)
    bottom = page.locator('[data-testid="stDataFrame"]').last.bounding_box()
    assert bottom["y"] + bottom["height"] <= 900


def test_a_navigation_click_keeps_tenant_and_range(visit, demo_url):
    page = visit(f"{demo_url}/?tenant=acme&range=15m&every=0")
    page.get_by_test_id("stSidebarNavItems").get_by_role("link", name="Containers").click()
    page.wait_for_url("**/containers?*tenant=acme*")
    settle(page)
    assert "range=15m" in page.url
    assert "tenant=acme" in page.url


def test_a_click_on_a_row_opens_its_container(visit, demo_url):
    page = visit(f"{demo_url}/containers?every=0&tenant=acme")
    page.wait_for_selector('[data-testid="stDataFrame"] canvas', timeout=60_000)
    page.wait_for_timeout(1000)
    table = page.locator('[data-testid="stDataFrame"]').first.bounding_box()
    page.mouse.click(table["x"] + 80, table["y"] + 27 + 12)
    page.wait_for_url("**/container?*id=*", timeout=30_000)
    settle(page)
    assert "tenant=acme" in page.url


def test_a_gpu_opens_from_its_row_and_the_way_back_leaves_its_address(visit, demo_url):
    page = visit(f"{demo_url}/gpus?every=0&tenant=acme")
    page.wait_for_selector('[data-testid="stDataFrame"] canvas', timeout=60_000)
    page.wait_for_timeout(1000)
    table = page.locator('[data-testid="stDataFrame"]').first.bounding_box()
    page.mouse.click(table["x"] + 120, table["y"] + 27 + 12)
    page.get_by_text("Who is on it").wait_for(timeout=60_000)
    assert "id=GPU-" in page.url
    assert "tenant=acme" in page.url
    page.get_by_role("button", name="all GPUs").click()
    page.get_by_text("How far the GPU time gets").wait_for(timeout=60_000)
    page.wait_for_function("!location.search.includes('id=')", timeout=30_000)
    assert "tenant=acme" in page.url


def test_without_a_store_the_page_stays_calm(visit, storeless_url):
    page = visit(storeless_url)
    page.get_by_text("The store does not answer").wait_for(timeout=60_000)
    assert page.locator('[data-testid="stException"]').count() == 0
    keep(page, "store-away-dark")


def test_a_hostile_address_stays_text(visit, demo_url):
    page = visit(f"{demo_url}/container?id=%3Cimg%20src%3Dx%20onerror%3Dalert(1)%3E&every=0")
    page.get_by_text("No such container in this view").wait_for(timeout=60_000)
    assert page.locator('[data-testid="stMain"] img[src="x"]').count() == 0


def test_no_other_site_may_frame_the_pages(demo_url):
    with urllib.request.urlopen(f"{demo_url}/") as answer:
        assert answer.headers["x-frame-options"] == "DENY"
        assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
    with urllib.request.urlopen(f"{demo_url}/healthz") as answer:
        assert answer.read() == b'{"status":"ok"}'
