"""Physiological FDG uptake: what a healthy body shows one hour after injection, and the benign spots that fool a threshold.

SUV by tissue after Wang et al. 2007 (Mol Imaging Biol 9:83) and Zincirkeser et al. 2007 (J Int Med Res 35:231); the benign variants
are those of Shreve et al. 1999 (RadioGraphics 19:61).
"""

from __future__ import annotations

import numpy as np

from l2s.phantom import frame as fr
from l2s.phantom.anatomy import Anatomy
from l2s.phantom.shapes import Canvas, ellipsoid, tube
from l2s.phantom.tissues import Tissue, members

# SUV in the middle of people, and the standard deviation of its logarithm between people
SUV = {
    Tissue.FAT: (0.24, 0.25),
    Tissue.MUSCLE: (0.68, 0.18),
    Tissue.VISCERAL_FAT: (0.38, 0.25),
    Tissue.LUNG: (0.45, 0.2),
    Tissue.LIVER: (2.25, 0.17),
    Tissue.SPLEEN: (1.8, 0.18),
    Tissue.KIDNEY_CORTEX: (3.2, 0.3),
    Tissue.KIDNEY_MEDULLA: (4.0, 0.35),
    Tissue.URINE: (13.0, 0.8),
    Tissue.BLADDER: (17.0, 0.8),
    Tissue.GREY: (10.5, 0.2),
    Tissue.WHITE: (4.2, 0.2),
    Tissue.CSF: (0.9, 0.2),
    Tissue.BLOOD: (1.7, 0.16),
    Tissue.CORTICAL: (0.5, 0.2),
    Tissue.MARROW: (1.35, 0.22),
    Tissue.FATTY_MARROW: (0.45, 0.25),
    Tissue.DISC: (0.7, 0.2),
    Tissue.STOMACH: (2.2, 0.35),
    Tissue.LUMEN: (0.8, 0.25),
    Tissue.BOWEL: (1.5, 0.3),
    Tissue.GAS: (0.15, 0.3),
    Tissue.PROSTATE: (1.7, 0.25),
    Tissue.UTERUS: (1.9, 0.4),
    Tissue.SALIVARY: (2.1, 0.3),
    Tissue.TONSIL: (3.8, 0.35),
    Tissue.THYROID: (1.5, 0.25),
    Tissue.THYMUS: (0.9, 0.35),
    Tissue.LARYNX: (1.7, 0.3),
    Tissue.CORD: (1.9, 0.2),
    Tissue.EYE: (1.6, 0.25),
    Tissue.TESTIS: (2.6, 0.3),
    Tissue.GLAND: (0.8, 0.3),
    Tissue.SKIN: (0.6, 0.2),
    Tissue.PANCREAS: (1.5, 0.2),
}
MUSCLES = ("psoas", "back", "neck", "trapezius", "chewing", "gluteus", "arm", "leg")
SITES_OF_BROWN_FAT = ((62, 22, 588), (84, 18, 572), (46, 30, 606), (36, 50, 470), (36, 50, 430), (36, 48, 390), (150, 12, 516))
JOINTS = (
    ("shoulder", (178, 12, 548), (26, 24, 26)),
    ("hip", (86, 4, 2), (32, 32, 32)),
    ("knee", (82, 0, -425), (46, 40, 36)),
    ("sternoclavicular", (20, -52, 548), (10, 9, 10)),
    ("facet", (22, 66, 130), (8, 9, 12)),
    ("trochanter", (122, 16, -32), (15, 12, 20)),
)


def blend(image: np.ndarray, slices, weight: np.ndarray, value: float | np.ndarray) -> None:
    """Move image[slices] towards value by weight 0..1."""
    view = image[slices]
    view += np.clip(weight, 0.0, 1.0).astype(np.float32) * (np.float32(value) - view)


def soft(value: np.ndarray) -> np.ndarray:
    """Weight of an ellipsoid or tube from its squared distance: 1 inside, falling to 0 from 0.8 to 1.2."""
    return np.clip((1.2 - value) / 0.4, 0.0, 1.0)


