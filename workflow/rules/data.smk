# Download of each dataset -> axial slices of each chunk of its volumes -> shards -> index.
rule phantom:
    output:
        f"{RESOURCES}/phantom/{{dataset}}/SHA256SUMS",
    log:
        "logs/phantom/{dataset}.log",
    benchmark:
        "logs/phantom/{dataset}.tsv"
    conda:
        "../../envs/meddino.yaml"
    params:
        options=options("phantom", "dataset"),
        revision=revision("phantom"),
    shell:
        "python -m meddino phantom --options {params.options:q} --output {output:q} > {log:q} 2>&1"


rule fetch:
    input:
        lambda wildcards: jobs.data.fetch_inputs(STUDY, wildcards.dataset),
    output:
        f"{RESOURCES}/raw/{{dataset}}/.fetched.json",
    log:
        "logs/fetch/{dataset}.log",
    benchmark:
        "logs/fetch/{dataset}.tsv"
    conda:
        "../../envs/meddino.yaml"
    threads: 4
    resources:
        mem_mb=grows(4000),
        runtime=grows(2880),
    params:
        options=options("fetch", "dataset"),
        revision=revision("fetch"),
    shell:
        "python -m meddino fetch --options {params.options:q} --output {output:q} > {log:q} 2>&1"


rule slices:
    input:
        raw=f"{RESOURCES}/raw/{{dataset}}/.fetched.json",
    output:
        report=f"{RESULTS}/ct3m/shards/{{dataset}}/{{chunk}}.json",
        shards=expand(
            f"{RESULTS}/ct3m/shards/{{{{dataset}}}}/{{{{chunk}}}}.{{size}}.parquet",
            size=STUDY.ct3m.sizes_px,
        ),
    log:
        "logs/slices/{dataset}.{chunk}.log",
    benchmark:
        "logs/slices/{dataset}.{chunk}.tsv"
    conda:
        "../../envs/meddino.yaml"
    resources:
        mem_mb=grows(8000),
        runtime=grows(240),
    params:
        options=options("slices", "dataset", "chunk"),
        revision=revision("slices"),
    shell:
        "python -m meddino slices --options {params.options:q} --raw {input.raw:q}"
        " --output {output.report:q} > {log:q} 2>&1"


rule duplicates:
    input:
        **jobs.data.duplicates_inputs(STUDY),
    output:
        pairs=f"{RESULTS}/ct3m/duplicates.parquet",
        overlap=f"{RESULTS}/ct3m/overlap.csv",
    log:
        "logs/duplicates.log",
    benchmark:
        "logs/duplicates.tsv"
    conda:
        "../../envs/meddino.yaml"
    resources:
        mem_mb=grows(32000),
        runtime=grows(240),
    params:
        options=options("duplicates"),
        revision=revision("duplicates"),
    shell:
        "python -m meddino duplicates --options {params.options:q} --reports {input.reports:q}"
        " --output {output.pairs:q} > {log:q} 2>&1"


rule index:
    input:
        unpack(lambda wildcards: jobs.data.index_inputs(STUDY, wildcards.size, "paper")),
    output:
        index=f"{RESULTS}/ct3m/index.{{size}}.parquet",
        card=f"{RESULTS}/ct3m/index.{{size}}.card.json",
    log:
        "logs/index/{size}.log",
    benchmark:
        "logs/index/{size}.tsv"
    conda:
        "../../envs/meddino.yaml"
    resources:
        mem_mb=grows(16000),
        runtime=grows(60),
    params:
        options=options("index", "size", variant="paper"),
        revision=revision("index"),
        files=lambda wildcards, input: flags(wildcards, input, without=["shards"]),
    shell:
        "python -m meddino index --options {params.options:q} {params.files}"
        " --output {output.index:q} > {log:q} 2>&1"


# The same without what the benchmarks validate on, and without copies of that.
use rule index as index_leak_free with:
    input:
        unpack(
            lambda wildcards: jobs.data.index_inputs(
                STUDY, wildcards.size, "leak-free"
            )
        ),
    output:
        index=f"{RESULTS}/ct3m/index.leak-free.{{size}}.parquet",
        card=f"{RESULTS}/ct3m/index.leak-free.{{size}}.card.json",
    log:
        "logs/index/leak-free.{size}.log",
    benchmark:
        "logs/index/leak-free.{size}.tsv"
    params:
        options=options("index", "size", variant="leak-free"),
        revision=revision("index"),
        files=lambda wildcards, input: flags(wildcards, input, without=["shards"]),


rule card:
    input:
        **jobs.data.card_inputs(STUDY),
    output:
        card=f"{RESULTS}/ct3m/card/card.json",
        text=f"{RESULTS}/ct3m/card/card.md",
        figures=f"{RESULTS}/ct3m/card/figures.json",
    log:
        "logs/card.log",
    conda:
        "../../envs/meddino.yaml"
    resources:
        mem_mb=grows(16000),
        runtime=grows(60),
    params:
        options=options("card"),
        revision=revision("card"),
        files=flags,
    shell:
        "python -m meddino card --options {params.options:q} {params.files}"
        " --output {output.card:q} > {log:q} 2>&1"
