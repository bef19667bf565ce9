"""Which sizes of a product fit the tiles of a GPU."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle

import plotly.graph_objects as go

from mixlab.figures.theme import BELOW, escaped, styled
from mixlab.reports.colours import DASHES, SERIES


def useful_shares(sizes: Sequence[int], shares: Mapping[str, Sequence[float]], *, title: str) -> go.Figure:
    """Draws, over the sizes of products, the share of the work that is not padding or waiting.

    Args:
        sizes: The size of each product, from left to right.
        shares: A name, and the share at each size, for each line; such as from `mixlab.matmul.useful_share`.
        title: What the products are.

    Raises:
        ValueError: If there is no line, or a line has not as many shares as there are sizes.
    """
    if not shares:
        raise ValueError("useful_shares: shares is empty; give at least one line")
    figure = go.Figure()
    for (name, line), colour, dash in zip(shares.items(), cycle(SERIES), cycle(DASHES), strict=False):
        if len(line) != len(sizes):
            raise ValueError(f"useful_shares: {name} has {len(line)} shares for {len(sizes)} sizes; give as many")
        figure.add_scatter(
            name=escaped(name), x=list(sizes), y=list(line), line={"color": colour, "dash": dash, "width": 2}
        )
    each = (f"{name} from {min(line):.0%} to {max(line):.0%}" for name, line in shares.items())
    summary = f"Useful shares at sizes {min(sizes)} to {max(sizes)}: {'; '.join(each)}."
    figure = styled(figure, title=escaped(title), summary=summary)
    figure.update_layout(legend=BELOW)
    figure.update_yaxes(title="useful share", tickformat=".0%", range=[0, 1.05])
    return figure.update_xaxes(title="size")
