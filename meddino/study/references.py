"""References from one section of the configuration to another, one check for each kind.

Each check takes the sections that it compares and yields one line for each reference that does not
fit. Snakemake would say "Nothing to be done" over a stale result, or fail days later.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import get_args

from pydantic import TypeAdapter, ValidationError

from meddino.core import layers
from meddino.core.errors import MeddinoError
from meddino.core.explain import explain
from meddino.datasets.options import Dataset
from meddino.datasets.phantom.options import LayoutName, Phantom
from meddino.evaluate.failures.options import Failures
from meddino.evaluate.options import Probe
from meddino.finetune.options import Benchmark, Method, Planning
from meddino.finetune.presets import SLICES, VOLUMES
from meddino.models.architectures import ARCHITECTURES, LIBRARIES, library_of
from meddino.models.options import DINOV3
from meddino.pretrain.dinov3.config import refusals
from meddino.pretrain.options import StageOptions
from meddino.report.label_curve.options import LabelCurve
from meddino.report.options import Table
from meddino.report.tables.options import Backbones
from meddino.study.chain import DATA, LEAVES, Chain, kind_of, kinds
from meddino.study.sections import RANDOM, Leaves, Pretrain, Seeds


def datasets(names: Iterable[str], describe: Callable[[str], Dataset]) -> Iterator[str]:
    """Datasets that neither the registry nor the configuration describes in full."""
    for name in names:
        try:
            describe(name)
        except MeddinoError as error:
            yield str(error)


def phantoms(names: Mapping[str, Phantom]) -> Iterator[str]:
    """Phantoms in the layout of a dataset that has none."""
    for name in names:
        if name not in get_args(LayoutName):
            yield f"phantom.{name}: not one of {', '.join(get_args(LayoutName))}"


def benchmark_numbers(benchmarks: Mapping[str, Benchmark]) -> Iterator[str]:
    """Benchmarks that share nnU-Net's number."""
    sharing: dict[int, list[str]] = {}
    for name, benchmark in benchmarks.items():
        sharing.setdefault(benchmark.nnunet_id, []).append(name)
    for number, names in sharing.items():
        if len(names) > 1:
            yield (
                f"benchmarks.{names[-1]}.nnunet_id = {number}: {names[0]} has that number, too;"
                " choose another one, up to 999"
            )


def slices(chain: Chain, sizes_px: Sequence[int], leaves: Leaves | None) -> Iterator[str]:
    """Stages on slices that are not cut, or on pictures that are not made."""
    for name, stage in chain.pretrain.stages.items():
        if stage.data == "leaves" and leaves is None:
            yield f"pretrain.stages.{name}.data = 'leaves': there is no section `leaves`"
        if stage.data != "leaves" and stage.slices_px not in sizes_px:
            yield (
                f"pretrain.stages.{name}.slices_px = {stage.slices_px}: not one of "
                f"ct3m.sizes_px, {list(sizes_px)}"
            )


def data(chain: Chain, variants: Iterable[str]) -> Iterator[str]:
    """Stages on data that does not exist."""
    known = [*DATA, *variants, LEAVES]
    for name, stage in chain.pretrain.stages.items():
        if stage.data not in known:
            yield f"pretrain.stages.{name}.data = {stage.data!r}: not one of {', '.join(known)}"


def starts(chain: Chain, methods: Mapping[str, Method]) -> Iterator[str]:
    """References to weights or snapshots that do not exist; only then, stages in a circle."""
    references = {f"methods.{name}.weights": method.weights for name, method in methods.items()}
    for name, stage in chain.pretrain.stages.items():
        references[f"pretrain.stages.{name}.init"] = stage.init
        references[f"pretrain.stages.{name}.gram_teacher"] = stage.gram_teacher
    references |= {f"weights.{name}.snapshot": w.snapshot for name, w in chain.weights.items()}
    problems = [
        f"{key} = {reference!r}: {problem}"
        for key, reference in references.items()
        if reference is not None and (problem := _unknown_start(reference, chain))
    ]
    yield from problems or _wrong_ancestors(chain)


