# Models of one benchmark on the cases of another: segmented once, scored as often as one likes.
wildcard_constraints:
    origin="|".join(STUDY.benchmarks),


use rule verb as predict_transfer with:
    input:
        model="<results>/finetune/{origin}/{method}/fold{fold}/model.safetensors",
        dataset=lambda wildcards: paths.nnunet_dataset(STUDY, wildcards.benchmark),
    output:
        "<results>/transfer/predictions/{origin}/{benchmark}/{method}/fold{fold}/done.json",
    log:
        "logs/predict_transfer/{origin}.{benchmark}.{method}.fold{fold}.log",
    benchmark:
        "logs/predict_transfer/{origin}.{benchmark}.{method}.fold{fold}.tsv"
    threads: 4
    resources:
        **asks("predict_transfer", 48000),
    params:
        **params_of("predict_transfer"),


use rule verb as evaluate_transfer with:
    input:
        predictions="<results>/transfer/predictions/{origin}/{benchmark}/{method}/fold{fold}/done.json",
        description="<results>/finetune/{origin}/{method}/fold{fold}/model.json",
        dataset=lambda wildcards: paths.nnunet_dataset(STUDY, wildcards.benchmark),
    output:
        "<results>/transfer/scores/{origin}/{benchmark}/{method}/fold{fold}.parquet",
    log:
        "logs/evaluate_transfer/{origin}.{benchmark}.{method}.fold{fold}.log",
    benchmark:
        "logs/evaluate_transfer/{origin}.{benchmark}.{method}.fold{fold}.tsv"
    resources:
        **asks("evaluate_transfer", 8000),
    params:
        **params_of("evaluate_transfer"),


use rule verb as transfer with:
    input:
        **jobs.transfer.table_inputs(STUDY),
    output:
        csv=report("<results>/tables/transfer.csv", category="Tables"),
        md="<results>/tables/transfer.md",
        tex="<results>/tables/transfer.tex",
        json="<results>/tables/transfer.json",
        structures="<results>/tables/transfer.structures.csv",
    log:
        "logs/transfer.log",
    resources:
        **asks("transfer", 4000),
    params:
        **params_of("transfer"),
