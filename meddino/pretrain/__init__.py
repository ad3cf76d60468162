"""Self-supervised pretraining of a DINOv3 ViT on CT slices in chained stages."""
