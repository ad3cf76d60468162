# Within a quota (docs/quota.md): what is read once is on disk only while it is read.
# At most one download is on disk at a time; `--resources raw=2` allows two.
if "raw" not in workflow.global_resources:
    workflow.register_resource("raw", 1)


# Fetch, use and free in one job: no job can miss what is gone, and a rerun brings it again.
rule passing:
    conda:
        "../../envs/meddino.yaml"
    shell:
        "( python -m meddino fetch --options {params.fetch:q} --output {params.raw:q}"
        " && python -m meddino {params.verb} --options {params.options:q} --raw {params.raw:q}"
        " --output {output[0]:q}"
        " && python -m meddino free --options {params.free:q} --output {params.receipt:q}"
        " ) > {log:q} 2>&1"


use rule passing as slices_and_free with:
    input:
        lambda wildcards: jobs.data.fetch_inputs(STUDY, wildcards.dataset),
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
    wildcard_constraints:
        dataset="|".join(filter(STUDY.passes, STUDY.used_datasets())) or "none",
    threads: 8
    resources:
        **asks("slices_and_free", 24000),
        raw=1,
    params:
        **params_of("slices"),
        **passes_of(
            lambda wildcards: jobs.data.piece(
                STUDY, wildcards.dataset, wildcards.chunk
            )
        ),


use rule passing as convert_and_free with:
    input:
        lambda wildcards: jobs.data.fetch_inputs(
            STUDY, STUDY.benchmarks[wildcards.benchmark].dataset
        ),
    output:
        dataset="<results>/nnunet/raw/Dataset{id}_{benchmark}/dataset.json",
        splits="<results>/nnunet/raw/Dataset{id}_{benchmark}/splits_final.json",
        quarantine="<results>/nnunet/raw/Dataset{id}_{benchmark}/quarantine.json",
    log:
        "logs/convert/{benchmark}.{id}.log",
    benchmark:
        "logs/convert/{benchmark}.{id}.tsv"
    wildcard_constraints:
        benchmark="|".join(jobs.finetune.passing(STUDY)) or "none",
    priority: 2
    threads: 1
    resources:
        **asks("convert_and_free", 16000),
        raw=1,
    params:
        **params_of("convert"),
        **passes_of(lambda wildcards: jobs.finetune.piece(STUDY, wildcards.benchmark)),


# A benchmark in one configuration after another: what trains on the one before is done.
rule turn:
    input:
        lambda wildcards: ancient(
            jobs.finetune.turn_waits(
                STUDY, wildcards.benchmark, wildcards.configuration
            )
        ),
    output:
        update(
            "<results>/nnunet/preprocessed/Dataset{id}_{benchmark}/.turn.{configuration}"
        ),
    localrule: True
    shell:
        "touch {output:q}"


use rule preprocess as preprocess_in_turn with:
    input:
        lambda wildcards: ancient(
            jobs.finetune.turns(STUDY, wildcards.benchmark, wildcards.configuration)
        ),
        unpack(
            lambda wildcards: jobs.finetune.preprocess_inputs(
                STUDY, wildcards.benchmark, wildcards.configuration
            )
        ),


use rule verb as free_preprocessed with:
    input:
        lambda wildcards: jobs.finetune.free_preprocessed_waits(
            STUDY, wildcards.benchmark, wildcards.configuration
        ),
        preprocessed="<results>/nnunet/preprocessed/Dataset{id}_{benchmark}/{configuration}.json",
    output:
        update(
            "<results>/nnunet/preprocessed/Dataset{id}_{benchmark}/.freed.{configuration}.json"
        ),
    log:
        "logs/free_preprocessed/{benchmark}.{id}.{configuration}.log",
    priority: 3
    localrule: True
    resources:
        **asks("free_preprocessed", 1000),
    params:
        **params_of("free_preprocessed"),


# Where a rule above is not for a dataset or benchmark, its wildcards do not fit.
ruleorder: slices_and_free > slices
ruleorder: convert_and_free > convert
ruleorder: preprocess_in_turn > preprocess
