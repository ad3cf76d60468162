# Download of each dataset -> axial slices of each chunk of its volumes -> shards -> index.
use rule verb as phantom with:
    output:
        "<resources>/phantom/{dataset}/SHA256SUMS",
    log:
        "logs/phantom/{dataset}.log",
    benchmark:
        "logs/phantom/{dataset}.tsv"
    resources:
        **asks("phantom", 4000),
    params:
        **params_of("phantom"),


use rule verb as fetch with:
    input:
        lambda wildcards: jobs.data.fetch_inputs(STUDY, wildcards.dataset),
    output:
        "<resources>/raw/{dataset}/.fetched.json",
    log:
        "logs/fetch/{dataset}.log",
    benchmark:
        "logs/fetch/{dataset}.tsv"
    priority: 2  # as `convert`
    threads: 4
    resources:
        **asks("fetch", 4000),
    params:
        **params_of("fetch"),


# Of a folder of yours, what benchmarks read is listed apart: a label changes no slice.
use rule fetch as fetch_labelled with:
    output:
        "<resources>/raw/{dataset}/.labelled.json",
    log:
        "logs/fetch/{dataset}.labelled.log",
    benchmark:
        "logs/fetch/{dataset}.labelled.tsv"
    params:
        **params_of("fetch", part="labelled"),


use rule verb as slices with:
    input:
        raw="<resources>/raw/{dataset}/.fetched.json",
    output:
        report="<results>/ct3m/shards/{dataset}/{chunk}.json",
        shards=expand(
            "<results>/ct3m/shards/{dataset}/{chunk}.{size}.parquet",
            size=STUDY.ct3m.sizes_px,
            allow_missing=True,
        ),
    log:
        "logs/slices/{dataset}.{chunk}.log",
    benchmark:
        "logs/slices/{dataset}.{chunk}.tsv"
    threads: 8
    resources:
        **asks("slices", 24000),
    params:
        **params_of("slices"),


use rule verb as duplicates with:
    input:
        jobs.data.duplicates_shards(STUDY),
        **jobs.data.duplicates_inputs(STUDY),
    output:
        pairs="<results>/ct3m/duplicates.parquet",
        overlap="<results>/ct3m/overlap.csv",
    log:
        "logs/duplicates.log",
    benchmark:
        "logs/duplicates.tsv"
    threads: 8
    resources:
        **asks("duplicates", 32000),
    params:
        **params_of("duplicates"),


use rule verb as index with:
    input:
        lambda wildcards: jobs.data.index_shards(STUDY, wildcards.size, "paper"),
        unpack(lambda wildcards: jobs.data.index_inputs(STUDY, "paper")),
    output:
        index="<results>/ct3m/index.{size}.parquet",
        card="<results>/ct3m/index.{size}.card.json",
    log:
        "logs/index/{size}.log",
    benchmark:
        "logs/index/{size}.tsv"
    resources:
        **asks("index", 16000),
    params:
        **params_of("index", variant="paper"),


# The same without what the benchmarks validate on, and without copies of that.
use rule index as index_leak_free with:
    input:
        lambda wildcards: jobs.data.index_shards(STUDY, wildcards.size, "leak-free"),
        unpack(lambda wildcards: jobs.data.index_inputs(STUDY, "leak-free")),
    output:
        index="<results>/ct3m/index.leak-free.{size}.parquet",
        card="<results>/ct3m/index.leak-free.{size}.card.json",
    log:
        "logs/index/leak-free.{size}.log",
    benchmark:
        "logs/index/leak-free.{size}.tsv"
    params:
        **params_of("index", variant="leak-free"),


use rule verb as card with:
    input:
        **jobs.data.card_inputs(STUDY),
    output:
        card="<results>/ct3m/card/card.json",
        text="<results>/ct3m/card/card.md",
        figures="<results>/ct3m/card/figures.json",
    log:
        "logs/card.log",
    resources:
        **asks("card", 16000),
    params:
        **params_of("card"),
