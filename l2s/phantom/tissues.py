"""The tissues a phantom is made of and their CT numbers.

HU: soft tissues and bone after Schneider et al. 2000 (Phys Med Biol 45:459) and the compositions of ICRU Report 46 (1992); lung at
shallow breathing.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np


class Tissue(IntEnum):
    """One value a voxel of the canvas."""

    AIR = 0
    FAT = 1
    MUSCLE = 2
    VISCERAL_FAT = 3
    LUNG = 4
    LIVER = 5
    SPLEEN = 6
    KIDNEY_CORTEX = 7
    KIDNEY_MEDULLA = 8
    URINE = 9
    BLADDER = 10
    GREY = 11
    WHITE = 12
    CSF = 13
    MYOCARDIUM = 14
    BLOOD = 15
    CORTICAL = 16
    MARROW = 17
    FATTY_MARROW = 18
    DISC = 19
    STOMACH = 20
    LUMEN = 21
    BOWEL = 22
    GAS = 23
    PROSTATE = 24
    UTERUS = 25
    SALIVARY = 26
    TONSIL = 27
    THYROID = 28
    THYMUS = 29
    LARYNX = 30
    CORD = 31
    EYE = 32
    TESTIS = 33
    GLAND = 34
    SKIN = 35
    PANCREAS = 36


# mean HU, and how much the mean differs from patient to patient
HU = {
    Tissue.AIR: (-1000, 0),
    Tissue.FAT: (-103, 6),
    Tissue.MUSCLE: (52, 8),
    Tissue.VISCERAL_FAT: (-95, 8),
    Tissue.LUNG: (-780, 50),
    Tissue.LIVER: (58, 8),
    Tissue.SPLEEN: (50, 5),
    Tissue.KIDNEY_CORTEX: (36, 4),
    Tissue.KIDNEY_MEDULLA: (32, 4),
    Tissue.URINE: (8, 4),
    Tissue.BLADDER: (6, 4),
    Tissue.GREY: (38, 2),
    Tissue.WHITE: (29, 2),
    Tissue.CSF: (8, 3),
    Tissue.MYOCARDIUM: (48, 5),
    Tissue.BLOOD: (41, 5),
    Tissue.CORTICAL: (950, 180),
    Tissue.MARROW: (190, 60),
    Tissue.FATTY_MARROW: (30, 50),
    Tissue.DISC: (85, 10),
    Tissue.STOMACH: (42, 5),
    Tissue.LUMEN: (15, 12),
    Tissue.BOWEL: (38, 6),
    Tissue.GAS: (-960, 30),
    Tissue.PROSTATE: (42, 5),
    Tissue.UTERUS: (52, 6),
    Tissue.SALIVARY: (22, 15),
    Tissue.TONSIL: (52, 4),
    Tissue.THYROID: (105, 15),
    Tissue.THYMUS: (-40, 40),
    Tissue.LARYNX: (90, 40),
    Tissue.CORD: (32, 4),
    Tissue.EYE: (12, 4),
    Tissue.TESTIS: (38, 5),
    Tissue.GLAND: (18, 15),
    Tissue.SKIN: (40, 10),
    Tissue.PANCREAS: (38, 8),
}
# HU added by intravenous contrast in the portal-venous phase
CONTRAST = {
    Tissue.LIVER: 52,
    Tissue.SPLEEN: 65,
    Tissue.KIDNEY_CORTEX: 140,
    Tissue.KIDNEY_MEDULLA: 110,
    Tissue.BLOOD: 115,
    Tissue.MYOCARDIUM: 60,
    Tissue.PANCREAS: 50,
    Tissue.BOWEL: 45,
    Tissue.STOMACH: 40,
    Tissue.THYROID: 60,
    Tissue.PROSTATE: 30,
    Tissue.UTERUS: 45,
    Tissue.MUSCLE: 12,
    Tissue.SALIVARY: 25,
    Tissue.TONSIL: 35,
}


def members(*tissues: Tissue) -> np.ndarray:
    """A table of 256 booleans, true at the given tissues: table[canvas.tissue] is their mask."""
    table = np.zeros(256, dtype=bool)
    table[list(tissues)] = True
    return table


def hu_table(rng: np.random.Generator, contrast: bool) -> np.ndarray:
    """256 float32 HU by tissue for one patient."""
    table = np.zeros(256, dtype=np.float32)
    strength = rng.uniform(0.6, 1.2) if contrast else 0.0
    for tissue, (mean, spread) in HU.items():
        table[tissue] = mean + spread * rng.uniform(-1.5, 1.5) + strength * CONTRAST.get(tissue, 0)
    return table
