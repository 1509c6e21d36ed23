"""L2SNet: localization-to-segmentation of lesions in whole-body FDG PET/CT (Cai et al. 2023). Research use only."""

__version__ = "0.1.0"
