"""The stages of config.yaml, where no YAML can be read: a bare machine has no reader of it.

Each works on one group of slices at once, so that figures of different GPUs compare.

tests/benchmarks/test_gpu.py holds them against config.yaml.
"""

from dataclasses import replace

from meddino.pretrain.options import Objective, Optimisation, Resolution, StageOptions

BACKBONE = "vitb16"
STAGE1 = StageOptions(
    slices_px=256,
    init="dinov3",
    iterations=100_000,
    snapshots=(20_000, 100_000),
    batch_size=512,
    micro_batch=64,
    group_size=64,
    resolutions=(Resolution(global_px=256, local_px=112),),
    optim=Optimisation(lr=2e-4, warmup=2000, freeze_last_layer=1250),
    objective=Objective(teacher_temperature_warmup=10_000),
    drop_path=0.1,
    precision="bf16",
    activation_checkpointing="auto",
    compile=True,
    log_every=20,
    checkpoint_every=500,
)
STAGE2 = replace(
    STAGE1,
    slices_px=512,
    init="stage1@100000",
    gram_teacher="stage1@20000",
    iterations=10_000,
    snapshots=(10_000,),
    resolutions=(Resolution(global_px=256, local_px=112, gram_px=512),),
    optim=Optimisation(lr=5e-5, warmup=500, momentum=(0.999, 0.999)),
    objective=Objective(gram=2.0, dino_local=0.5, teacher_temperature=(0.07, 0.07)),
    checkpoint_every=250,
)
STAGE3 = replace(
    STAGE2,
    init="stage2@10000",
    micro_batch=16,
    group_size=16,
    resolutions=(
        Resolution(global_px=512, local_px=112, gram_px=768, ratio=0.3),
        Resolution(global_px=768, local_px=112, gram_px=1152, ratio=0.3),
        Resolution(global_px=768, local_px=168, gram_px=1152, ratio=0.3),
        Resolution(global_px=768, local_px=224, gram_px=1152, ratio=0.05),
        Resolution(global_px=768, local_px=336, gram_px=1152, ratio=0.05),
    ),
    optim=Optimisation(lr=2.5e-5, warmup=500, momentum=(0.999, 0.999)),
    objective=Objective(gram=1.5, dino_local=0.5, teacher_temperature=(0.07, 0.07)),
    checkpoint_every=100,
)
STAGES = {"stage1": STAGE1, "stage2": STAGE2, "stage3": STAGE3}
