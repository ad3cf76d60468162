# The index of each variant of CT-3M: shards are those of all, which are cut once.
use rule index as index_variant with:
    input:
        lambda wildcards: jobs.data.index_shards(
            STUDY, wildcards.size, wildcards.variant
        ),
        unpack(lambda wildcards: jobs.data.index_inputs(STUDY, wildcards.variant)),
    output:
        index="<results>/ct3m/index.{variant}.{size}.parquet",
        card="<results>/ct3m/index.{variant}.{size}.card.json",
    log:
        "logs/index/{variant}.{size}.log",
    benchmark:
        "logs/index/{variant}.{size}.tsv"
    wildcard_constraints:
        variant="|".join(STUDY.ct3m.variants) or "none",
    params:
        **params_of("index"),
