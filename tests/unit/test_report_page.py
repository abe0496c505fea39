"""The report's page, in a browser without a network: what it shows, and what it lets happen."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from browser import Browser
from report_support import Story, a_failure

from aegis_tools.rollout.page import render

HOSTILE = (
    "<img src=http://203.0.113.9/x onerror=alert(1)>",
    '"><script>document.title="taken"</script>',
    "</script><script>document.title='taken'</script>",
    "{{ 7 * 7 }}",
    "evil\u202egnp.exe",
)
Show = Callable[[dict[str, Any]], Browser]


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("profile")) as found:
        yield found


@pytest.fixture
def show(browser: Browser, tmp_path: Path) -> Show:
    """Open the page of a report; a page asks for nothing but itself and has nothing to complain."""

    def opened(report: dict[str, Any]) -> Browser:
        path = tmp_path / "report.html"
        path.write_text(render(report, beside="report.json"))
        browser.open(path)
        assert browser.requests() == [path.as_uri()]
        assert browser.complaints() == []
        return browser

    return opened


def names(browser: Browser) -> list[str]:
    """Return the hosts that are shown, in order."""
    script = "[...document.querySelectorAll('#hosts tbody tr')].filter(r => r.offsetHeight)"
    return list(browser.js(f"{script}.map(r => r.cells[0].innerText)"))


def text(browser: Browser, selector: str) -> str:
    return str(browser.js(f"document.querySelector({selector!r}).innerText"))


def many(count: int) -> dict[str, Any]:
    story = Story(*(f"h{number:04}" for number in range(count)))
    story.went_well(*story.run.names)
    return story.report()


def test_a_failure_is_told_first(show: Show) -> None:
    browser = show(a_failure())
    assert text(browser, "#result") == "failed"
    assert text(browser, "#reason").startswith("h3: gate: 7.5 refusals a second")
    assert text(browser, "#lead") == "4 of 5 hosts are not where the rollout was to take them."
    assert names(browser) == ["h3", "h2", "h4", "h5", "h1"]
    assert text(browser, "#summary").split() == ["2", "rolled", "back", "2", "untouched", "1",
                                                  "changed"]  # fmt: skip


def test_what_changes_and_how_each_wave_went_is_there(show: Show) -> None:
    browser = show(a_failure())
    assert "+ ssh-keys" in text(browser, "#c1")
    assert "~ secrets (audit → enforce)" in text(browser, "#c1")
    assert browser.js("document.querySelectorAll('#waves tbody tr').length") == 2


def test_a_gate_is_drawn(show: Show) -> None:
    browser = show(a_failure())
    drawn = "document.querySelector('#hosts tbody tr:nth-child({}) svg')"
    assert browser.js(f"{drawn.format(1)}.querySelectorAll('path.sick').length") == 1
    assert browser.js(f"{drawn.format(5)}.querySelectorAll('circle.well').length") == 3
    assert browser.js(f"{drawn.format(5)}.getBoundingClientRect().width") > 100
    points = browser.js(f"{drawn.format(5)}.querySelector('polyline').getAttribute('points')")
    heights = [float(pair.split(",")[1]) for pair in points.split()]
    assert heights == sorted(heights, reverse=True)  # upwards, as the matches grow
    assert heights[0] > heights[-1]


def test_hosts_are_found_by_what_is_known_of_them(show: Show) -> None:
    browser = show(a_failure())
    search = "search.value = {!r}; search.dispatchEvent(new Event('input'))"
    browser.js(search.format("refusals h3"))
    assert names(browser) == ["h3"]
    assert text(browser, "#shown") == "1 of 5"
    browser.js(search.format(""))
    browser.js("document.querySelector('[data-outcome=untouched]').click()")
    assert names(browser) == ["h4", "h5"]
    browser.js("document.querySelector('[data-outcome=untouched]').click()")
    assert len(names(browser)) == 5


def test_hosts_are_sorted_by_a_column(show: Show) -> None:
    browser = show(a_failure(("h10", "h9", "h1", "h2", "h3")))
    browser.js("document.querySelector('#hosts th button').click()")
    assert names(browser) == ["h1", "h2", "h3", "h9", "h10"]
    browser.js("document.querySelector('#hosts th button').click()")
    assert names(browser) == ["h10", "h9", "h3", "h2", "h1"]
    browser.js("document.querySelectorAll('#hosts th button')[2].click()")
    assert names(browser)[0] == "h1"  # whose gate failed


def test_a_thousand_hosts_are_all_there(show: Show) -> None:
    browser = show(many(1000))
    assert len(names(browser)) == 1000
    assert text(browser, "#lead") == "All 1000 hosts are where the rollout was to take them."


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_name_or_message_is_only_text(show: Show, name: str) -> None:
    story = Story(name)
    story.wave(name)
    story.planned(name)
    story.applied(name)
    story.looked(name, name)
    browser = show(story.report("failed"))
    [shown] = names(browser)
    assert shown == name.replace("\u202e", "\\u202e")
    assert shown in text(browser, "#reason")
    assert "taken" not in browser.js("document.title")
    assert browser.js("document.images.length + document.scripts.length") == 1


def test_what_slipped_in_could_do_nothing(browser: Browser, tmp_path: Path) -> None:
    page = render(a_failure())
    slipped = '<script>document.title="taken"</script><img src="http://203.0.113.9/x">'
    path = tmp_path / "report.html"
    path.write_text(page.replace("<main>", f"<main>{slipped}"))
    browser.open(path)
    assert browser.js("document.title") != "taken"
    assert len([line for line in browser.complaints() if "Content Security Policy" in line]) == 2


def test_a_page_names_no_address(show: Show) -> None:
    page = render(a_failure())
    assert re.findall(r"(?:https?:)?//[a-z0-9.]+", page) == []
    assert re.findall(r"\b(?:src|href|action|url)\b\s*[=(]", page) == []
    browser = show(many(3))
    assert browser.js("performance.getEntriesByType('resource').length") == 0


@pytest.mark.parametrize("width", [360, 1200])
def test_it_fits_its_window(browser: Browser, tmp_path: Path, width: int) -> None:
    path = tmp_path / "report.html"
    path.write_text(render(a_failure(("a" * 200, "h2", "b.example.net", "h4", "h5"))))
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.ask("Emulation.setDeviceMetricsOverride", **size)
    browser.open(path)
    assert browser.js("document.documentElement.scrollWidth") <= width
    browser.ask("Emulation.clearDeviceMetricsOverride")


def test_without_its_script_everything_is_shown(browser: Browser, tmp_path: Path) -> None:
    browser.ask("Emulation.setScriptExecutionDisabled", value=True)
    path = tmp_path / "report.html"
    path.write_text(render(a_failure()))
    browser.open(path)
    browser.ask("Emulation.setScriptExecutionDisabled", value=False)
    assert len(names(browser)) == 5
    assert browser.js("getComputedStyle(document.querySelector('.tools')).display") == "none"


def test_an_interrupted_and_a_checked_run_say_so(show: Show) -> None:
    story = Story("h1", check=True)
    story.wave("h1")
    story.planned("h1")
    browser = show(story.report("interrupted"))
    assert "interrupted" in text(browser, "h1")
    assert "check mode: nothing was changed" in text(browser, "h1")
    assert text(browser, "#lead") == "1 of 1 host would be changed."
