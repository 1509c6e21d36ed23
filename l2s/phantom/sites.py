"""Where lesions of each kind sit."""

from __future__ import annotations

import numpy as np

from l2s.phantom.anatomy import Anatomy
from l2s.phantom.tissues import Tissue, members

NODE_SITES = (
    ("neck", (38, 4, 625), (10, 12, 34)),
    ("supraclavicular", (50, -14, 574), (22, 12, 10)),
    ("mediastinum", (14, -2, 490), (22, 22, 40)),
    ("hilum", (38, 10, 460), (10, 10, 14)),
    ("axilla", (148, 6, 510), (14, 18, 24)),
    ("retroperitoneum", (24, 12, 190), (12, 14, 70)),
    ("mesentery", (24, -28, 190), (36, 22, 40)),
    ("iliac", (52, 4, 58), (14, 20, 34)),
    ("inguinal", (70, -58, -16), (12, 10, 24)),
)
ORGAN_SITES = (
    ("oesophagus", (-2, 20, 440), (3, 6, 60)),
    ("oropharynx", (16, -16, 652), (8, 10, 16)),
    ("pancreas", (10, -18, 240), (40, 8, 12)),
    ("colon", (96, 16, 170), (8, 10, 60)),
    ("rectum", (0, 48, 10), (5, 6, 24)),
    ("cervix", (0, 14, 6), (6, 6, 8)),
    ("breast", (84, -112, 424), (20, 12, 20)),
    ("adrenal", (38, 36, 296), (6, 8, 8)),
    ("stomach", (58, -40, 310), (16, 14, 30)),
)
TISSUE_OF_KIND = {
    "lung": members(Tissue.LUNG),
    "lung_mass": members(Tissue.LUNG),
    "liver": members(Tissue.LIVER),
    "bone": members(Tissue.MARROW),
    "soft_tissue": members(Tissue.MUSCLE),
}


def starting_voxels(anatomy: Anatomy) -> dict[str, np.ndarray]:
    """Flat indices of the voxels in which a lesion of a kind may have its centre."""
    canvas = anatomy.canvas
    flat = canvas.tissue.ravel()
    found = {kind: np.flatnonzero(table[flat]) for kind, table in TISSUE_OF_KIND.items()}
    muscle = found["soft_tissue"]
    z = anatomy.frame.reference(canvas.z_mm)[muscle // (canvas.tissue.shape[1] * canvas.tissue.shape[2])]
    side = np.abs(canvas.x_mm[muscle % len(canvas.x_mm)] - canvas.x_mm.mean())
    # sarcomas favour thigh and buttock, then the arms; the trunk's muscle counts a fifth, head and neck not at all
    limb = (z < 110.0) | (side > 170.0)
    found["soft_tissue"] = np.concatenate([muscle[limb], muscle[~limb & (z < 550.0)][::5]])
    return found


def draw_place(rng: np.random.Generator, anatomy: Anatomy, kind: str, pool: np.ndarray | None) -> tuple[np.ndarray | None, str]:
    """A centre in mm inside the field of view, or None."""
    canvas = anatomy.canvas
    if pool is not None:
        if not len(pool):
            return None, kind
        z, y, x = np.unravel_index(int(rng.choice(pool)), canvas.tissue.shape)
        return np.array([canvas.x_mm[x], canvas.y_mm[y], canvas.z_mm[z]]), kind
    sites = NODE_SITES if kind == "node" else ORGAN_SITES
    site, centre, spread = sites[int(rng.integers(len(sites)))]
    if site == "cervix" and anatomy.frame.male:
        return None, site
    side = 1 if centre[0] == 0 else rng.choice((-1, 1))
    place = anatomy.frame.points(np.array((side * centre[0], *centre[1:])) + rng.uniform(-1.0, 1.0, 3) * spread)
    for value, axis in zip(place, (canvas.x_mm, canvas.y_mm, canvas.z_mm)):
        if not axis[0] <= value <= axis[-1]:
            return None, site
    return place, site
