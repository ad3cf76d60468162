# Predictions -> scores per case and structure -> the paper's tables, figures and the report.
use rule verb as evaluate with:
    input:
        predictions="<results>/predictions/{benchmark}/{method}/fold{fold}/done.json",
        dataset=lambda wildcards: paths.nnunet_dataset(STUDY, wildcards.benchmark),
    output:
        "<results>/scores/{benchmark}/{method}/fold{fold}.parquet",
    log:
        "logs/evaluate/{benchmark}.{method}.fold{fold}.log",
    benchmark:
        "logs/evaluate/{benchmark}.{method}.fold{fold}.tsv"
    resources:
        **asks("evaluate", 8000),
    params:
        **params_of("evaluate"),


use rule verb as model_card with:
    input:
        description="<results>/finetune/{benchmark}/{method}/fold{fold}/model.json",
        scores="<results>/scores/{benchmark}/{method}/fold{fold}.parquet",
    output:
        "<results>/finetune/{benchmark}/{method}/fold{fold}/README.md",
    log:
        "logs/model_card/{benchmark}.{method}.fold{fold}.log",
    resources:
        **asks("model_card", 4000),
    params:
        **params_of("model_card"),


use rule verb as scores with:
    input:
        **jobs.report.scores_inputs(STUDY),
    output:
        "<results>/scores.parquet",
    log:
        "logs/scores.log",
    resources:
        **asks("scores", 4000),
    params:
        **params_of("scores"),


use rule verb as tables with:
    input:
        unpack(lambda wildcards: jobs.report.tables_inputs(STUDY, wildcards.table)),
    output:
        csv=report("<results>/tables/{table}.csv", category="Tables"),
        md="<results>/tables/{table}.md",
        tex="<results>/tables/{table}.tex",
    log:
        "logs/tables/{table}.log",
    resources:
        **asks("tables", 4000),
    params:
        **params_of("tables"),


# Which of a table's rows is the best, and how sure that is; made where `ranks` is asked for.
use rule verb as ranks with:
    input:
        unpack(lambda wildcards: jobs.report.ranks_inputs(STUDY, wildcards.table)),
    output:
        "<results>/tables/{table}.ranks.csv",
    log:
        "logs/ranks/{table}.log",
    resources:
        **asks("ranks", 4000),
    params:
        **params_of("ranks"),


use rule verb as figures with:
    input:
        **jobs.report.figures_inputs(STUDY),
    output:
        "<results>/figures/figures.json",
    log:
        "logs/figures.log",
    benchmark:
        "logs/figures.tsv"
    resources:
        **asks("figures", 16000),
    params:
        **params_of("figures"),


# What the report shows of a case when it is clicked on.
use rule verb as overlays with:
    input:
        unpack(
            lambda wildcards: jobs.report.overlays_inputs(STUDY, wildcards.benchmark)
        ),
    output:
        "<results>/overlays/{benchmark}/index.json",
    log:
        "logs/overlays/{benchmark}.log",
    benchmark:
        "logs/overlays/{benchmark}.tsv"
    resources:
        **asks("overlays", 8000),
    params:
        **params_of("overlays"),


# What each stage of pretraining makes of a few validation cases.
use rule verb as feature_figures with:
    input:
        **jobs.report.feature_figures_inputs(STUDY),
    output:
        "<results>/features/figures.json",
    log:
        "logs/feature_figures.log",
    benchmark:
        "logs/feature_figures.tsv"
    threads: 8
    resources:
        **asks("feature_figures", 16000),
    params:
        **params_of("feature_figures"),


# Where everything came from, back to the raw data: after all that the report shows, and before it.
use rule verb as provenance with:
    input:
        **jobs.report.provenance_inputs(STUDY),
    output:
        crate="<results>/ro-crate-metadata.json",
        records="<results>/provenance.json",
    log:
        "logs/provenance.log",
    resources:
        **asks("provenance", 4000),
    params:
        **params_of("provenance"),


use rule verb as report with:
    input:
        **jobs.report.report_inputs(STUDY),
    output:
        report("<results>/report.html", category="Report"),
    log:
        "logs/report.log",
    resources:
        **asks("report", 4000),
    params:
        **params_of("report"),
