"""A finetuned model as a folder that others load: weights, card, licences, MONAI, nnU-Net."""
