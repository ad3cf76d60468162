"""The chart of ranks: how often each method has each rank, as discs with their shares."""

import altair as alt

from meddino.report.page.charts.chart import Chart, Row, specification

LINE = 46
"""Height of a method's row (px)."""
LARGEST = 1300
"""Area of the disc of a rank that a method always has (px)."""


def stability(rows: list[Row], order: list[str], title: str) -> Chart:
    """Methods by rank: a disc's area is the share of draws, written on it in %.

    Args:
        rows: `method`, `place` (rank), `share` (%), those of 0 left out.
        order: names of the methods, the best first.
        title: the column of the table, for screen readers.
    """
    base = alt.Chart(alt.InlineData(values=rows)).encode(
        x=alt.X(
            "place:O",
            title="Rank",
            scale=alt.Scale(domain=list(range(1, len(order) + 1))),
            axis=alt.Axis(labelAngle=0),
        ),
        y=alt.Y("method:N", title=None, sort=order, axis=alt.Axis(labelLimit=170)),
        tooltip=[
            alt.Tooltip("method:N"),
            alt.Tooltip("place:O", title="rank"),
            alt.Tooltip("share:Q", title="% of draws", format=".1f"),
        ],
    )
    discs = base.mark_circle(fill="var(--shade)", opacity=0.75).encode(
        size=alt.Size("share:Q", scale=alt.Scale(domain=[0, 100], range=[0, LARGEST]), legend=None)
    )
    texts = base.mark_text(fontSize=11, fill="var(--ink)").encode(
        text=alt.Text("share:Q", format=".0f")
    )
    chart = alt.layer(discs, texts).properties(width="container", height=LINE * len(order))
    columns = [("method", "Method"), ("place", "Rank"), ("share", "% of draws")]
    describe = f"How often each method has each rank, {title}"
    return Chart(specification(chart, describe), [], columns, 190 + 40 * len(order))
