"""The section `transfer`: methods trained on one benchmark and tested on another."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from meddino.core.options import Options
from meddino.finetune.options import Benchmark, Method
from meddino.report.options import Table

NAME = "transfer"
"""Name of the table."""
Structures = Annotated[
    tuple[str, ...], BeforeValidator(lambda names: [names] if isinstance(names, str) else names)
]


class Pair(Options):
    """Two benchmarks, and which of their structures are the same."""

    train: str
    """Benchmark that the methods are trained on."""
    test: str
    """Benchmark that they are tested on, without any training on it."""
    structures: dict[str, Structures | None] = {}
    """Structure of `test` -> the one of `train`, or several that make it up; null leaves it out.
    Structures that are not named here are shared where both benchmarks have one of that name."""
    in_domain: bool = True
    """Whether the methods are trained on `test` as well, so that there is a drop, on the validation
    cases of `folds`. If not, `test` is for tests alone: each model segments all of its cases."""
    modalities: tuple[Literal["CT", "MR"], ...] | None = Field(None, min_length=1)
    """Which cases of `test` count; null: those of the modalities that both benchmarks have. A
    change predicts nothing anew."""


class Transfer(Options):
    """Methods trained on one benchmark and tested on another (not in the paper)."""

    title: str = "Transfer: trained on one benchmark, tested on another"
    """Heading."""
    methods: tuple[str, ...] = Field(min_length=1)
    """Methods, in order."""
    pairs: tuple[Pair, ...] = Field(min_length=1)
    """Pairs of benchmarks, in order."""
    metrics: tuple[Literal["DSC", "NSD"], ...] = Field(("DSC", "NSD"), min_length=1)
    """What is shown, in %."""
    protocol: Literal["paper", "area"] = "paper"
    """How it is counted; the CSV holds both."""
    compare_with: str | None = None
    """Method whose drop each other one's is compared with; where a pair has no drop, its result."""


def shared(pair: Pair, train: Benchmark, test: Benchmark) -> dict[str, tuple[str, ...]]:
    """The structures that are scored: of `test`, in its order -> what makes each up in `train`."""
    equal = {name: (name,) for name in test.names if name in train.names}
    scored = {name: pair.structures.get(name, equal.get(name)) for name in test.names}
    return {name: parts for name, parts in scored.items() if parts is not None}


def modalities(pair: Pair, train: Benchmark, test: Benchmark) -> tuple[Literal["CT", "MR"], ...]:
    """Modalities of the cases that count."""
    both = tuple(name for name in test.modalities if name in train.modalities)
    return both if pair.modalities is None else pair.modalities


def problems(
    transfer: Transfer | None,
    methods: Mapping[str, Method],
    benchmarks: Mapping[str, Benchmark],
    tables: Mapping[str, Table],
) -> Iterator[str]:
    """What does not fit: methods, benchmarks and structures that do not exist, and empty pairs."""
    if transfer is None:
        return
    if NAME in tables:
        yield f"tables.{NAME}: the table of section `{NAME}` has that name; choose another"
    yield from _methods(transfer, methods)
    for number, pair in enumerate(transfer.pairs):
        key = f"{NAME}.pairs.{number}"
        unknown = [name for name in (pair.train, pair.test) if name not in benchmarks]
        if unknown:
            yield f"{key}: no benchmark {unknown[0]!r} (known: {', '.join(benchmarks)})"
        elif pair.train == pair.test:
            yield f"{key}: {pair.test} is both trained on and tested; name two benchmarks"
        elif any((pair.train, pair.test) == (p.train, p.test) for p in transfer.pairs[:number]):
            yield f"{key}: {pair.train} to {pair.test} stands there twice; leave one out"
        else:
            yield from _structures(key, pair, benchmarks[pair.train], benchmarks[pair.test])


def _methods(transfer: Transfer, methods: Mapping[str, Method]) -> Iterator[str]:
    for method in transfer.methods:
        if method not in methods:
            yield f"{NAME}.methods: no method {method!r} (known: {', '.join(methods)})"
    if len(set(transfer.methods)) < len(transfer.methods):
        yield f"{NAME}.methods: one is named twice ({', '.join(transfer.methods)})"
    base, names = transfer.compare_with, transfer.methods
    if base is not None and (base not in names or len(names) < 2):
        yield (
            f"{NAME}.compare_with = {base!r}: must be one of several methods"
            f" ({', '.join(names)}); null compares none"
        )


def _structures(key: str, pair: Pair, train: Benchmark, test: Benchmark) -> Iterator[str]:
    """Structures that do not exist or stand for two, modalities without cases, and no structure."""
    named = {
        pair.test: (test, [*pair.structures]),
        pair.train: (train, [part for parts in pair.structures.values() for part in parts or ()]),
    }
    unknown = [
        f"{key}.structures: {benchmark} has no structure {name!r} ({_listed(options.names)})"
        for benchmark, (options, names) in named.items()
        for name in names
        if name not in options.names
    ]
    if unknown:
        yield from unknown
        return
    scored = shared(pair, train, test)
    used: list[str] = [part for parts in scored.values() for part in parts]
    for part in dict.fromkeys(part for part in used if used.count(part) > 1):
        names = " and ".join(name for name, parts in scored.items() if part in parts)
        yield (
            f"{key}.structures: {part} of {pair.train} cannot be {names} of {pair.test} at once;"
            " leave one out with null"
        )
    if not any(scored.values()):
        yield (
            f"{key}: {pair.train} ({_listed(train.names)}) and {pair.test} ({_listed(test.names)})"
            " share no structure; map some under `structures`"
        )
    elif empty := [name for name, parts in scored.items() if not parts]:
        yield f"{key}.structures: {empty[0]} is made up of nothing; null leaves it out"
    yield from _modalities(key, pair, train, test)


def _modalities(key: str, pair: Pair, train: Benchmark, test: Benchmark) -> Iterator[str]:
    absent = [name for name in pair.modalities or () if name not in test.modalities]
    if absent:
        yield (f"{key}.modalities: {pair.test} has no {absent[0]} ({', '.join(test.modalities)})")
    elif not modalities(pair, train, test):
        yield (
            f"{key}: {pair.train} ({', '.join(train.modalities)}) and {pair.test}"
            f" ({', '.join(test.modalities)}) share no modality; name those that count under"
            " `modalities`"
        )


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names)
