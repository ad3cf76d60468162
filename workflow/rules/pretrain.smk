# Stages that start one from another. A rule each, not a wildcard: their outputs differ, and the
# names then read well in a queue and in a profile (`set-resources: pretrain_stage1:`).
rule leaves:
    output:
        f"{RESULTS}/leaves/index.{{size}}.parquet",
    log:
        "logs/leaves/{size}.log",
    benchmark:
        "logs/leaves/{size}.tsv"
    conda:
        "../../envs/meddino.yaml"
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
    conda:
        "../../envs/meddino.yaml"
    resources:
        mem_mb=8000,
        runtime=120,
    params:
        options=options("weights", "weights"),
        revision=revision("weights"),
    shell:
        "python -m meddino weights --options {params.options:q} --output {output:q} > {log:q} 2>&1"


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
        conda:
            "../../envs/meddino.yaml"
        container:
            None
        threads: 16
        resources:
            mem_mb=64000,
            runtime=2880,
        params:
            options=options("pretrain", stage=STAGE),
            revision=revision("pretrain"),
            state=state("pretrain", stage=STAGE),
            files=flags,
        shell:
            "python -m meddino pretrain --options {params.options:q} {params.files}"
            " --state {params.state:q} --output {output.history:q} > {log:q} 2>&1"


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
    conda:
        "../../envs/meddino.yaml"
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
