"""The plot of the seed's metrics: a PNG from any Python, without a library."""

from __future__ import annotations

import struct
import subprocess
import sys
import zlib
from itertools import pairwise
from pathlib import Path

import pytest
from repository import REPOSITORY
from soak_story import DAY, Story
from soakplot.canvas import Canvas

from aegis_tools.soak.columns import DEAD, SEED

SCRIPT = REPOSITORY / "scripts" / "plot_soak_metrics.py"
BLUE, SHADE = (11, 98, 196), (253, 226, 224)
SOFT = bytes((89, 98, 108))


def pixels(data: bytes) -> tuple[int, int, list[bytes]]:
    """Return width, height and rows of a PNG that was written here; check its sums."""
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    at, parts = 8, {}
    while at < len(data):
        size, kind = struct.unpack(">I4s", data[at : at + 8])
        body = data[at + 8 : at + 8 + size]
        assert struct.unpack(">I", data[at + 8 + size : at + 12 + size])[0] == zlib.crc32(
            kind + body
        )
        parts[kind], at = body, at + 12 + size
    width, height, depth, colours = struct.unpack(">IIBB", parts[b"IHDR"][:10])
    assert (depth, colours) == (8, 2)
    raw = zlib.decompress(parts[b"IDAT"])
    wide = 3 * width + 1
    return width, height, [raw[n * wide + 1 : (n + 1) * wide] for n in range(height)]


