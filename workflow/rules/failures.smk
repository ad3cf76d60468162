# Where runs fail (docs/failures.md): of a study with a section `failures` alone.
# A second pass for the softmax: `predict` and what it made stay as they are.
use rule verb as confidence with:
    input:
        model="<results>/finetune/{benchmark}/{method}/fold{fold}/model.safetensors",
        dataset=lambda wildcards: paths.nnunet_dataset(STUDY, wildcards.benchmark),
        predictions="<results>/predictions/{benchmark}/{method}/fold{fold}/done.json",
    output:
        "<results>/confidence/{benchmark}/{method}/fold{fold}.parquet",
    log:
        "logs/confidence/{benchmark}.{method}.fold{fold}.log",
    benchmark:
        "logs/confidence/{benchmark}.{method}.fold{fold}.tsv"
    threads: 4
    resources:
        **asks("confidence", 48000),
    params:
        **params_of("confidence"),


use rule verb as lesions with:
    input:
        predictions="<results>/predictions/{benchmark}/{method}/fold{fold}/done.json",
        dataset=lambda wildcards: paths.nnunet_dataset(STUDY, wildcards.benchmark),
    output:
        "<results>/lesions/{benchmark}/{method}/fold{fold}.parquet",
    log:
        "logs/lesions/{benchmark}.{method}.fold{fold}.log",
    benchmark:
        "logs/lesions/{benchmark}.{method}.fold{fold}.tsv"
    resources:
        **asks("lesions", 8000),
    params:
        **params_of("lesions"),


use rule verb as failures with:
    input:
        **jobs.failures.failures_inputs(STUDY),
    output:
        "<results>/failures/failures.json",
    log:
        "logs/failures.log",
    resources:
        **asks("failures", 8000),
    params:
        **params_of("failures"),


use rule verb as worst_cases with:
    input:
        unpack(
            lambda wildcards: jobs.failures.worst_cases_inputs(
                STUDY, wildcards.benchmark
            )
        ),
    output:
        "<results>/failures/{benchmark}/worst.json",
    log:
        "logs/worst_cases/{benchmark}.log",
    benchmark:
        "logs/worst_cases/{benchmark}.tsv"
    resources:
        **asks("worst_cases", 8000),
    params:
        **params_of("worst_cases"),
