"""The folder that nnU-Net's variable `nnUNet_extTrainer` names: trainers to choose by name."""
