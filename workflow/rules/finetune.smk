# A benchmark in nnU-Net's layout, planned and preprocessed once; each method trained on it.
use rule verb as convert with:
    input:
        unpack(
            lambda wildcards: jobs.finetune.convert_inputs(STUDY, wildcards.benchmark)
        ),
    output:
        dataset="<results>/nnunet/raw/Dataset{id}_{benchmark}/dataset.json",
        splits="<results>/nnunet/raw/Dataset{id}_{benchmark}/splits_final.json",
        quarantine="<results>/nnunet/raw/Dataset{id}_{benchmark}/quarantine.json",
    log:
        "logs/convert/{benchmark}.{id}.log",
    benchmark:
        "logs/convert/{benchmark}.{id}.tsv"
    priority: 2  # before a GPU is busy, one knows which cases are left out
    resources:
        **asks("convert", 16000),
    params:
        **params_of("convert"),


use rule verb as plan with:
    input:
        dataset="<results>/nnunet/raw/Dataset{id}_{benchmark}/dataset.json",
    output:
        "<results>/nnunet/preprocessed/Dataset{id}_{benchmark}/nnUNetPlans.json",
    log:
        "logs/plan/{benchmark}.{id}.log",
    benchmark:
        "logs/plan/{benchmark}.{id}.tsv"
    threads: STUDY.planning.num_processes
    resources:
        **asks("plan", 32000),
    params:
        **params_of("plan"),


# Volumes, and nnU-Net's ResEnc presets: from the fingerprint that `plan` took.
use rule verb as replan with:
    input:
        dataset="<results>/nnunet/raw/Dataset{id}_{benchmark}/dataset.json",
        plans="<results>/nnunet/preprocessed/Dataset{id}_{benchmark}/nnUNetPlans.json",
    output:
        "<results>/nnunet/preprocessed/Dataset{id}_{benchmark}/{kind}.json",
    log:
        "logs/replan/{benchmark}.{id}.{kind}.log",
    benchmark:
        "logs/replan/{benchmark}.{id}.{kind}.tsv"
    resources:
        **asks("replan", 8000),
    params:
        **params_of("replan"),


use rule verb as preprocess with:
    input:
        unpack(
            lambda wildcards: jobs.finetune.preprocess_inputs(
                STUDY, wildcards.benchmark, wildcards.configuration
            )
        ),
    output:
        "<results>/nnunet/preprocessed/Dataset{id}_{benchmark}/{configuration}.json",
    log:
        "logs/preprocess/{benchmark}.{id}.{configuration}.log",
    benchmark:
        "logs/preprocess/{benchmark}.{id}.{configuration}.tsv"
    threads: STUDY.planning.num_processes
    resources:
        **asks("preprocess", 64000),
    params:
        **params_of("preprocess"),


rule finetune:
    input:
        unpack(
            lambda wildcards: jobs.finetune.finetune_inputs(
                STUDY, wildcards.benchmark, wildcards.method
            )
        ),
    output:
        model="<results>/finetune/{benchmark}/{method}/fold{fold}/model.safetensors",
        description="<results>/finetune/{benchmark}/{method}/fold{fold}/model.json",
        history="<results>/finetune/{benchmark}/{method}/fold{fold}/history.jsonl",
    log:
        "logs/finetune/{benchmark}.{method}.fold{fold}.log",
    benchmark:
        "logs/finetune/{benchmark}.{method}.fold{fold}.tsv"
    localrule: True
    conda:
        "../../envs/meddino.yaml"
    container:
        training_image("finetune")
    threads: 1 if submits("finetune") else 12
    resources:
        **training_resources("finetune", 48000),
    params:
        **params_of("finetune"),
        state=state("finetune", "benchmark", "method", "fold"),
        files=flags,
    shell:
        TRAIN


use rule verb as predict with:
    input:
        model="<results>/finetune/{benchmark}/{method}/fold{fold}/model.safetensors",
        dataset=lambda wildcards: paths.nnunet_dataset(STUDY, wildcards.benchmark),
    output:
        "<results>/predictions/{benchmark}/{method}/fold{fold}/done.json",
    log:
        "logs/predict/{benchmark}.{method}.fold{fold}.log",
    benchmark:
        "logs/predict/{benchmark}.{method}.fold{fold}.tsv"
    threads: 4
    resources:
        **asks("predict", 48000),
    params:
        **params_of("predict"),
