# What a chain starts from, its stages one after another, and probes of what they have learnt.
use rule verb as leaves with:
    output:
        "<results>/leaves/index.{size}.parquet",
    log:
        "logs/leaves/{size}.log",
    benchmark:
        "logs/leaves/{size}.tsv"
    resources:
        **asks("leaves", 4000),
    params:
        **params_of("leaves"),


use rule verb as weights with:
    input:
        lambda wildcards: jobs.pretrain.weights_inputs(STUDY, wildcards.weights),
    output:
        "<resources>/weights/{weights}.pth",
    log:
        "logs/weights/{weights}.log",
    benchmark:
        "logs/weights/{weights}.tsv"
    resources:
        **asks("weights", 8000),
    params:
        **params_of("weights"),


# A rule for each stage, not a wildcard: their outputs differ, and the names then read well in a
# profile (`set-resources: pretrain_stage1:`).
for STAGE in STUDY.pretrain.stages:

    rule:
        name:
            f"pretrain_{STAGE}"
        input:
            **jobs.pretrain.pretrain_inputs(STUDY, STAGE),
        output:
            history=paths.pretraining_history(STUDY, STAGE),
            snapshots=paths.snapshots(STUDY, STAGE),
        log:
            f"logs/pretrain/{STAGE}.log",
        benchmark:
            f"logs/pretrain/{STAGE}.tsv"
        priority: 1  # the longest chain: other jobs fit in beside it
        localrule: True
        conda:
            "../../envs/meddino.yaml"
        container:
            training_image(f"pretrain_{STAGE}")
        threads: 1 if submits(f"pretrain_{STAGE}") else 16
        resources:
            **training_resources(f"pretrain_{STAGE}", 64000),
        params:
            **params_of("pretrain", stage=STAGE),
            state=state("pretrain", stage=STAGE),
            files=flags,
        shell:
            TRAIN


# How well frozen backbones tell organs apart; a job for all checkpoints of a stage.
use rule verb as probe with:
    input:
        unpack(lambda wildcards: jobs.pretrain.probe_inputs(STUDY, wildcards.source)),
    output:
        "<results>/probe/{source}.json",
    log:
        "logs/probe/{source}.log",
    benchmark:
        "logs/probe/{source}.tsv"
    threads: 8
    resources:
        **asks("probe", 16000),
    params:
        **params_of("probe"),
