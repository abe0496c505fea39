"""The pages of a soak and of a fleet, in a browser without a network."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import soak_story
from browser import Browser
from soak_story import START, Story, report_of, verdict

from aegis_tools.soak import fleet, fleet_page
from aegis_tools.soak.happened import Happened
from aegis_tools.soak.hits import Hit
from aegis_tools.soak.page import render
from aegis_tools.soak.report import build

KINDS = ("passed", "leaked", "gaps", "short")
PLOTS = ("cpu", "memory", "lost", "fill", "entries", "matches", "probe", "ran")
HOSTILE = (
    "<img src=http://203.0.113.9/x onerror=alert(1)>",
    '"><script>document.title="taken"</script>',
    "</title></style></script><script>document.title='taken'</script>",
    "]]><!-- x",
    "evil\u202egnp.exe",
)
Show = Callable[[str], Browser]


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("profile")) as found:
        yield found


@pytest.fixture
def show(browser: Browser, tmp_path: Path) -> Show:
    """Open a page, which asks for nothing but itself and has nothing to complain."""

    def opened(page: str) -> Browser:
        path = tmp_path / "report.html"
        path.write_text(page)
        browser.open(path)
        assert browser.requests() == [path.as_uri()]
        assert browser.complaints() == []
        assert browser.js("document.scripts.length + document.images.length") == 0
        return browser

    return opened


def text(browser: Browser, selector: str) -> str:
    return str(browser.js(f"document.querySelector({selector!r}).innerText"))


def count(browser: Browser, selector: str) -> int:
    return int(browser.js(f"document.querySelectorAll({selector!r}).length"))


@pytest.mark.parametrize("name", KINDS)
def test_every_story_is_a_page_with_all_plots(show: Show, name: str) -> None:
    browser = show(render(report_of(name)))
    for plot in PLOTS:
        assert (
            browser.js(f"document.querySelector('#plot-{plot} svg').getBoundingClientRect().height")
            > 40
        )
        label = f"document.querySelector('#plot-{plot} svg').getAttribute('aria-label')"
        assert len(browser.js(label)) > 10
    assert count(browser, "#criteria tbody tr") == 8


def test_the_verdict_is_told_first(show: Show) -> None:
    browser = show(render(report_of("leaked")))
    assert text(browser, "h1") == "Shadow soak of web-01, 7 d\nFAIL"
    assert text(browser, "#advice").startswith("Not ready: agent crashes 1 (limit 0)")
    assert text(browser, "#criterion-mem_growth").split("\t")[2:4] == ["8.02 MB/day", "7.9 to 8.1"]
    browser = show(render(report_of("short")))
    assert text(browser, "h1") == "Shadow soak of web-01, 10 min\nPASS\nshort: 10 min of 7 d"


def test_an_override_cannot_be_overlooked(show: Show) -> None:
    soak = Story(600, 5, "enforce", override="the vendor's <b>deadline</b>").run(600).end()
    browser = show(render(build(soak, verdict(soak))))
    assert "override): the vendor's <b>deadline</b>" in text(browser, "header .stop")
    assert "override" in text(browser, "h1")


def test_the_trend_its_interval_and_the_limits_are_drawn(show: Show) -> None:
    browser = show(render(report_of("leaked")))
    assert count(browser, "#plot-memory svg .trend") == 2  # one for each process
    assert count(browser, "#plot-memory .wedge") == 2
    assert count(browser, "#plot-memory .line.limit") == 2  # 50 MB, and 1 MB a day
    assert count(browser, "#plot-cpu .line.limit") == 2
    assert "p99 1.35 %" in browser.js("document.querySelector('#plot-cpu svg').textContent")
    assert count(browser, "#plot-cpu .mark") >= 1
    assert "out of memory" in browser.js(
        "document.querySelector('#plot-cpu .mark title').textContent"
    )


def test_gaps_are_shown_as_gaps(show: Show) -> None:
    browser = show(render(report_of("gaps")))
    assert count(browser, "#plot-cpu .gap") == 6
    assert count(browser, "#plot-cpu .line.c1") == 7
    assert "no samples" in text(browser, "#plot-cpu .legend")
    overlap = """[...document.querySelectorAll('#plot-ran .state')].some(s =>
      [...document.querySelectorAll('#plot-ran .gap')].some(g =>
        +s.getAttribute('x') + +s.getAttribute('width') > +g.getAttribute('x') + 3 &&
        +s.getAttribute('x') + 1 < +g.getAttribute('x') + +g.getAttribute('width')))"""
    assert browser.js(overlap) is False


def test_what_there_is_nothing_of_says_so(show: Show) -> None:
    story = Story(600, 5)
    story.samples.clear()
    soak = story.skip(60).soak()
    browser = show(render(build(soak, verdict(soak))))
    for plot in PLOTS:
        shown = browser.js(f"document.querySelector('#plot-{plot} svg').textContent")
        assert shown in ("no sample tells it", "no rule matched", "no samples"), plot


def test_a_canary_that_was_missed_is_told_apart_without_colours(show: Show) -> None:
    browser = show(render(report_of("leaked")))
    heights = browser.js(
        "[...document.querySelectorAll('#plot-ran .state')]"
        ".map(s => [s.querySelector('title').textContent, +s.getAttribute('height')])"
    )
    by_state = {str(title): height for title, height in heights}
    assert by_state["canary: miss"] > by_state["canary: ok"]
    assert by_state["agent: dead"] > by_state["agent: running"]


@pytest.mark.parametrize("name", HOSTILE)
def test_whatever_a_host_says_is_only_text(show: Show, name: str) -> None:
    soak = Story(600, 5, note=name, override="").run(600).end()
    soak = replace(
        soak,
        hits=(Hit(int(START) + 5, name, 3, 0),),
        happened=(Happened(START + 9, "kernel", name, class_="bpf"),),
        problems=(name,),
        settings=replace(soak.settings, host=replace(soak.settings.host, name=name)),
    )
    wrong = soak_story.criterion("canary", "FAIL", title=name, limit=name, unit=name, why=name)
    browser = show(render(build(soak, verdict(soak, wrong), evidence=[(name, 3)])))
    shown = name.replace("\u202e", "\\u202e")
    for selector in ("h1", "#advice", "#rules", "#happened", "#environment", "#evidence",
                     "#problems", "#criterion-canary", "#plot-matches"):  # fmt: skip
        assert shown in text(browser, selector), selector
    assert "taken" not in browser.js("document.title").replace(shown, "")
    assert shown in browser.js("document.querySelector('#plot-cpu .mark title').textContent")


def test_what_slipped_in_could_do_nothing(browser: Browser, tmp_path: Path) -> None:
    slipped = '<script>document.title="taken"</script><img src="http://203.0.113.9/x">'
    path = tmp_path / "report.html"
    path.write_text(render(report_of("short")).replace("<main>", f"<main>{slipped}"))
    browser.open(path)
    assert browser.js("document.title") != "taken"
    assert len([line for line in browser.complaints() if "Content Security Policy" in line]) == 2


@pytest.mark.parametrize("name", KINDS)
def test_a_page_names_no_address(name: str) -> None:
    page = render(report_of(name))
    assert re.findall(r"(?:https?:)?//[a-z0-9.]+", page) == []
    assert re.findall(r"\b(?:src|href|action|url)\b\s*[=(]", page) == []
    assert len(page) < 250_000


@pytest.mark.parametrize("width", [360, 1200])
def test_it_fits_its_window(browser: Browser, tmp_path: Path, width: int) -> None:
    soak = Story(600, 5, note="n" * 300).run(600).end()
    soak = replace(soak, hits=(Hit(int(START) + 5, "/very/long" * 30, 3, 0),))
    path = tmp_path / "report.html"
    path.write_text(render(build(soak, verdict(soak))))
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.ask("Emulation.setDeviceMetricsOverride", **size)
    browser.open(path)
    assert browser.js("document.documentElement.scrollWidth") <= width
    browser.ask("Emulation.clearDeviceMetricsOverride")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_its_ground(browser: Browser, tmp_path: Path, scheme: str) -> None:
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.ask("Emulation.setEmulatedMedia", features=features)
    path = tmp_path / "report.html"
    path.write_text(render(report_of("leaked")))
    browser.open(path)
    contrast = """(() => {
      const light = (c) => { const v = c.match(/[\\d.]+/g).slice(0, 3).map(x => x / 255)
        .map(x => x <= 0.03928 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4);
        return 0.2126 * v[0] + 0.7152 * v[1] + 0.0722 * v[2]; };
      const ratio = (a, b) => { const [x, y] = [light(a), light(b)].sort((p, q) => q - p);
        return (x + 0.05) / (y + 0.05); };
      const paper = getComputedStyle(document.querySelector('figure')).backgroundColor;
      const texts = ['#advice', '.soft', 'td', 'dt', 'figcaption p'].map(s =>
        ratio(getComputedStyle(document.querySelector(s)).color, paper));
      const drawn = ['.name', '.level.limit', '.level.c4', '.time'].map(s =>
        ratio(getComputedStyle(document.querySelector('#plot-cpu ' + s)).fill, paper));
      const tag = getComputedStyle(document.querySelector('h1 .tag'));
      return [...texts, ...drawn, ratio(tag.color, tag.backgroundColor)];
    })()"""
    assert min(browser.js(contrast)) >= 4.5
    browser.ask("Emulation.setEmulatedMedia", features=[])


def test_it_prints_on_white_without_cutting_a_plot(browser: Browser, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.write_text(render(report_of("leaked")))
    features = [{"name": "prefers-color-scheme", "value": "dark"}]
    browser.ask("Emulation.setEmulatedMedia", media="print", features=features)
    browser.open(path)
    assert browser.js("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert browser.js("getComputedStyle(document.querySelector('figure')).breakInside") == "avoid"
    browser.ask("Emulation.setEmulatedMedia", media="", features=[])


def a_fleet() -> dict[str, Any]:
    """Return the report of thirty hosts, two of which stick out."""
    return fleet.build(soak_story.hosts(30), pages={"h017": "hosts/h017.html"})


def test_a_fleets_page_has_who_sticks_out_first(show: Show) -> None:
    browser = show(fleet_page.render(a_fleet()))
    names = "[...document.querySelectorAll('#hosts tbody tr')].map(r => r.cells[0].innerText)"
    assert browser.js(names)[:3] == ["h017", "h023", "h001"]
    assert text(browser, "#lead") == "1 FAIL, 29 PASS. 2 hosts stick out, and come first."
    assert "Memory growth: 3.1 MB/day, the hosts' median 0" in text(browser, "#hosts tbody tr .why")
    assert count(browser, "#figures-shadow circle.bad") >= 2
    assert (
        browser.js("document.querySelector('#hosts a').getAttribute('href')") == "hosts/h017.html"
    )


@pytest.mark.parametrize("name", HOSTILE)
def test_whatever_a_host_of_a_fleet_says_is_only_text(show: Show, name: str) -> None:
    hosts = soak_story.hosts(6)
    hosts[name] = name
    browser = show(fleet_page.render(fleet.build(hosts, pages={"h001": f"hosts/{name}.html"})))
    shown = name.replace("\u202e", "\\u202e")
    assert text(browser, "#hosts tbody tr").startswith(shown)
    assert browser.js("document.title") == "Soak of 7 hosts: 1 MISSING, 6 PASS"
