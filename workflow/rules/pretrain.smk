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
        lambda wildcards: jobs.pretrain.weights_inputs(STUDY, wildcards.weights),
    output:
        f"{RESOURCES}/weights/{{weights}}.pth",
    log:
        "logs/weights/{weights}.log",
    benchmark:
        "logs/weights/{weights}.tsv"
    conda:
        "../../envs/meddino.yaml"
    resources:
        mem_mb=grows(8000),
        runtime=grows(120),
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
            **jobs.pretrain.pretrain_inputs(STUDY, STAGE),
        output:
            history=f"{RESULTS}/pretrain/{STAGE}/history.jsonl",
            snapshots=paths.snapshots(STUDY, STAGE),
        log:
            f"logs/pretrain/{STAGE}.log",
        benchmark:
            f"logs/pretrain/{STAGE}.tsv"
        priority: 1  # the longest chain: what else there is fits in beside it
        localrule: True
        conda:
            "../../envs/meddino.yaml"
        container:
            TRAINING_IMAGE
        threads: 16
        resources:
            mem_mb=grows(64000),
            sbatch="",
            apptainer=APPTAINER,
        params:
            options=options("pretrain", stage=STAGE),
            revision=revision("pretrain"),
            state=state("pretrain", stage=STAGE),
            files=flags,
        shell:
            "python -m meddino submit --folder {params.state:q}.job --sbatch={resources.sbatch:q}"
            " --apptainer={resources.apptainer:q} -- pretrain --options {params.options:q} {params.files} --state {params.state:q}"
            " --output {output.history:q} > {log:q} 2>&1 && rm -rf {params.state:q}"


# How well frozen backbones tell organs apart; a job for all checkpoints of a stage.
rule probe:
    input:
        unpack(lambda wildcards: jobs.pretrain.probe_inputs(STUDY, wildcards.source)),
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
        mem_mb=grows(16000),
        runtime=grows(120),
    params:
        options=options("probe", "source"),
        revision=revision("probe"),
        files=flags,
    shell:
        "python -m meddino probe --options {params.options:q} {params.files}"
        " --output {output:q} > {log:q} 2>&1"