def _unknown_start(reference: str, chain: Chain) -> str | None:
    """Why a reference leads nowhere."""
    stage, at, iteration = reference.partition("@")
    if not at:
        names = ", ".join(chain.weights)
        return None if stage in chain.weights else f"no such weights (known: {names})"
    if stage not in chain.pretrain.stages:
        return f"no stage of that name (stages: {', '.join(chain.pretrain.stages)})"
    snapshots = chain.pretrain.stages[stage].snapshots
    if not iteration.isdecimal() or int(iteration) not in snapshots:
        return f"{stage} keeps snapshots {list(snapshots)} only"
    return None


def _wrong_ancestors(chain: Chain) -> Iterator[str]:
    """Stages that start from themselves, and leak-free ones that start from others."""
    stages = chain.pretrain.stages
    for name, stage in stages.items():
        ancestors = chain.ancestors(name)
        if name in ancestors:
            yield f"pretrain.stages.{name}: starts, by way of other stages, from itself"
        other = [
            ancestor
            for ancestor in ancestors
            if stages[ancestor].data not in ("ct3m", LEAVES, stage.data)
        ]
        if stage.data not in ("ct3m", LEAVES) and other:
            yield (
                f"pretrain.stages.{name}.data = {stage.data!r}: it starts from {other[0]}, which"
                f" has seen {stages[other[0]].data}; a chain sees one variant of ct3m"
            )
        leaky = [ancestor for ancestor in ancestors if stages[ancestor].data == "ct3m"]
        if stage.data == "ct3m-leak-free" and leaky:
            yield (
                f"pretrain.stages.{name}.data = 'ct3m-leak-free': it starts from {leaky[0]},"
                " which has seen all of ct3m; give that stage the same data"
            )


def presets(pretrain: Pretrain) -> Iterator[str]:
    """Presets of stages that do not exist, or that would not fit, also while none is chosen."""
    # Made once: each takes 60 ms, and the workflow reads the study on every start.
    adapter = TypeAdapter(StageOptions)
    stages = {name: adapter.dump_python(stage) for name, stage in pretrain.stages.items()}
    for preset, changes in pretrain.presets.items():
        for name, change in changes.items():
            key = f"pretrain.presets.{preset}.{name}"
            if name not in stages:
                yield f"{key}: no stage of that name ({', '.join(stages)})"
                continue
            try:
                adapter.validate_python(layers.merge(stages[name], change))
            except ValidationError as error:
                yield explain(error, key, StageOptions)


def tables(
    tables: Mapping[str, Table], methods: Mapping[str, Method], benchmarks: Mapping[str, Benchmark]
) -> Iterator[str]:
    """Rows, columns and comparisons of tables that do not exist."""
    for name, table in tables.items():
        for method in table.rows:
            if method not in methods:
                yield f"tables.{name}: no method {method!r} (known: {', '.join(methods)})"
        for benchmark in table.benchmarks:
            if benchmark not in benchmarks:
                names = ", ".join(benchmarks)
                yield f"tables.{name}: no benchmark {benchmark!r} (known: {names})"
        others = [method for method in table.rows if method != table.compare_with]
        if table.compare_with is not None and len(others) in (0, len(table.rows)):
            yield (
                f"tables.{name}.compare_with = {table.compare_with!r}: must be one of several"
                f" rows ({', '.join(table.rows)}); null compares none"
            )


def label_curve(
    curve: LabelCurve | None, methods: Mapping[str, Method], benchmarks: Mapping[str, Benchmark]
) -> Iterator[str]:
    """Methods and benchmarks of the label curve that do not exist, or methods on few cases."""
    for name in curve.methods if curve else ():
        if name not in methods:
            yield f"label_curve.methods: no method {name!r} (known: {', '.join(methods)})"
        elif methods[name].cases_percent < 100:
            yield (
                f"label_curve.methods: {name!r} has cases_percent ="
                f" {methods[name].cases_percent}; name a method that trains on all"
            )
    for name in curve.benchmarks if curve else ():
        if name not in benchmarks:
            yield f"label_curve.benchmarks: no benchmark {name!r} (known: {', '.join(benchmarks)})"