def columns_with(rows: list[bytes], colour: tuple[int, int, int]) -> list[int]:
    """Return the columns that have a pixel of that colour."""
    found = set()
    for row in rows:
        found |= {n for n in range(len(row) // 3) if row[3 * n : 3 * n + 3] == bytes(colour)}
    return sorted(found)


def run(*words: object) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-S", SCRIPT, *map(str, words)]
    return subprocess.run(argv, capture_output=True, text=True, check=False)


def seed_rows() -> str:
    """Return what the seed's own sampler would have written in a week: one gap, one death."""
    story = Story(7 * DAY).run(2 * DAY).skip(DAY).run(DAY)
    story.run(DAY / 2, agent="dead").run(2 * DAY)
    rows = [",".join(SEED)]
    for one in story.samples:
        rest = "0,0,42,118,3" if one.present else "0,0,0,0,0"
        cpu, mem = (one.cpu_pct, one.mem_mb) if one.present else (DEAD, 0)
        rows.append(f"{one.timestamp},{cpu},{mem},{rest}")
    return "\n".join(rows) + "\n"


def test_a_week_is_plotted_with_its_gap_and_its_death(tmp_path: Path) -> None:
    source, target = tmp_path / "metrics.csv", tmp_path / "plot.png"
    source.write_text(seed_rows().replace(",None,", ",0.5,"))
    done = run(source, target)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"Saved plot to {target}\n", "")
    width, height, rows = pixels(target.read_bytes())
    assert (width, height) == (1200, 1000)
    line = columns_with(rows[340:640], BLUE)  # memory
    jumps = [(a, b) for a, b in pairwise(line) if b - a > 20]
    assert len(jumps) == 2
    shaded = columns_with(rows[340:640], SHADE)
    assert jumps[1][0] <= shaded[0] <= shaded[-1] <= jumps[1][1] + 1


def test_a_soaks_own_samples_are_plotted_and_what_is_no_row_is_said(tmp_path: Path) -> None:
    from aegis_tools.soak.columns import HEADER, format_row

    source, target = tmp_path / "samples.csv", tmp_path / "plot.png"
    samples = Story(600, 5).run(600).samples
    source.write_text(HEADER + "".join(map(format_row, samples)) + "nonsense\n17,")
    done = run(source, target)
    assert done.returncode == 0
    assert "line 123 is no row" in done.stderr
    assert len(columns_with(pixels(target.read_bytes())[2][340:640], BLUE)) > 500


def test_one_row_is_enough_and_any_time_is_taken(tmp_path: Path) -> None:
    source, target = tmp_path / "metrics.csv", tmp_path / "plot.png"
    for times in (["5"], ["0", "99999999999999999999"], ["7", "7"], ["9", "3"]):
        source.write_text(",".join(SEED) + "\n" + "".join(f"{t},1,2,0,0,0,0,0\n" for t in times))
        done = run(source, target)
        assert (done.returncode, done.stderr) == (0, ""), times
        pixels(target.read_bytes())


@pytest.mark.parametrize("content", [None, "", "timestamp\n", ",".join(SEED) + "\n"])
def test_nothing_to_plot_is_said_and_replaces_nothing(tmp_path: Path, content: str | None) -> None:
    source, target = tmp_path / "metrics.csv", tmp_path / "plot.png"
    target.write_bytes(b"before")
    if content is not None:
        source.write_text(content)
    done = run(source, target)
    assert done.returncode == 2
    assert "next: collect metrics with scripts/soak_monitor.sh" in done.stderr
    assert target.read_bytes() == b"before"


def seed_file(folder: Path, *rows: str, step: int = 600) -> Path:
    """Write rows of the seed's columns after the time, so many seconds apart."""
    path = folder / "metrics.csv"
    lines = [f"{step * (number + 1)},{row}\n" for number, row in enumerate(rows)]
    path.write_text(",".join(SEED) + "\n" + "".join(lines))
    return path


def test_a_plot_replaces_nothing_but_a_file_and_names_what_is_in_the_way(tmp_path: Path) -> None:
    source, target, victim = seed_file(tmp_path, ALIVE), tmp_path / "plot", tmp_path / "victim"
    victim.write_text("mine")
    target.symlink_to(victim)
    done = run(source, target)
    assert (done.returncode, done.stdout) == (2, "")
    assert f"cannot write the plot to {target}: it is a symbolic link" in done.stderr
    assert "--verbose" not in done.stderr
    assert target.is_symlink()
    assert victim.read_text() == "mine"


def test_a_plot_never_replaces_what_it_is_made_of(tmp_path: Path) -> None:
    source = seed_file(tmp_path, ALIVE)
    text = source.read_text()
    for target in (source, tmp_path / "." / "metrics.csv"):
        done = run(source, target)
        assert done.returncode == 2
        assert "it would replace the file that is read" in done.stderr
    assert source.read_text() == text


def test_a_plot_replaces_a_file(tmp_path: Path) -> None:
    target = tmp_path / "plot.png"
    target.write_text("old")
    assert run(seed_file(tmp_path, ALIVE), target).returncode == 0
    pixels(target.read_bytes())


def plotted(folder: Path, *rows: str, step: int = 600) -> list[bytes]:
    """Return the rows of the plot of such rows."""
    target = folder / "plot.png"
    done = run(seed_file(folder, *rows, step=step), target)
    assert (done.returncode, done.stderr) == (0, "")
    return pixels(target.read_bytes())[2]


ALIVE, GONE = "1,2,0,5,0,0,0", "DAEMON_DEAD,0,0,7,0,0,0"
CPU, MEMORY, DROPS = slice(50, 289), slice(383, 622), slice(716, 955)
PLOTS = (CPU, MEMORY, DROPS)


def test_drops_that_a_row_has_are_drawn_although_the_agent_is_dead(tmp_path: Path) -> None:
    rows = plotted(tmp_path, *[GONE] * 30)
    assert columns_with(rows[CPU], BLUE) == columns_with(rows[MEMORY], BLUE) == []
    line = columns_with(rows[DROPS], BLUE)
    assert line[-1] - line[0] > 1000
    assert max(b - a for a, b in pairwise(line)) == 1, "the line has holes"


@pytest.mark.parametrize("rows", [[ALIVE], [ALIVE, *[GONE] * 9, ALIVE, *[GONE] * 9]])
def test_a_row_alone_is_a_dot_that_can_be_seen(rows: list[str], tmp_path: Path) -> None:
    found = plotted(tmp_path, *rows)
    for plot in PLOTS[:2]:
        columns = columns_with(found[plot], BLUE)
        dots = 1 + sum(b - a > 1 for a, b in pairwise(columns))
        assert dots == rows.count(ALIVE)
        assert 7 <= len(columns) / dots <= 9


def test_labels_of_times_lie_within_the_picture(tmp_path: Path) -> None:
    rows = plotted(tmp_path, *[ALIVE] * 10, step=10)  # with a mark at its end
    for plot in PLOTS:
        below = rows[plot.stop + 8 : plot.stop + 26]
        inked = [n for n in range(1200) if any(row[3 * n : 3 * n + 3] == SOFT for row in below)]
        last = [n for n in inked if n > 1102]
        canvas = Canvas(100, 20)
        canvas.text(0, 0, "00:01:40", (89, 98, 108))
        shape = columns_with(pixels(canvas.png())[2], (89, 98, 108))
        assert [n - last[0] for n in last] == [n - shape[0] for n in shape]


def test_the_axis_of_time_says_that_it_is_utc(tmp_path: Path) -> None:
    rows = plotted(tmp_path, *[ALIVE] * 10)
    canvas = Canvas(36, 14)
    canvas.text(0, 0, "UTC", (89, 98, 108))
    word = pixels(canvas.png())[2]
    for plot in PLOTS:
        at = plot.stop + 10
        corner = [row[:180] for row in rows[at - 4 : at + 22]]
        assert any(
            all(corner[down + n][3 * x : 3 * x + 108] == word[n] for n in range(14))
            for down in range(12)
            for x in range(24)
        )


def test_every_character_has_a_shape_of_its_own() -> None:
    shapes = set()
    for code in range(ord(" "), ord("z") + 1):
        canvas = Canvas(6, 8)
        canvas.text(0, 0, chr(code), (0, 0, 0), size=1)
        shapes.add(canvas.png())
    assert len(shapes) == ord("z") - ord(" ") + 1