def suv_image(rng: np.random.Generator, anatomy: Anatomy) -> tuple[np.ndarray, dict]:
    """float32 SUV without blur or noise, and the facts of this patient's physiology (names of variants, organ SUVs)."""
    canvas = anatomy.canvas
    table = _suv_table(rng)
    suv = table[canvas.tissue]
    # organs are not flat: slow drifts of 6 % and grains of 8 %
    suv *= np.clip(1.0 + 0.06 * canvas.lumps + 0.08 * canvas.grain, 0.6, 1.5)
    facts = {"variants": []}
    facts |= {
        f"{t.name.lower()}_suv": round(float(table[t]), 2) for t in (Tissue.LIVER, Tissue.BLOOD, Tissue.BLADDER, Tissue.MARROW)
    }
    _heart_wall(rng, anatomy, suv, facts)
    _brain(rng, anatomy, suv)
    _urinary(rng, anatomy, suv, facts)
    _bowel(rng, anatomy, suv, facts)
    _muscles(rng, anatomy, suv, facts)
    _brown_fat(rng, anatomy, suv, facts)
    _spots(rng, anatomy, suv, facts)
    return suv, facts


def _suv_table(rng: np.random.Generator) -> np.ndarray:
    table = np.zeros(256, dtype=np.float32)
    # one factor for all soft tissue: body weight and blood glucose move them together
    common = rng.normal(0.0, 0.1)
    for tissue, (middle, spread) in SUV.items():
        shared = 0.0 if tissue in (Tissue.BLADDER, Tissue.URINE) else common
        table[tissue] = middle * np.exp(shared + spread * np.clip(rng.standard_normal(), -2.2, 2.2))
    if rng.random() < 0.35:  # urine that furosemide and drinking have thinned
        table[[Tissue.BLADDER, Tissue.URINE]] *= 0.45
    if rng.random() < 0.12:  # marrow stimulated by growth factors, anaemia or inflammation
        table[Tissue.MARROW] *= rng.uniform(1.6, 2.6)
        table[Tissue.SPLEEN] *= rng.uniform(1.0, 1.4)
    if rng.random() < 0.08:
        table[Tissue.THYROID] *= rng.uniform(2.5, 5.0)
    if rng.random() < 0.15:
        table[Tissue.THYMUS] *= rng.uniform(1.8, 3.2)
    if rng.random() < 0.12:
        table[Tissue.UTERUS] *= rng.uniform(1.5, 3.0)
    table[Tissue.WHITE] = table[Tissue.GREY] * rng.uniform(0.33, 0.45)
    return table


def _heart_wall(rng: np.random.Generator, anatomy: Anatomy, suv: np.ndarray, facts: dict) -> None:
    """The left ventricle takes up nothing or much, evenly or in one part: diet decides, not disease."""
    box = anatomy.organ_boxes.get(fr.HEART)
    level = rng.uniform(1.6, 3.0) if rng.random() < 0.35 else float(np.clip(rng.lognormal(np.log(6.0), 0.5), 2.0, 16.0))
    facts["heart_suv"] = round(level, 1)
    if box is None:
        return
    canvas = anatomy.canvas
    wall = (canvas.tissue[box] == Tissue.MYOCARDIUM).astype(np.float32)
    x, y, z = canvas.x_mm[box[2]], canvas.y_mm[box[1]], canvas.z_mm[box[0]]
    slope = rng.normal(0.0, 0.35, 3)
    along = [s * (v - v.mean()) / 45.0 for s, v in zip(slope, (x, y, z))]
    tilt = along[0][None, None, :] + along[1][None, :, None] + along[2][:, None, None]
    # the thin right ventricle lies to the right and takes up about a third
    right = np.clip((x.mean() - x - 5.0) / 30.0, 0.0, 1.0)[None, None, :]
    patchy = 1.0 + rng.uniform(0.05, 0.3) * canvas.lumps[box] + tilt
    blend(suv, box, wall, level * np.clip(patchy, 0.25, 1.6) * (1.0 - 0.65 * right) + 1.0)


def _brain(rng: np.random.Generator, anatomy: Anatomy, suv: np.ndarray) -> None:
    """Cerebellum below the cortex; regional differences of the cortex."""
    box = anatomy.organ_boxes.get(fr.BRAIN)
    if box is None:
        return
    canvas = anatomy.canvas
    brain = members(Tissue.GREY, Tissue.WHITE)[canvas.tissue[box]].astype(np.float32)
    z, y = canvas.z_mm[box[0]], canvas.y_mm[box[1]]
    low = (z < anatomy.frame.z(705.0))[:, None, None] & (y > y.mean() + 8)[None, :, None]
    factor = np.where(low, rng.uniform(0.7, 0.95), 1.0) * (1.0 + 0.08 * canvas.lumps[box])
    suv[box] *= 1.0 + brain * (factor.astype(np.float32) - 1.0)


