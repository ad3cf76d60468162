"""The DSC of cases by the size of a structure, the distance of slices, and where they are from."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from meddino.evaluate.failures import cases, strata
from meddino.evaluate.failures.options import Failures
from meddino.evaluate.failures.summaries import ALL, Row, dsc_values, summary

THIRDS = ("smallest third", "middle third", "largest third")
"""Bins of all structures together, each by its own volumes."""


class Split(NamedTuple):
    """A way to sort the cases of a benchmark into bins.

    Attributes:
        by: what they are sorted by.
        names: of the bins.
        places: number of the bin of each case (rows) and structure (columns); -1 in none.
    """

    by: str
    names: Sequence[str]
    places: pd.DataFrame


def by_group(
    options: Failures, scores: pd.DataFrame, facts: dict[Any, pd.DataFrame]
) -> Iterator[Row]:
    """DSC of each run and structure in each bin that holds a case."""
    for benchmark, of_benchmark in scores.groupby("benchmark", sort=False):
        volumes = of_benchmark.drop_duplicates(["case", "structure"]).pivot(
            index="case", columns="structure", values="reference_ml"
        )
        edges = options.size_edges_ml.get(str(benchmark), {})
        ways = [
            *by_facts(options, facts[benchmark], volumes),
            by_size(volumes, edges),
            by_thirds(volumes),
        ]
        for method, of_run in of_benchmark.groupby("method", sort=False):
            keys = {"benchmark": benchmark, "method": method}
            yield from (keys | row for way in ways for row in _binned(dsc_values(of_run), way))


def _binned(values: pd.DataFrame, way: Split) -> Iterator[Row]:
    """The bins of one run: of each structure, and of all where all have the same bins."""
    chosen = {str(name): values[[name]] for name in values}
    if way.by == "size":
        chosen = {ALL: values} if tuple(way.names) == THIRDS else chosen
    else:
        chosen = {ALL: values, **chosen}
    places = way.places.reindex(index=values.index)
    for structure, part in chosen.items():
        names = way.names
        if structure != ALL and way.by == "size":
            names = way.places.attrs["names"][structure]
        for place, name in enumerate(names):
            row = summary(part.where(places[part.columns] == place))
            if row["cases"]:
                yield {"structure": structure, "by": way.by, "place": place, "bin": name, **row}


def by_facts(options: Failures, facts: pd.DataFrame, volumes: pd.DataFrame) -> list[Split]:
    """By distance of slices, modality, source and metadata: the same bins for all structures."""
    facts = facts.loc[volumes.index]
    edges = options.spacing_edges_mm
    distance = strata.places(facts["slice_distance_mm"].to_numpy(), edges)
    ways = [("slice distance", strata.names(edges, "mm"), distance)]
    for by, values in cases.splits(facts).items():
        names = sorted(values.unique(), key=lambda name: (name == cases.UNKNOWN, name))
        ways.append((by, names, np.array([names.index(value) for value in values])))
    return [
        Split(by, names, pd.DataFrame(dict.fromkeys(volumes, places), index=volumes.index))
        for by, names, places in ways
    ]


def by_size(volumes: pd.DataFrame, edges_ml: dict[str, tuple[float, ...]]) -> Split:
    """By reference volume, in the bins of each structure: edges that are set, or tertiles.

    Args:
        volumes: cases by structures (ml), 0 where a case lacks a structure.
        edges_ml: structure -> edges.
    """
    places, names = {}, {}
    for structure, column in volumes.items():
        present = column[column > 0].to_numpy()
        edges = edges_ml.get(str(structure)) or (strata.tertiles(present) if len(present) else ())
        places[structure] = np.where(column > 0, strata.places(column.to_numpy(), edges), -1)
        names[str(structure)] = strata.names(edges, "ml")
    table = pd.DataFrame(places, index=volumes.index)
    table.attrs["names"] = names
    return Split("size", (), table)


def by_thirds(volumes: pd.DataFrame) -> Split:
    """By reference volume, each structure by its own tertiles, for all structures together."""
    return Split("size", THIRDS, by_size(volumes, {}).places)
