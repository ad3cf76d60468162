rule leaves:
    output:
        f"{RESULTS}/leaves/index.{{size}}.parquet",
    log:
        "logs/leaves/{size}.log",
    benchmark:
        "logs/leaves/{size}.tsv"
    params:
        options=options("leaves", "size"),
        revision=revision("leaves"),
    shell:
        "python -m meddino leaves --options {params.options:q} --output {output:q} > {log:q} 2>&1"


rule weights:
    input:
        lambda wildcards: STUDY.weights_inputs(wildcards.weights),
    output:
        f"{RESOURCES}/weights/{{weights}}.pth",
    log:
        "logs/weights/{weights}.log",
    benchmark:
        "logs/weights/{weights}.tsv"
    resources:
        mem_mb=8000,
        runtime=120,
    params:
        options=options("weights", "weights"),
        revision=revision("weights"),
    shell:
        "python -m meddino weights --options {params.options:q} --output {output:q} > {log:q} 2>&1"


# Stages that start one from another. A rule each, not a wildcard: their outputs differ, and the
# names then read well in a profile (`set-resources: pretrain_stage1:`). They run, or wait for the
# job that they have submitted (`sbatch` holds its flags), where Snakemake runs.
for STAGE in STUDY.pretrain.stages:

    rule:
        name:
            f"pretrain_{STAGE}"
        input:
            **STUDY.pretrain_inputs(STAGE),
        output:
            history=f"{RESULTS}/pretrain/{STAGE}/history.jsonl",
            snapshots=STUDY.snapshots(STAGE),
        log:
            f"logs/pretrain/{STAGE}.log",
        benchmark:
            f"logs/pretrain/{STAGE}.tsv"
        priority: 1  # the longest chain: what else there is fits in beside it
        localrule: True
        threads: 16
        resources:
            mem_mb=64000,
            sbatch="",
        params:
            options=options("pretrain", stage=STAGE),
            revision=revision("pretrain"),
            state=state("pretrain", stage=STAGE),
            files=flags,
        shell:
            "python -m meddino submit --folder {params.state:q}.job --sbatch={resources.sbatch:q} --"
            " pretrain --options {params.options:q} {params.files} --state {params.state:q}"
            " --output {output.history:q} > {log:q} 2>&1 && rm -rf {params.state:q}"


# How well frozen backbones tell organs apart; a job for all checkpoints of a stage.
rule probe:
    input:
        unpack(lambda wildcards: STUDY.probe_inputs(wildcards.source)),
    output:
        f"{RESULTS}/probe/{{source}}.json",
    log:
        "logs/probe/{source}.log",
    benchmark:
        "logs/probe/{source}.tsv"
    threads: 8
    resources:
        mem_mb=16000,
        runtime=120,
    params:
        options=options("probe", "source"),
        revision=revision("probe"),
        files=flags,
    shell:
        "python -m meddino probe --options {params.options:q} {params.files}"
        " --output {output:q} > {log:q} 2>&1"