def _urinary(rng: np.random.Generator, anatomy: Anatomy, suv: np.ndarray, facts: dict) -> None:
    """Hot stretches of the ureters, and now and then a drop below the bladder."""
    urine = float(suv[anatomy.canvas.tissue == Tissue.URINE].mean()) if (anatomy.canvas.tissue == Tissue.URINE).any() else 9.0
    for name in ("ureter_left", "ureter_right"):
        line = anatomy.lines[name]
        for _ in range(int(rng.choice((0, 1, 2, 3, 4), p=(0.35, 0.25, 0.2, 0.12, 0.08)))):
            start = int(rng.integers(0, len(line) - 3))
            stop = min(start + int(rng.geometric(0.3)) + 1, len(line) - 1)
            _hot_line(anatomy.canvas, suv, line[start : stop + 1], rng.uniform(3.0, 5.0), urine * rng.uniform(0.4, 1.4))
            facts["variants"].append(name)
    if rng.random() < 0.4:
        down = anatomy.frame.points([(0, -4, -24), (0, -30, -60)])
        _hot_line(anatomy.canvas, suv, down, 5.0, urine * rng.uniform(0.15, 0.8))


def _hot_line(canvas: Canvas, suv: np.ndarray, line: np.ndarray, radius, value: float) -> None:
    radius = np.broadcast_to(radius, len(line))
    for k, (slices, distance) in enumerate(tube(canvas, line, radius * 1.2)):
        keep = (canvas.tissue[slices] != Tissue.AIR) * soft(distance * 1.44)
        blend(suv, slices, keep * (0.9 if k % 2 else 1.0), value)