def configurations(methods: Mapping[str, Method], planning: Planning) -> Iterator[str]:
    """nnU-Net configurations that are not planned."""
    names = [SLICES, VOLUMES, *planning.configurations]
    for name, method in methods.items():
        if method.configuration not in names:
            yield (
                f"methods.{name}.configuration = {method.configuration!r}: "
                f"not one of {', '.join(names)}"
            )


def backbones(methods: Mapping[str, Method], pretrain: Pretrain) -> Iterator[str]:
    """Backbones that nobody provides, and blocks that they do not have."""
    if pretrain.backbone not in ARCHITECTURES:
        yield f"pretrain.backbone = {pretrain.backbone!r}: not one of {', '.join(ARCHITECTURES)}"
    for name, method in methods.items():
        backbone = method.backbone
        if backbone is not None and backbone not in ARCHITECTURES and library_of(backbone) is None:
            names = ", ".join([*ARCHITECTURES, *(f"{library}:NAME" for library in LIBRARIES)])
            yield f"methods.{name}.backbone = {backbone!r}: not one of {names}"
    for name, method in methods.items():
        architecture = ARCHITECTURES.get(method.backbone or "")
        if architecture and any(block >= architecture.depth for block in method.blocks):
            yield (
                f"methods.{name}.blocks = {method.blocks}: {method.backbone} has blocks 0 to "
                f"{architecture.depth - 1}"
            )


def kinds_of_weights(chain: Chain, methods: Mapping[str, Method]) -> Iterator[str]:
    """Weights that two networks would read differently, or that belong to another network."""
    for name, entry in chain.weights.items():
        users = kinds(name, methods, chain.pretrain.stages)
        if len(users) > 1:
            needs = ", ".join(f"{kind} by {key}" for kind, key in users.items())
            yield f"weights.{name}: asked for as {needs}; give each an entry of its own"
        if entry.snapshot is not None and (others := set(users) - {DINOV3}):
            yield f"weights.{name}.snapshot: a stage's ViT cannot stand in for {min(others)}"
    for name, method in methods.items():
        if "@" in (method.weights or "") and kind_of(method) != DINOV3:
            yield (
                f"methods.{name}.weights = {method.weights!r}: a stage's ViT is none of"
                f" {kind_of(method)}; name an entry of `weights`"
            )


def folds(folds: Sequence[int], benchmarks: Mapping[str, Benchmark]) -> Iterator[str]:
    """Folds that are named twice, or that a benchmark does not have."""
    if len(set(folds)) < len(folds):
        yield f"folds = {list(folds)}: one is named twice"
    for name, benchmark in benchmarks.items():
        if max(folds) >= benchmark.folds:
            yield f"folds = {list(folds)}: benchmark {name} has folds 0 to {benchmark.folds - 1}"


def warmups(methods: Mapping[str, Method], epochs: int) -> Iterator[str]:
    """Methods whose learning rate would rise to the end of training."""
    rising = [name for name, method in methods.items() if 0 < epochs <= method.warmup_epochs]
    if rising:
        yield (
            f"training.epochs = {epochs}: methods {', '.join(rising)} warm up as long or longer;"
            " train for more epochs, or lower their warmup_epochs"
        )


def seeds(
    seeds: Seeds | None,
    first: int,
    methods: Mapping[str, Method],
    benchmarks: Mapping[str, Benchmark],
) -> Iterator[str]:
    """Seeds that are named twice, without the first one, or for what does not exist."""
    if seeds is None:
        return
    if len(set(seeds.values)) < len(seeds.values):
        yield f"seeds = {list(seeds.values)}: one is named twice"
    if first not in seeds.values:
        yield (
            f"seeds = {list(seeds.values)}: training.seed = {first} must be among them, since the"
            " finetunings with it are kept"
        )
    known = {"methods": (seeds.methods, methods), "benchmarks": (seeds.benchmarks, benchmarks)}
    for key, (chosen, names) in known.items():
        for name in chosen or ():
            if name not in names:
                yield f"seeds.{key}: no {key[:-1]} {name!r} (known: {', '.join(names)})"


