# Predictions -> scores per case and structure -> the paper's tables, figures and the report.
rule evaluate:
    input:
        predictions=f"{RESULTS}/predictions/{{benchmark}}/{{method}}/fold{{fold}}/done.json",
        dataset=lambda wildcards: STUDY.nnunet_dataset(wildcards.benchmark),
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
        over_runs(f"{RESULTS}/scores/{{benchmark}}/{{method}}/fold{{fold}}.parquet"),
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
        scores=lambda wildcards: STUDY.table_scores(wildcards.table),
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
        " --output {output.csv:q} > {log:q} 2>&1"


rule figures:
    input:
        scores=f"{RESULTS}/scores.parquet",
        pretraining=[
            f"{RESULTS}/pretrain/{s}/history.jsonl" for s in STUDY.used_stages()
        ],
        finetuning=over_runs(
            f"{RESULTS}/finetune/{{benchmark}}/{{method}}/fold{{fold}}/history.jsonl"
        ),
        predictions=over_runs(
            f"{RESULTS}/predictions/{{benchmark}}/{{method}}/fold{{fold}}/done.json"
        ),
        datasets=[STUDY.nnunet_dataset(b) for b in STUDY.used_benchmarks()],
        probes=STUDY.probe_paths(),
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
        unpack(lambda wildcards: STUDY.overlay_inputs(wildcards.benchmark)),
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
        **STUDY.feature_inputs(),
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
        tables(["csv"]),
        f"{RESULTS}/figures/figures.json",
        STUDY.overlay_paths(),
        STUDY.feature_paths(),
        f"{RESULTS}/ct3m/card/card.json",
        over_runs(f"{RESULTS}/finetune/{{benchmark}}/{{method}}/fold{{fold}}/README.md"),
        STUDY.convert_quarantines(),
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
        tables=tables(["csv"]),
        figures=[f"{RESULTS}/figures/figures.json", *STUDY.feature_paths()],
        card=f"{RESULTS}/ct3m/card/card.json",
        scores=f"{RESULTS}/scores.parquet",
        overlays=STUDY.overlay_paths(),
        pretraining=[
            f"{RESULTS}/pretrain/{s}/history.jsonl" for s in STUDY.used_stages()
        ],
        finetuning=over_runs(
            f"{RESULTS}/finetune/{{benchmark}}/{{method}}/fold{{fold}}/history.jsonl"
        ),
        probes=STUDY.probe_paths(),
        quarantine=STUDY.chunk_reports() + STUDY.convert_quarantines(),
        provenance=f"{RESULTS}/provenance.json",
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
