"""nnU-Net's view of the study: this folder also serves as its nnUNet_extTrainer."""
