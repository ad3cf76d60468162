# Predictions -> scores per case and structure -> the paper's tables, figures and the report.
rule evaluate:
    input:
        predictions=f"{RESULTS}/predictions/{{benchmark}}/{{method}}/fold{{fold}}/done.json",
        dataset=lambda wildcards: paths.nnunet_dataset(STUDY, wildcards.benchmark),
    output:
        f"{RESULTS}/scores/{{benchmark}}/{{method}}/fold{{fold}}.parquet",
    log:
        "logs/evaluate/{benchmark}.{method}.fold{fold}.log",
    benchmark:
        "logs/evaluate/{benchmark}.{method}.fold{fold}.tsv"
    conda:
        "../../envs/meddino.yaml"
    resources:
        mem_mb=grows(16000),
        runtime=grows(120),
    params:
        options=options("evaluate", "benchmark", "method", "fold"),
        revision=revision("evaluate"),
    shell:
        "python -m meddino evaluate --options {params.options:q} --predictions {input.predictions:q}"
        " --dataset {input.dataset:q} --output {output:q} > {log:q} 2>&1"


rule model_card:
    input:
        description=f"{RESULTS}/finetune/{{benchmark}}/{{method}}/fold{{fold}}/model.json",
        scores=f"{RESULTS}/scores/{{benchmark}}/{{method}}/fold{{fold}}.parquet",
    output:
        f"{RESULTS}/finetune/{{benchmark}}/{{method}}/fold{{fold}}/README.md",
    log:
        "logs/model_card/{benchmark}.{method}.fold{fold}.log",
    conda:
        "../../envs/meddino.yaml"
    params:
        options=options("model_card", "benchmark", "method"),
        revision=revision("model_card"),
    shell:
        "python -m meddino model_card --options {params.options:q} --description {input.description:q}"
        " --scores {input.scores:q} --output {output:q} > {log:q} 2>&1"


rule scores:
    input:
        **jobs.report.scores_inputs(STUDY),
    output:
        f"{RESULTS}/scores.parquet",
    log:
        "logs/scores.log",
    conda:
        "../../envs/meddino.yaml"
    params:
        options=options("scores"),
        revision=revision("scores"),
    shell:
        "python -m meddino scores --options {params.options:q} --scores {input:q}"
        " --output {output:q} > {log:q} 2>&1"


rule table:
    input:
        unpack(lambda wildcards: jobs.report.tables_inputs(STUDY, wildcards.table)),
    output:
        csv=f"{RESULTS}/tables/{{table}}.csv",
        md=f"{RESULTS}/tables/{{table}}.md",
        tex=f"{RESULTS}/tables/{{table}}.tex",
    log:
        "logs/tables/{table}.log",
    conda:
        "../../envs/meddino.yaml"
    params:
        options=options("tables", "table"),
        revision=revision("tables"),
    shell:
        "python -m meddino tables --options {params.options:q} --scores {input.scores:q}"
        " --plans {input.plans:q} --output {output.csv:q} > {log:q} 2>&1"


rule figures:
    input:
        **jobs.report.figures_inputs(STUDY),
    output:
        f"{RESULTS}/figures/figures.json",
    log:
        "logs/figures.log",
    benchmark:
        "logs/figures.tsv"
    conda:
        "../../envs/meddino.yaml"
    resources:
        mem_mb=grows(16000),
        runtime=grows(60),
    params:
        options=options("figures"),
        revision=revision("figures"),
    shell:
        "python -m meddino figures --options {params.options:q} --scores {input.scores:q}"
        " --pretraining {input.pretraining:q} --finetuning {input.finetuning:q} --predictions {input.predictions:q}"
        " --datasets {input.datasets:q} --probes {input.probes:q} --output {output:q} > {log:q} 2>&1"


# What the report shows of a case when it is clicked on.
rule overlays:
    input:
        unpack(
            lambda wildcards: jobs.report.overlays_inputs(STUDY, wildcards.benchmark)
        ),
    output:
        f"{RESULTS}/overlays/{{benchmark}}/index.json",
    log:
        "logs/overlays/{benchmark}.log",
    benchmark:
        "logs/overlays/{benchmark}.tsv"
    conda:
        "../../envs/meddino.yaml"
    resources:
        mem_mb=grows(8000),
        runtime=grows(120),
    params:
        options=options("overlays"),
        revision=revision("overlays"),
    shell:
        "python -m meddino overlays --options {params.options:q} --dataset {input.dataset:q}"
        " --predictions {input.predictions:q} --scores {input.scores:q} --output {output:q} > {log:q} 2>&1"


# What each stage of pretraining makes of a few validation cases.
rule feature_figures:
    input:
        **jobs.report.feature_figures_inputs(STUDY),
    output:
        f"{RESULTS}/features/figures.json",
    log:
        "logs/feature_figures.log",
    benchmark:
        "logs/feature_figures.tsv"
    conda:
        "../../envs/meddino.yaml"
    threads: 8
    resources:
        mem_mb=grows(16000),
        runtime=grows(240),
    params:
        options=options("feature_figures"),
        revision=revision("feature_figures"),
        files=flags,
    shell:
        "python -m meddino feature_figures --options {params.options:q} {params.files}"
        " --output {output:q} > {log:q} 2>&1"


# Where everything came from, back to the raw data: after all that the report shows, and before it.
rule provenance:
    input:
        **jobs.report.provenance_inputs(STUDY),
    output:
        crate=f"{RESULTS}/ro-crate-metadata.json",
        records=f"{RESULTS}/provenance.json",
    log:
        "logs/provenance.log",
    conda:
        "../../envs/meddino.yaml"
    params:
        options=options("provenance"),
        revision=revision("provenance"),
    shell:
        "python -m meddino provenance --options {params.options:q} --results {input:q}"
        " --output {output.crate:q} > {log:q} 2>&1"


rule report:
    input:
        **jobs.report.report_inputs(STUDY),
    output:
        f"{RESULTS}/report.html",
    log:
        "logs/report.log",
    conda:
        "../../envs/meddino.yaml"
    params:
        options=options("report"),
        revision=revision("report"),
    shell:
        "python -m meddino report --options {params.options:q} --tables {input.tables:q}"
        " --figures {input.figures:q} --card {input.card:q} --scores {input.scores:q}"
        " --overlays {input.overlays:q} --pretraining {input.pretraining:q}"
        " --finetuning {input.finetuning:q} --probes {input.probes:q}"
        " --quarantine {input.quarantine:q} --provenance {input.provenance:q} --output {output:q} > {log:q} 2>&1"
