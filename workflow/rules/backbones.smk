# Pretrained ViTs beside each other: scores, frozen probes, sizes, licences (docs/backbones.md).
use rule verb as backbones with:
    input:
        **jobs.backbones.backbones_inputs(STUDY),
    output:
        "<results>/backbones/backbones.json",
    log:
        "logs/backbones.log",
    benchmark:
        "logs/backbones.tsv"
    resources:
        **asks("backbones", 16000),
    params:
        **params_of("backbones"),
