"""The HTML page of a story: one file that needs nothing else.

Tables and figures are static HTML, so that it can be read where no script runs; timeline.js adds
the timeline, tables.js the sorting of tables. Nothing of the story gets into the page but through
`escape` (HTML) or `_script_json` (the data for the script), which leave no "<" as it is.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterable
from html import escape
from pathlib import Path

from mlaunch import __version__
from mlaunch.report import summary
from mlaunch.report.story import NUMBERS, Bar, Story, plain
from mlaunch.report.summary import Sum

# How many programs have a colour of their own; page.css has as many.
COLOURS = 8

SLOWEST = 20
MOST_PROGRAMS = 60
PARTS = 160

_ASSETS = Path(__file__).parent
_SAFE = re.compile(r"[\w@%+=:,./-]+", re.ASCII)


def html(story: Story) -> str:
    """Return the page."""
    name = command(story.argv)
    programs = summary.by_program(story)
    body = "\n".join(
        [
            _head(story, name),
            _tiles(story),
            _timeline(programs),
            _nodes(story),
            _slowest(story),
            _programs(programs),
            f"<footer>Made by mlaunch {escape(__version__)}.</footer>",
            f'<script type="application/json" id="story">{_script_json(_data(story, programs))}'
            "</script>",
            f"<script>{_asset('tables.js')}</script>",
            f"<script>{_asset('timeline.js')}</script>",
        ]
    )
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; '
        "style-src 'unsafe-inline'; script-src 'unsafe-inline'\">\n"
        f"<title>{escape(name[:80])} – mlaunch report</title>\n"
        f"<style>{_asset('page.css')}</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n"
    )


def _asset(name: str) -> str:
    return (_ASSETS / name).read_text(encoding="utf-8")


def command(argv: Iterable[str]) -> str:
    """Return a command line as one could type it, with nothing in it that steers a terminal."""
    return " ".join(
        word if _SAFE.fullmatch(word) else "'" + plain(word).replace("'", "'\\''") + "'"
        for word in argv
    )


# head


def _head(story: Story, name: str) -> str:
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(story.began))
    if story.signal is not None:
        end = f"died by signal {story.signal}"
    elif story.exit:
        end = f"exit {story.exit}"
    else:
        end = "exit 0"
    good = "good" if story.exit == 0 else "bad"
    return (
        f"<header><h1><code>{escape(name)}</code></h1>"
        f'<p><span class="{good}">{end}</span> · {when} · under mrun</p></header>'
    )


def _tiles(story: Story) -> str:
    away = summary.total(bar for bar in story.bars if bar.away)
    wall_s = story.wall_us / 1e6
    gain = (story.home_cpu_s + away.cpu_s) / wall_s
    lost = sum(bar.end == "lost" for bar in story.bars)
    tiles = [
        ("Wall time", seconds(wall_s), ""),
        ("CPU on nodes", seconds(away.cpu_s), f"{summary.bodies(story):,} bodies"),
        ("CPU at home", seconds(story.home_cpu_s), "of the program and its children"),
        ("Gain", f"{gain:.2f}×", "CPU time per wall time"),
        ("Round trips", f"{away.round_trips:,}", "for which bodies waited"),
        ("Sent to nodes", size(away.bytes_to_node), f"{size(away.bytes_to_home)} came back"),
    ]
    moves = [bar.numbers for bar in story.bars if bar.end == "moved"]
    if moves:
        frozen_s = sum(numbers.get("frozen_ms", 0.0) for numbers in moves) / 1000
        tiles.append(("Moves", str(len(moves)), f"{seconds(frozen_s)} frozen, all together"))
    if lost:
        tiles.append(("Lost", str(lost), "bodies whose node was lost"))
    cells = "".join(
        f"<div><dt>{label}</dt><dd>{value}</dd><dd>{note}</dd></div>"
        for label, value, note in tiles
    )
    return f'<dl class="tiles">{cells}</dl>'


def _timeline(programs: list[Sum]) -> str:
    chips = "".join(
        f'<button type="button" class="chip" data-find="{escape(each.name)}">'
        f'<i style="background:var(--c{number})"></i>{escape(each.name)}</button>'
        for number, each in enumerate(programs[:COLOURS])
    )
    return (
        '<section id="timeline" hidden><h2>Timeline</h2>'
        '<div class="tools"><input type="search" id="find" placeholder="Find program or argument"'
        ' aria-label="Find program or argument"><span id="found" role="status"></span>'
        f'<span class="chips">{chips}<span class="chip"><i style="background:var(--other)"></i>'
        'others</span></span><span class="zoom">'
        '<button type="button" id="out" title="Zoom out (−)">−</button>'
        '<button type="button" id="in" title="Zoom in (+)">+</button>'
        '<button type="button" id="all" title="Whole run (0)">Whole run</button></span></div>'
        '<div id="stage"><canvas id="canvas" tabindex="0" role="img" aria-label="Timeline of the'
        ' run; the tables below say the same"></canvas><div id="tip" hidden></div></div>'
        '<p class="hint">Wheel or + − zooms, drag or arrow keys move, a click selects, a double'
        " click zooms to a bar; / finds, n shows the next, 0 the whole run. Above each node’s"
        " bars: programs that run (light) and CPUs they use on average (dark).</p>"
        '<div id="details" hidden></div></section>'
        "<noscript><p>The timeline needs JavaScript; the tables do not.</p></noscript>"
    )


# tables


def _table(caption: str, columns: list[tuple[str, bool]], rows: Iterable[list[str]]) -> str:
    """Return a table; columns are a name and whether they hold numbers, cells are HTML."""
    head = "".join(f'<th{_right(number)} scope="col">{name}</th>' for name, number in columns)
    body = "".join(f"<tr>{''.join(row)}</tr>" for row in rows)
    return (
        f'<section><h2>{caption}</h2><div class="wide"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div></section>"
    )


def _right(number: bool) -> str:
    return ' class="n"' if number else ""


def _text(text: str, inside: str = "") -> str:
    return f"<td>{inside or escape(text)}</td>"


def _number(value: float, text: str) -> str:
    """Return a cell that sorts by its value."""
    return f'<td class="n" data-v="{value:g}">{text}</td>'


def _traffic(each: Sum) -> list[str]:
    return [
        _number(each.round_trips, f"{each.round_trips:,}"),
        _number(each.bytes_to_node, size(each.bytes_to_node)),
        _number(each.bytes_to_home, size(each.bytes_to_home)),
    ]


_TRAFFIC = [("round trips", True), ("to nodes", True), ("to home", True)]


def _nodes(story: Story) -> str:
    rows = []
    for number, each in enumerate(summary.by_node(story)):
        most = max(story.lanes[number], 1)
        rows.append(
            [
                f'<th scope="row">{escape(each.name)}</th>',
                _number(each.bars, f"{each.bars:,}"),
                _number(story.lanes[number], str(story.lanes[number])),
                _number(each.cpu_s, seconds(each.cpu_s)),
                _number(each.cpu_s, f"{each.cpu_s * 1e6 / story.wall_us:.2f}"),
                *_traffic(each),
                f"<td>{_sparkline(summary.use(story, number, PARTS), most)}</td>",
            ]
        )
    columns = [
        ("node", False),
        ("programs", True),
        ("at once", True),
        ("CPU", True),
        ("CPUs used", True),
        *_TRAFFIC,
        ("over time", False),
    ]
    return _table("Nodes", columns, rows)


def _sparkline(use: summary.Use, most: int) -> str:
    """Return a small picture of programs that ran, and of CPUs that they used."""
    paths = []
    for kind, values in (("running", use.running), ("cpu", use.cpu)):
        points = " ".join(f"{x},{28 - 26 * value / most:.1f}" for x, value in enumerate(values))
        paths.append(f'<polygon class="{kind}" points="0,28 {points} {len(values) - 1},28"/>')
    return (
        f'<svg class="spark" viewBox="0 0 {PARTS} 28" preserveAspectRatio="none" role="img"'
        f' aria-label="programs that run, at most {most}, over time">{"".join(paths)}</svg>'
    )


def _slowest(story: Story) -> str:
    rows = []
    for number in summary.slowest(story, SLOWEST):
        bar = story.bars[number]
        line = command(bar.argv)
        # What a compiler compiles is at the end.
        cut = line if len(line) <= 170 else f"{line[:110]} … {line[-55:]}"
        rows.append(
            [
                f'<td data-bar="{number}"><code>{escape(cut)}</code></td>',
                _text(story.nodes[bar.node]),
                _number(bar.begin, seconds(bar.begin / 1e6)),
                _number(bar.dur, seconds(bar.dur / 1e6)),
                _number(bar.numbers.get("cpu_s", 0), _cpu(bar)),
                *_traffic(summary.total([bar])),
                _text("", _ending(bar)),
                f'<td class="why">{escape(bar.why)}</td>',
            ]
        )
    columns = [
        ("command", False),
        ("node", False),
        ("began at", True),
        ("took", True),
        ("CPU", True),
        *_TRAFFIC,
        ("end", False),
        ("why there", False),
    ]
    return _table("Slowest", columns, rows)


def _cpu(bar: Bar) -> str:
    return seconds(bar.numbers["cpu_s"]) if "cpu_s" in bar.numbers else "?"


def _ending(bar: Bar) -> str:
    if bar.status is None:
        text = bar.end
    else:
        text = f"signal {-bar.status}" if bar.status < 0 else f"exit {bar.status}"
    return f'<span class="end{" bad" if bar.failed else ""}">{escape(text)}</span>'


def _programs(programs: list[Sum]) -> str:
    most = max([each.cpu_s for each in programs], default=0.0) or 1.0
    rows = []
    for number, each in enumerate(programs[:MOST_PROGRAMS]):
        colour = f"--c{number}" if number < COLOURS else "--other"
        share = f'<i class="share" style="width:{70 * each.cpu_s / most:.0f}px"></i>'
        rows.append(
            [
                f'<th scope="row"><i style="background:var({colour})"></i>{escape(each.name)}</th>',
                _number(each.bars, f"{each.bars:,}"),
                _number(each.away, f"{each.away:,}"),
                _number(each.failed, f"{each.failed:,}" if each.failed else ""),
                _number(each.cpu_s, f"{share}{seconds(each.cpu_s)}"),
                _number(each.wall_s / each.bars, seconds(each.wall_s / each.bars)),
                _number(each.longest_s, seconds(each.longest_s)),
                *_traffic(each),
            ]
        )
    columns = [
        ("program", False),
        ("ran", True),
        ("on nodes", True),
        ("failed", True),
        ("CPU", True),
        ("mean", True),
        ("longest", True),
        *_TRAFFIC,
    ]
    caption = "Programs"
    if len(programs) > MOST_PROGRAMS:
        caption += f" <small>the first {MOST_PROGRAMS} of {len(programs)}</small>"
    return _table(caption, columns, rows)


# data for the script


def _script_json(value: object) -> str:
    """Return JSON that cannot end the element that it stands in, nor begin another."""
    text = json.dumps(value, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _data(story: Story, programs: list[Sum]) -> dict[str, object]:
    """Return the bars as columns, which is short; texts that come again are told once."""
    names = {each.name: number for number, each in enumerate(programs)}
    whys: dict[str, int] = {}
    columns: dict[str, list[object]] = {}
    for bar in story.bars:
        row = {
            "node": bar.node,
            "lane": bar.lane,
            "begin": bar.begin,
            "dur": bar.dur,
            "program": names[bar.program],
            "argv": command(bar.argv),
            "pid": bar.pid,
            "why": whys.setdefault(bar.why, len(whys)),
            "end": bar.end,
            "status": bar.status,
            **{name: bar.numbers.get(name) for name in NUMBERS},
        }
        for name, value in row.items():
            columns.setdefault(name, []).append(value)
    return {
        "wall": story.wall_us,
        "nodes": story.nodes,
        "lanes": story.lanes,
        "programs": list(names),
        "colours": COLOURS,
        "whys": list(whys),
        "bars": columns,
        "arrows": [[arrow.kind, arrow.source, arrow.target] for arrow in story.arrows],
    }


# numbers


def seconds(value: float) -> str:
    """Return a time as one reads it."""
    if value < 0.9995:
        return f"{value * 1e3:.0f} ms"
    if value < 99.5:
        return f"{value:.1f} s" if value >= 9.95 else f"{value:.2f} s"
    minutes, rest = divmod(round(value), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s"


def size(value: float) -> str:
    """Return bytes as one reads them."""
    for unit in ("B", "KiB", "MiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if value >= 10 or unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} GiB"
