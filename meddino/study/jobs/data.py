"""Jobs of workflow/rules/data.smk: downloads, slices of CT-3M and their index."""

from pathlib import Path
from typing import Any, NamedTuple, Self

from meddino.core.errors import MeddinoError
from meddino.core.receipts import RAW
from meddino.ct3m.options import DuplicatesOptions, IndexOptions, SliceOptions
from meddino.datasets.options import FetchOptions, FreeOptions, Part
from meddino.datasets.phantom.options import PhantomOptions
from meddino.report.options import CardOptions
from meddino.study import paths, targets
from meddino.study.model import Study

VARIANTS = ("paper", "leak-free")
"""Variants of CT-3M that every study knows, beside those of `ct3m.variants`."""


def phantom_options(study: Study, dataset: str) -> PhantomOptions:
    """Options of `phantom`."""
    return PhantomOptions(dataset=dataset, **study.phantom[dataset].model_dump())


def fetch_options(study: Study, dataset: str, part: Part = "images") -> FetchOptions:
    """Options of `fetch`; `part` says which files matter of a dataset in a folder of yours."""
    entry = study.dataset(dataset)
    listing = study.listing(dataset)
    digest = None if listing is None else listing.digest(part)
    return FetchOptions.of(dataset, entry, part, digest)


class Piece(NamedTuple):
    """What one job fetches, uses and frees."""

    fetch: FetchOptions
    free: FreeOptions
    manifest: str
    receipt: str

    @classmethod
    def of(cls, study: Study, dataset: str, name: str, **changes: Any) -> Self:
        """A piece of a dataset, in a folder of its own."""
        fetch = fetch_options(study, dataset).model_copy(update=changes)
        manifest = paths.passing(study, dataset, name)
        receipt = str(Path(manifest).with_name(RAW))
        return cls(fetch, FreeOptions(dataset_name=dataset), manifest, receipt)


def piece(study: Study, dataset: str, chunk: str) -> Piece:
    """What a chunk of slices is cut from, where it is freed at once."""
    pieces = study.chunks(dataset)
    share = (int(chunk), pieces) if pieces > 1 else None
    return Piece.of(study, dataset, chunk, labels=(), piece=share)


def free_options(study: Study, dataset: str) -> FreeOptions:
    """Options of `free`."""
    return FreeOptions(dataset_name=dataset)


def fetch_inputs(study: Study, dataset: str) -> list[str]:
    """What must be made before a dataset can be fetched: its phantom, if it is one."""
    return [paths.phantom(study, dataset)] if dataset in study.phantom else []


def slices_options(study: Study, dataset: str, chunk: str) -> SliceOptions:
    """Options of `slices`."""
    return SliceOptions(
        dataset_name=dataset,
        dataset=study.dataset(dataset).layout(),
        chunk=int(chunk),
        chunks=study.chunks(dataset),
        alone=study.passes(dataset),
        curation=study.ct3m.curation(dataset),
    )


def duplicates_options(study: Study) -> DuplicatesOptions:
    """Options of `duplicates`."""
    return DuplicatesOptions(size_px=min(study.ct3m.sizes_px), duplicates=study.ct3m.duplicates)


def duplicates_inputs(study: Study) -> dict[str, list[str]]:
    """Files that the search for copies is given, by the flag that takes them."""
    return {"reports": paths.chunk_reports(study, targets.searched_datasets(study))}


def duplicates_shards(study: Study) -> list[str]:
    """Shards that the search for copies reads, which lie beside the reports."""
    return paths.shards(duplicates_inputs(study)["reports"], min(study.ct3m.sizes_px))


def index_options(study: Study, size: str, variant: str) -> IndexOptions:
    """Options of `index`, without those that do not matter to the variant.

    Raises:
        MeddinoError: there is no such variant.
    """
    if variant in study.ct3m.variants:
        return _variant_index_options(study, size, variant)
    if variant not in VARIANTS:
        known = ", ".join([*VARIANTS, *study.ct3m.variants])
        raise MeddinoError(f"no variant {variant!r} of ct3m; known: {known}")
    dedupe, leak_free = study.ct3m.dedupe, variant == "leak-free"
    return IndexOptions(
        size_px=int(size),
        dedupe=dedupe,
        datasets=study.ct3m.datasets if leak_free or dedupe != "off" else None,
        folds=study.folds if leak_free else (0,),
        benchmarks={n: b.dataset for n, b in study.benchmarks.items()} if leak_free else {},
    )


def _variant_index_options(study: Study, size: str, variant: str) -> IndexOptions:
    datasets, dedupe, percent = study.ct3m.held_by(variant)
    return IndexOptions(
        size_px=int(size),
        dedupe=dedupe,
        datasets=datasets,
        variant=variant,
        percent=percent,
        seed=study.ct3m.variants[variant].seed,
    )


def index_inputs(study: Study, variant: str) -> dict[str, list[str]]:
    """Files that an index is made from, by the flag; copies matter only where they stay out."""
    if variant in study.ct3m.variants:
        kept, dedupe, _ = study.ct3m.held_by(variant)
        copies = {"duplicates": [paths.duplicates(study)]} if dedupe != "off" else {}
        return {"reports": paths.chunk_reports(study, kept), **copies}
    leak_free = variant == "leak-free"
    datasets = targets.searched_datasets(study) if leak_free else study.ct3m.datasets
    files = {"reports": paths.chunk_reports(study, datasets)}
    if leak_free or study.ct3m.dedupe != "off":
        files["duplicates"] = [paths.duplicates(study)]
    if leak_free:
        files["splits"] = [paths.splits(study, benchmark) for benchmark in study.benchmarks]
    return files


def index_shards(study: Study, size: str, variant: str) -> list[str]:
    """Shards that an index points into, which lie beside the reports."""
    return paths.shards(index_inputs(study, variant)["reports"], size)


def card_options(study: Study) -> CardOptions:
    """Options of `card`."""
    return CardOptions(
        figures=study.figures,
        sizes_px=study.ct3m.sizes_px,
        corpus=targets.corpus(study),
        meanings=targets.meanings(study, targets.variants(study)),
    )


def card_inputs(study: Study) -> dict[str, str | list[str]]:
    """Files that the data card is made from, by the flag that takes them."""
    size = min(study.ct3m.sizes_px)
    folders = [name for name in study.ct3m.datasets if study.dataset(name).folder is not None]
    fetched: dict[str, str | list[str]] = {"fetched": [paths.raw(study, n) for n in folders]}
    return {
        "reports": paths.chunk_reports(study, study.ct3m.datasets),
        "index": paths.index(study, "paper", size),
        "cards": [paths.index_card(study, v, size) for v in targets.variants(study)],
        "duplicates": paths.duplicates(study),
        "overlap": paths.overlap(study),
        **(fetched if folders else {}),
    }
