# Scores of methods by the number of labelled cases that they were trained on.
use rule verb as label_curve with:
    input:
        unpack(lambda wildcards: jobs.label_curve.label_curve_inputs(STUDY)),
    output:
        curve="<results>/label_curve/label_curve.json",
        points="<results>/label_curve/points.csv",
        needed="<results>/label_curve/needed.csv",
    log:
        "logs/label_curve.log",
    resources:
        **asks("label_curve", 4000),
    params:
        **params_of("label_curve"),
