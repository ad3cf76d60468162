"""The engine `dinov3`: a stage run by the public facebookresearch/dinov3 trainer."""
