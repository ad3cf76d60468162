"""Mermaid flowcharts as SVG, drawn when the site is built.

GitHub draws a `mermaid` fence itself. The site's theme would load a script from the web for it, and
the site is to work without any. What is understood is what the docs use: nodes `id[a<br>b]`, links
`a & b --> c --> d`, and dotted ones with words, `a -. words .-> b`.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from html import escape
from itertools import pairwise

LINE_PX, PAD_PX, CHAR_PX = 15, 9, 6.6
COLUMN_GAP_PX, ROW_GAP_PX = 22, 34
SWEEPS = 24
"""How often the order within rows is improved."""
MOST_LINKS = 40
"""From how many links on those are left out that others imply."""

_LINK = re.compile(r"\s*(-->|-\.\s*(.*?)\s*\.->)\s*")
_NODE = re.compile(r"(\w+)(?:\[(.*?)\])?$")


@dataclass
class Chart:
    """Nodes with their lines of text, and links from, to, with words (None if solid)."""

    text: dict[str, list[str]] = field(default_factory=dict)
    links: list[tuple[str, str, str | None]] = field(default_factory=list)


def parse(source: str) -> Chart:
    """Read a flowchart.

    Raises:
        ValueError: a line is none that is understood here.
    """
    chart = Chart()
    for line in source.strip().splitlines()[1:]:
        parts = _LINK.split(line.strip())
        groups = [[_node(chart, each) for each in part.split(" & ")] for part in parts[::3]]
        for (before, after), said in zip(pairwise(groups), parts[2::3], strict=True):
            chart.links += [(a, b, said) for a in before for b in after]
    return chart


def _node(chart: Chart, text: str) -> str:
    match = _NODE.match(text.strip())
    if match is None:
        raise ValueError(f"not a node of a flowchart: {text!r}")
    if match[2] or match[1] not in chart.text:
        chart.text[match[1]] = (match[2] or match[1]).split("<br>")
    return match[1]


def reduced(chart: Chart) -> Chart:
    """Without solid links that a longer way implies, as those only make the picture dense."""
    after: dict[str, set[str]] = {name: set() for name in chart.text}
    for a, b, _ in chart.links:
        after[a].add(b)

    def reach(start: str) -> set[str]:
        seen: set[str] = set()
        queue = list(after[start])
        while queue:
            if (name := queue.pop()) not in seen:
                seen.add(name)
                queue += after[name]
        return seen

    beyond = {name: reach(name) for name in chart.text}
    kept = [
        (a, b, said)
        for a, b, said in chart.links
        if said is not None or not any(b in beyond[c] for c in after[a] - {b})
    ]
    return Chart(chart.text, kept)


def rows_of(chart: Chart) -> dict[str, int]:
    """The row of each node: one below the lowest that it follows, but close above what it leads to.

    Raises:
        ValueError: the links go round in a circle.
    """
    row = dict.fromkeys(chart.text, 0)
    for _ in range(len(row) + 1):
        changed = [b for a, b, _ in chart.links if row[b] <= row[a]]
        for a, b, _ in chart.links:
            row[b] = max(row[b], row[a] + 1)
        if not changed:
            break
    else:
        raise ValueError("the links of a flowchart go round in a circle")
    for name in sorted(row, key=lambda n: -row[n]):
        below = [row[b] for a, b, _ in chart.links if a == name]
        if below:
            row[name] = min(below) - 1
    return row


Place = tuple[int, str]
"""A node, or a link passing through a row: the row and a name."""


def _passing(chart: Chart, row: dict[str, int]) -> Iterator[list[Place]]:
    """For each link the places that it runs through, from node to node."""
    for number, (a, b, _) in enumerate(chart.links):
        through = [(r, f">{number}") for r in range(row[a] + 1, row[b])]
        yield [(row[a], a), *through, (row[b], b)]


def _ordered(ways: list[list[Place]], rows: list[list[Place]]) -> list[list[Place]]:
    """Order each row by where its neighbours are, to and fro, until few links cross."""
    near: dict[Place, list[Place]] = {}
    for way in ways:
        for a, b in pairwise(way):
            near.setdefault(a, []).append(b)
            near.setdefault(b, []).append(a)
    best, fewest = [list(row) for row in rows], float("inf")
    for sweep in range(SWEEPS):
        at = {p: (i + 0.5) / len(row) for row in rows for i, p in enumerate(row)}
        crossed = _crossings(ways, at)
        if crossed < fewest:
            best, fewest = [list(row) for row in rows], crossed
        step = 1 if sweep % 2 else -1
        for number in range(len(rows))[::step]:
            side = {
                p: [at[q] for q in near.get(p, []) if (q[0] - p[0]) * step < 0]
                for p in rows[number]
            }
            rows[number].sort(key=lambda p: sum(side[p]) / len(side[p]) if side[p] else at[p])
            at |= {p: (i + 0.5) / len(rows[number]) for i, p in enumerate(rows[number])}
    return best


def _crossings(ways: Iterable[list[Place]], at: dict[Place, float]) -> int:
    steps: dict[int, list[tuple[float, float]]] = {}
    for way in ways:
        for a, b in pairwise(way):
            steps.setdefault(a[0], []).append((at[a], at[b]))
    return sum((a - c) * (b - d) < 0 for each in steps.values() for a, b in each for c, d in each)


def _width(chart: Chart, place: Place) -> float:
    if place[1] not in chart.text:
        return 6
    return max(len(line) for line in chart.text[place[1]]) * CHAR_PX + 2 * PAD_PX


def _columns(chart: Chart, rows: list[list[Place]], ways: list[list[Place]]) -> dict[Place, float]:
    """Middle of each place across: near its neighbours, and beside the others of its row."""
    x: dict[Place, float] = {}
    for row in rows:
        left = 0.0
        for place in row:
            x[place] = left + _width(chart, place) / 2
            left += _width(chart, place) + COLUMN_GAP_PX
    near: dict[Place, list[Place]] = {}
    for way in ways:
        for a, b in pairwise(way):
            near.setdefault(a, []).append(b)
            near.setdefault(b, []).append(a)
    for _ in range(60):
        for row in rows:
            wish = [sum(x[q] for q in near[p]) / len(near[p]) if near.get(p) else x[p] for p in row]
            for place, middle in zip(row, _apart(chart, row, wish), strict=True):
                x[place] = middle
    left = min(x[p] - _width(chart, p) / 2 for p in x)
    return {place: value - left for place, value in x.items()}


def _apart(chart: Chart, row: list[Place], wish: list[float]) -> list[float]:
    """Middles as near to `wish` as order and widths let them be (least squares, by pooling)."""
    offsets = [0.0]
    for a, b in pairwise(row):
        offsets.append(offsets[-1] + (_width(chart, a) + _width(chart, b)) / 2 + COLUMN_GAP_PX)
    blocks: list[list[float]] = []
    for value in (w - o for w, o in zip(wish, offsets, strict=True)):
        blocks.append([value, 1])
        while len(blocks) > 1 and blocks[-2][0] > blocks[-1][0]:
            (b, m), (a, n) = blocks.pop(), blocks.pop()
            blocks.append([(a * n + b * m) / (n + m), n + m])
    moved = [value for value, count in blocks for _ in range(int(count))]
    return [value + o for value, o in zip(moved, offsets, strict=True)]


def draw(source: str, title: str) -> str:
    """Draw a flowchart, from top to bottom.

    Args:
        source: what stands in the fence.
        title: what it shows, for who cannot see it.

    Returns:
        One `<svg>`, without blank lines, and what it leaves out; its colours are those of the page
        (assets/site.css).
    """
    chart = parse(source)
    if dense := len(chart.links) > MOST_LINKS:
        chart = reduced(chart)
    row = rows_of(chart)
    ways = list(_passing(chart, row))
    rows: list[list[Place]] = [[] for _ in range(max(row.values()) + 1)]
    for place in dict.fromkeys([(r, n) for n, r in row.items()] + [p for way in ways for p in way]):
        rows[place[0]].append(place)
    rows = _ordered(ways, rows)
    x = _columns(chart, rows, ways)
    high = [
        max(len(chart.text.get(name, [""])) for _, name in each) * LINE_PX + PAD_PX for each in rows
    ]
    top = [sum(high[:r]) + r * ROW_GAP_PX + 2 for r in range(len(rows))]
    width = max(x[p] + _width(chart, p) / 2 for p in x) + 4
    height = top[-1] + high[-1] + 4
    lines = [
        f'<svg class="flowchart" role="img" viewBox="-2 0 {width:.0f} {height:.0f}" '
        f'style="max-width:{width:.0f}px" xmlns="http://www.w3.org/2000/svg">',
        f"<title>{escape(title)}</title>",
    ]
    for way, (_, _, said) in zip(ways, chart.links, strict=True):
        lines += _link(way, x, top, high, said)
    for place in (p for each in rows for p in each if p[1] in chart.text):
        lines += _box(chart, place, x[place], top[place[0]], high[place[0]])
    said = ["<p>Arrows that a longer way implies are left out.</p>"] if dense else []
    return "\n".join([*lines, "</svg>", *said])


def _link(
    way: list[Place], x: dict[Place, float], top: list[float], high: list[float], said: str | None
) -> Iterator[str]:
    path = f"M{x[way[0]]:.1f} {top[way[0][0]] + high[way[0][0]]:.1f}"
    for a, b in pairwise(way):
        y, end = top[a[0]] + high[a[0]], top[b[0]] - (4 if b is way[-1] else 0)
        bend = (y + end) / 2
        path += f"C{x[a]:.1f} {bend:.1f} {x[b]:.1f} {bend:.1f} {x[b]:.1f} {end:.1f}"
        if b is not way[-1]:
            path += f"V{top[b[0]] + high[b[0]]:.1f}"
    yield f'<path class="{"link" if said is None else "link dotted"}" d="{path}"/>'
    tip_x, tip_y = x[way[-1]], top[way[-1][0]]
    yield f'<path class="tip" d="M{tip_x:.1f} {tip_y:.1f}l-4 -7h8z"/>'
    if said:
        middle = way[len(way) // 2]
        y = top[middle[0]] - ROW_GAP_PX / 2 + 4
        along = (x[middle] + x[way[0]]) / 2 + 6
        yield f'<text class="said" x="{along:.1f}" y="{y:.1f}">{escape(said)}</text>'


def _box(chart: Chart, place: Place, x: float, y: float, high: float) -> Iterator[str]:
    width, lines = _width(chart, place), chart.text[place[1]]
    yield (
        f'<rect class="box" x="{x - width / 2:.1f}" y="{y:.1f}" width="{width:.1f}"'
        f' height="{high:.1f}" rx="4"/>'
    )
    first = y + high / 2 - (len(lines) - 1) * LINE_PX / 2 + 4
    for number, line in enumerate(lines):
        kind = "name" if number == 0 else "more"
        yield (
            f'<text class="{kind}" x="{x:.1f}" y="{first + number * LINE_PX:.1f}">'
            f"{escape(line)}</text>"
        )