def _bowel(rng: np.random.Generator, anatomy: Anatomy, suv: np.ndarray, facts: dict) -> None:
    """None, even or patchy uptake along colon and small bowel (metformin makes it intense), plus single loops and the anus."""
    for name, calm in (("colon", 0.5), ("small_bowel", 0.6)):
        if rng.random() < calm:
            continue
        line, radii = anatomy.lines[name], anatomy.bowel_radii[name]
        level, centre = float(np.clip(rng.lognormal(np.log(3.0), 0.45), 1.8, 9.0)), int(rng.integers(len(line)))
        length = len(line) if rng.random() < 0.3 else int(rng.integers(2, max(len(line) // 3, 4)))
        facts["variants"].append(name)
        walk = np.clip(np.convolve(rng.normal(0.9, 0.6, len(line)), (0.25, 0.5, 0.25), mode="same"), 0.1, 1.8)
        for k in range(max(centre - length, 0), min(centre + length, len(line) - 1)):
            for slices, distance in tube(anatomy.canvas, line[k : k + 2], radii[k : k + 2]):
                wall = members(Tissue.BOWEL, Tissue.LUMEN)[anatomy.canvas.tissue[slices]]
                blend(suv, slices, wall * soft(distance) * np.clip(0.45 + 0.6 * distance, 0, 1), level * walk[k])
    if rng.random() < 0.35:
        _hot_line(anatomy.canvas, suv, anatomy.frame.points([(0, 44, -32), (0, 42, -52)]), 9.0, rng.uniform(2.0, 4.5))
    if rng.random() < 0.3:
        _hot_line(anatomy.canvas, suv, anatomy.lines["oesophagus"][-3:], 8.0, rng.uniform(2.0, 4.0))


def _muscles(rng: np.random.Generator, anatomy: Anatomy, suv: np.ndarray, facts: dict) -> None:
    """Groups of muscles that worked after the injection."""
    tense = set()
    for group in MUSCLES:
        first, second = rng.permutation(("left", "right"))
        if rng.random() < 0.1:
            tense |= {f"{group}_{first}"} | ({f"{group}_{second}"} if rng.random() < 0.7 else set())
    for name in sorted(tense):
        line = anatomy.lines[name]
        level, wide = rng.uniform(1.2, 4.0), 11.0 if name.startswith(("neck", "chewing", "trapezius")) else 22.0
        facts["variants"].append(name)
        for slices, distance in tube(anatomy.canvas, line, wide * anatomy.frame.scale_x):
            muscle = (anatomy.canvas.tissue[slices] == Tissue.MUSCLE) * np.clip(1.2 - distance, 0.0, 1.0)
            blend(suv, slices, muscle * np.clip(0.6 + 0.4 * anatomy.canvas.lumps[slices], 0.0, 1.0), level)


def _brown_fat(rng: np.random.Generator, anatomy: Anatomy, suv: np.ndarray, facts: dict) -> None:
    """Active brown fat on both sides of neck, collar bones and spine: hot, and fat in CT."""
    if rng.random() > 0.07:
        return
    facts["variants"].append("brown_fat")
    level = float(np.clip(rng.lognormal(np.log(5.0), 0.5), 2.5, 15.0))
    canvas = anatomy.canvas
    for centre in SITES_OF_BROWN_FAT:
        if rng.random() < 0.25:
            continue
        for side in (-1, 1):
            place = anatomy.frame.points(np.array((side * centre[0], *centre[1:])) + rng.normal(0.0, 4.0, 3))
            slices, value = ellipsoid(canvas, place, rng.uniform(8.0, 19.0, 3), rough=0.45)
            inside = soft(value) * members(Tissue.FAT, Tissue.MUSCLE, Tissue.VISCERAL_FAT)[canvas.tissue[slices]]
            view = canvas.tissue[slices]
            view[(inside > 0.6) & (view == Tissue.MUSCLE)] = Tissue.FAT
            blend(suv, slices, inside, level * rng.uniform(0.5, 1.2))


def _spots(rng: np.random.Generator, anatomy: Anatomy, suv: np.ndarray, facts: dict) -> None:
    """Worn joints, vocal cords, the injected vein, ovaries, faint healthy nodes."""
    canvas, frame = anatomy.canvas, anatomy.frame
    for name, centre, semi in JOINTS:
        for side in (-1, 1):
            if rng.random() < 0.1:
                place = frame.points((side * centre[0], *centre[1:]))
                slices, value = ellipsoid(canvas, place, np.array(semi) * 1.15, rough=0.3)
                # synovium: a shell, not a ball
                shell = soft(value) * np.clip(value + 0.35, 0.0, 1.0) * (canvas.tissue[slices] > 0)
                blend(suv, slices, shell, rng.uniform(1.3, 3.2))
                facts["variants"].append(f"joint_{name}")
    if rng.random() < 0.25:
        _hot_line(canvas, suv, frame.points([(-9, -30, 604), (9, -30, 604)]), 6.0, rng.uniform(2.5, 6.0))
        facts["variants"].append("vocal_cords")
    if not frame.male and rng.random() < 0.1:
        slices, value = ellipsoid(canvas, frame.points((rng.choice((-1, 1)) * 46, 6, 46)), (11, 11, 11), rough=0.2)
        blend(suv, slices, soft(value), rng.uniform(2.5, 6.0))
        facts["variants"].append("ovary")
    if rng.random() < 0.18:
        arm = anatomy.lines[str(rng.choice(("arm_left", "arm_right")))]
        place = arm[1] + (arm[2] - arm[1]) * rng.uniform(0.0, 0.9) + rng.normal(0.0, 12.0, 3)
        slices, value = ellipsoid(canvas, place, rng.uniform(4.0, 11.0, 3), rough=0.3)
        blend(suv, slices, soft(value) * (canvas.tissue[slices] > 0), float(np.clip(rng.lognormal(np.log(15.0), 0.8), 3.0, 90.0)))
        facts["variants"].append("injection")
    for centre in ((72, -58, -12), (148, 8, 512), (38, 2, 630)):
        for side in (-1, 1):
            if rng.random() < 0.2:
                place = frame.points(np.array((side * centre[0], *centre[1:])) + rng.normal(0.0, 8.0, 3))
                slices, value = ellipsoid(canvas, place, rng.uniform(4.0, 6.5, 3))
                blend(suv, slices, soft(value) * (canvas.tissue[slices] > 0), rng.uniform(0.9, 1.7))
