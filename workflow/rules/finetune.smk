# A benchmark in nnU-Net's layout, planned and preprocessed once; each method trained on it.
rule convert:
    input:
        unpack(
            lambda wildcards: jobs.finetune.convert_inputs(STUDY, wildcards.benchmark)
        ),
    output:
        dataset=f"{RESULTS}/nnunet/raw/Dataset{{id}}_{{benchmark}}/dataset.json",
        splits=f"{RESULTS}/nnunet/raw/Dataset{{id}}_{{benchmark}}/splits_final.json",
        quarantine=f"{RESULTS}/nnunet/raw/Dataset{{id}}_{{benchmark}}/quarantine.json",
    log:
        "logs/convert/{benchmark}.{id}.log",
    benchmark:
        "logs/convert/{benchmark}.{id}.tsv"
    conda:
        "../../envs/meddino.yaml"
    resources:
        mem_mb=grows(16000),
        runtime=grows(480),
    params:
        options=options("convert", "benchmark"),
        revision=revision("convert"),
    shell:
        "python -m meddino convert --options {params.options:q} --raw {input.raw:q}"
        " --output {output.dataset:q} > {log:q} 2>&1"


rule plan:
    input:
        dataset=f"{RESULTS}/nnunet/raw/Dataset{{id}}_{{benchmark}}/dataset.json",
    output:
        f"{RESULTS}/nnunet/preprocessed/Dataset{{id}}_{{benchmark}}/nnUNetPlans.json",
    log:
        "logs/plan/{benchmark}.{id}.log",
    benchmark:
        "logs/plan/{benchmark}.{id}.tsv"
    conda:
        "../../envs/meddino.yaml"
    threads: 8
    resources:
        mem_mb=grows(32000),
        runtime=grows(240),
    params:
        options=options("plan"),
        revision=revision("plan"),
    shell:
        "python -m meddino plan --options {params.options:q} --dataset {input.dataset:q}"
        " --output {output:q} > {log:q} 2>&1"


rule preprocess:
    input:
        plans=f"{RESULTS}/nnunet/preprocessed/Dataset{{id}}_{{benchmark}}/nnUNetPlans.json",
    output:
        f"{RESULTS}/nnunet/preprocessed/Dataset{{id}}_{{benchmark}}/{{configuration}}.json",
    log:
        "logs/preprocess/{benchmark}.{id}.{configuration}.log",
    benchmark:
        "logs/preprocess/{benchmark}.{id}.{configuration}.tsv"
    conda:
        "../../envs/meddino.yaml"
    threads: 8
    resources:
        mem_mb=grows(64000),
        runtime=grows(960),
    params:
        options=options("preprocess", "configuration"),
        revision=revision("preprocess"),
    shell:
        "python -m meddino preprocess --options {params.options:q} --plans {input.plans:q}"
        " --output {output:q} > {log:q} 2>&1"


rule finetune:
    input:
        unpack(
            lambda wildcards: jobs.finetune.finetune_inputs(
                STUDY, wildcards.benchmark, wildcards.method
            )
        ),
    output:
        model=f"{RESULTS}/finetune/{{benchmark}}/{{method}}/fold{{fold}}/model.safetensors",
        description=f"{RESULTS}/finetune/{{benchmark}}/{{method}}/fold{{fold}}/model.json",
        history=f"{RESULTS}/finetune/{{benchmark}}/{{method}}/fold{{fold}}/history.jsonl",
    log:
        "logs/finetune/{benchmark}.{method}.fold{fold}.log",
    benchmark:
        "logs/finetune/{benchmark}.{method}.fold{fold}.tsv"
    localrule: True  # as pretrain_*: see there
    conda:
        "../../envs/meddino.yaml"
    container:
        TRAINING_IMAGE
    threads: 12
    resources:
        mem_mb=grows(48000),
        sbatch="",
        apptainer=APPTAINER,
    params:
        options=options("finetune", "method", "fold"),
        revision=revision("finetune"),
        state=state("finetune", "benchmark", "method", "fold"),
        files=flags,
    shell:
        "python -m meddino submit --folder {params.state:q}.job --sbatch={resources.sbatch:q}"
        " --apptainer={resources.apptainer:q} -- finetune --options {params.options:q} {params.files} --state {params.state:q}"
        " --output {output.model:q} > {log:q} 2>&1 && rm -rf {params.state:q}"


rule predict:
    input:
        model=f"{RESULTS}/finetune/{{benchmark}}/{{method}}/fold{{fold}}/model.safetensors",
        dataset=lambda wildcards: paths.nnunet_dataset(STUDY, wildcards.benchmark),
    output:
        f"{RESULTS}/predictions/{{benchmark}}/{{method}}/fold{{fold}}/done.json",
    log:
        "logs/predict/{benchmark}.{method}.fold{fold}.log",
    benchmark:
        "logs/predict/{benchmark}.{method}.fold{fold}.tsv"
    conda:
        "../../envs/meddino.yaml"
    threads: 4
    resources:
        mem_mb=grows(48000),
        runtime=grows(480),
    params:
        options=options("predict", "fold"),
        revision=revision("predict"),
    shell:
        "python -m meddino predict --options {params.options:q} --model {input.model:q}"
        " --dataset {input.dataset:q} --output {output:q} > {log:q} 2>&1"
