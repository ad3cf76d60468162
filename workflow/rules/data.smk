# Download of each dataset -> axial slices of each chunk of its volumes -> shards -> index.
rule phantom:
    output:
        f"{RESOURCES}/phantom/{{dataset}}/SHA256SUMS",
    log:
        "logs/phantom/{dataset}.log",
    benchmark:
        "logs/phantom/{dataset}.tsv"
    params:
        options=options("phantom", "dataset"),
        revision=revision("phantom"),
    shell:
        "python -m meddino phantom --options {params.options:q} --output {output:q} > {log:q} 2>&1"


rule fetch:
    input:
        lambda wildcards: STUDY.mirror_files(wildcards.dataset),
    output:
        f"{RESOURCES}/raw/{{dataset}}/.fetched.json",
    log:
        "logs/fetch/{dataset}.log",
    benchmark:
        "logs/fetch/{dataset}.tsv"
    threads: 4
    resources:
        mem_mb=4000,
        runtime=2880,
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
    resources:
        mem_mb=8000,
        runtime=240,
    params:
        options=options("slices", "dataset", "chunk"),
        revision=revision("slices"),
    shell:
        "python -m meddino slices --options {params.options:q} --raw {input.raw:q}"
        " --output {output.report:q} > {log:q} 2>&1"


rule index:
    input:
        reports=STUDY.chunk_reports(),
        shards=lambda wildcards: STUDY.shards(wildcards.size),
    output:
        f"{RESULTS}/ct3m/index.{{size}}.parquet",
    log:
        "logs/index/{size}.log",
    benchmark:
        "logs/index/{size}.tsv"
    resources:
        mem_mb=16000,
        runtime=60,
    params:
        options=options("index", "size"),
        revision=revision("index"),
    shell:
        "python -m meddino index --options {params.options:q} --reports {input.reports:q}"
        " --output {output:q} > {log:q} 2>&1"