def probe(probe: Probe, chain: Chain, benchmarks: Mapping[str, Benchmark]) -> Iterator[str]:
    """A benchmark, a size or a name that probing cannot work with."""
    benchmark = benchmarks.get(probe.benchmark)
    if benchmark is None:
        yield f"probe.benchmark: not one of {', '.join(benchmarks)}"
    elif benchmark.modalities != ["CT"]:
        yield f"probe.benchmark = {probe.benchmark!r}: not of CT alone; take one that is"
    name = chain.pretrain.backbone
    backbone = ARCHITECTURES.get(name)
    if backbone and probe.slices_px % backbone.patch_size:
        yield (
            f"probe.slices_px = {probe.slices_px}: not a multiple of"
            f" {name}'s patches, {backbone.patch_size} px"
        )
    if RANDOM in {*chain.weights, *chain.pretrain.stages}:
        yield f"weights, pretrain.stages: {RANDOM!r} is the name of what nobody trained"


def compared_backbones(
    backbones: Backbones | None,
    chain: Chain,
    methods: Mapping[str, Method],
    tables: Mapping[str, Table],
) -> Iterator[str]:
    """A comparison of a table that is not there, without DSC or ViTs, or with a name in use."""
    if backbones is None:
        return
    table = tables.get(backbones.table)
    if table is None:
        yield f"backbones.table = {backbones.table!r}: not one of {', '.join(tables)}"
        return
    if "DSC" not in table.metrics:
        yield f"backbones.table: {backbones.table} shows no DSC; add it to its metrics"
    rows = [methods[name] for name in table.rows if name in methods]
    if not any(method.backbone for method in rows):
        yield f"backbones.table: no row of {backbones.table} has a backbone"
    for name in {*chain.weights, *chain.pretrain.stages}:
        if name in [f"{RANDOM}_{row}" for row in table.rows]:
            yield f"weights, pretrain.stages: {name!r} is the name of what nobody trained"


def failures(
    failures: Failures | None, tables: Mapping[str, Table], benchmarks: Mapping[str, Benchmark]
) -> Iterator[str]:
    """Methods, benchmarks and structures of `failures` that no table asks for, or do not exist."""
    if failures is None:
        return
    asked = {(row, b) for table in tables.values() for row in table.rows for b in table.benchmarks}
    methods, tabled = ({pair[place] for pair in asked} for place in (0, 1))
    for key, names, known in (
        ("methods", failures.methods, methods),
        ("benchmarks", failures.benchmarks, tabled),
    ):
        for name in names:
            if name not in known:
                yield f"failures.{key}: no table asks for {name!r}; name it in one, as it must run"
    keyed: dict[str, Mapping[str, Iterable[str]]] = {
        "lesions": failures.lesions,
        "size_edges_ml": failures.size_edges_ml,
        "sources": dict.fromkeys(failures.sources, ()),
        "metadata": dict.fromkeys(failures.metadata, ()),
    }
    for key, section in keyed.items():
        for name, structures in section.items():
            if name not in benchmarks:
                yield f"failures.{key}.{name}: not one of {', '.join(benchmarks)}"
                continue
            for structure in structures:
                if structure not in benchmarks[name].names:
                    counted = ", ".join(benchmarks[name].names)
                    yield f"failures.{key}.{name}: {structure!r} is not one of {counted}"


def engine(chain: Chain) -> Iterator[str]:
    """Options of stages that DINOv3's public trainer does not have."""
    for name in chain.pretrain.stages if chain.pretrain.engine == "dinov3" else ():
        for problem in refusals(chain.options(name)):
            yield f"pretrain.engine = 'dinov3', stage {name}, {problem}"
