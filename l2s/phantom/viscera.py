"""What the organ maps lack: vessels, airways, bowel, ureters, glands and paired muscles, as lines and small bodies."""

from __future__ import annotations

import numpy as np

from l2s.phantom.body import SOFT, spine_point
from l2s.phantom.frame import Frame
from l2s.phantom.shapes import Canvas, ellipsoid, paint, paint_tube, rotation, smooth_line
from l2s.phantom.tissues import Tissue, members

INNER = members(Tissue.FAT, Tissue.MUSCLE, Tissue.VISCERAL_FAT, Tissue.LUNG)
COLON = [
    (-88, 2, 88), (-98, 6, 130), (-98, 4, 190), (-88, -22, 222), (-50, -66, 200), (0, -76, 190), (50, -66, 214), (92, -12, 268),
    (104, 28, 232), (104, 28, 150), (92, 12, 92), (58, 6, 66), (30, 14, 84), (8, 34, 66), (0, 52, 36), (0, 46, -10), (0, 44, -46),
]  # fmt: skip
LOOPS = 95


def paint_muscles(canvas: Canvas, frame: Frame) -> dict[str, np.ndarray]:
    """The muscles that show up in the cavities' fat or get tense: lines by name; psoas and back muscles are painted."""
    lines = {}
    for side, name in ((-1, "right"), (1, "left")):
        back = spine_point(frame, np.arange(70.0, 560.0, 40.0)) + (side * 30.0, 42.0, 0.0)
        x = side * np.array([36, 44, 58, 72, 86])
        psoas = frame.points(np.stack([x, (38, 34, 16, -22, -16), (255, 170, 100, 30, -30)], axis=-1))
        paint_tube(canvas, back, 21.0 * frame.scale_x, Tissue.MUSCLE, members(Tissue.FAT, Tissue.VISCERAL_FAT))
        paint_tube(canvas, psoas, (10, 19, 23, 19, 12), Tissue.MUSCLE, members(Tissue.FAT, Tissue.VISCERAL_FAT))
        lines[f"psoas_{name}"] = psoas
        lines[f"back_{name}"] = back
        lines[f"neck_{name}"] = frame.points([(side * 52, 16, 668), (side * 46, -10, 620), (side * 20, -42, 560)])
        lines[f"trapezius_{name}"] = frame.points([(side * 28, 62, 630), (side * 60, 52, 590), (side * 130, 30, 568)])
        lines[f"chewing_{name}"] = frame.points([(side * 56, -22, 700), (side * 54, -16, 650)])
        lines[f"gluteus_{name}"] = frame.points([(side * 60, 92, 80), (side * 90, 84, 10), (side * 110, 50, -60)])
    return lines


def paint_vessels(rng: np.random.Generator, canvas: Canvas, frame: Frame) -> dict[str, np.ndarray]:
    """Aorta, great veins and their branches in blood; returns their lines in mm by name."""
    front = spine_point(frame, np.array([470.0, 400.0, 330.0, 250.0, 180.0, 128.0]))
    aorta = frame.points([(-14, -26, 436), (-16, -28, 480), (0, -16, 514), (18, 18, 500)])
    before = np.stack([(20, 20, 12, 8, 8, 4), (-12, -22, -30, -36, -37, -36), np.zeros(6)], axis=-1)
    descending = front + before * frame.scale_x
    cava = frame.points([(-4, 0, 120), (-20, 0, 180), (-22, 2, 240), (-24, 2, 310), (-16, -14, 380)])
    lines = {
        "aorta": smooth_line(np.vstack([aorta, descending]), 25.0),
        "cava": smooth_line(cava, 25.0),
        "upper_cava": frame.points([(-26, -14, 430), (-28, -22, 490), (-22, -34, 540)]),
        "pulmonary": frame.points([(12, -38, 452), (6, -24, 472), (-30, -2, 462)]),
        "pulmonary_left": frame.points([(6, -24, 472), (36, 6, 468)]),
    }
    radii = {"aorta": rng.uniform(11.0, 15.5), "cava": 11.0, "upper_cava": 9.5, "pulmonary": 12.5, "pulmonary_left": 11.0}
    for side, name in ((-1, "right"), (1, "left")):
        x = side * np.array([0, 30, 52, 64, 72, 70])
        groin = np.stack([x, (-6, 8, -6, -50, -42, -20), (124, 92, 50, 0, -60, -230)], axis=-1)
        lines[f"iliac_{name}"] = smooth_line(frame.points(groin), 25.0)
        x = side * np.array([12, 26, 33, 30])
        lines[f"carotid_{name}"] = frame.points(np.stack([x, (-20, -8, 0, 4), (530, 580, 640, 684)], axis=-1))
        lines[f"jugular_{name}"] = frame.points([(side * 28, -36, 542), (side * 38, -10, 590), (side * 42, 6, 650)])
        lines[f"axillary_{name}"] = frame.points([(side * 30, -30, 545), (side * 90, -6, 548), (side * 148, 10, 530)])
        radii |= {f"iliac_{name}": 7.0, f"carotid_{name}": 4.5, f"jugular_{name}": 6.0, f"axillary_{name}": 5.5}
    for name, line in lines.items():
        paint_tube(canvas, line, radii[name] * frame.scale_x, Tissue.BLOOD, INNER)
    return lines


def paint_airways(canvas: Canvas, frame: Frame) -> dict[str, np.ndarray]:
    """Windpipe, main bronchi, larynx and gullet."""
    walls = members(Tissue.FAT, Tissue.MUSCLE, Tissue.VISCERAL_FAT, Tissue.LUNG, Tissue.BLOOD)
    lines = {"trachea": frame.points([(0, -14, 620), (0, -12, 570), (0, 4, 520), (0, 10, 484)])}
    gullet = spine_point(frame, np.array([600.0, 540.0, 480.0, 410.0, 360.0])) + np.array([-4.0, -24.0, 0.0])
    lines["oesophagus"] = np.vstack([gullet, frame.points([(20, -8, 344)])])
    paint_tube(canvas, lines["oesophagus"], 8.0, Tissue.BOWEL, walls)
    larynx = frame.points([(0, -26, 618), (0, -24, 592)])
    paint_tube(canvas, larynx, 16.0, Tissue.LARYNX, walls)
    paint_tube(canvas, lines["trachea"], 8.5, Tissue.GAS)
    paint_tube(canvas, larynx, 6.0, Tissue.GAS)
    for side in (-1, 1):
        paint_tube(canvas, frame.points([(0, 10, 486), (side * 34, 14, 456)]), 6.5, Tissue.GAS)
    lines["larynx"] = larynx
    return lines


def paint_bowel(rng: np.random.Generator, canvas: Canvas, frame: Frame) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Colon with stool and gas, and loops of small bowel; returns lines and radii by name."""
    place = members(Tissue.VISCERAL_FAT, Tissue.FAT)
    colon = smooth_line(frame.points(np.array(COLON) + rng.normal(0.0, (5.0, 5.0, 7.0), (len(COLON), 3))), 14.0)
    colon_radii = np.clip(rng.normal(22.0, 4.5) * np.exp(0.22 * _wander(rng, len(colon), 2)), 11.0, 38.0)
    loops, steps = np.zeros((LOOPS, 3)), rng.normal(0.0, 1.0, (LOOPS, 3))
    position, heading = np.array([20.0, -30.0, 205.0]), np.array([1.0, 0.0, 0.0])
    for k, step in enumerate(steps):
        heading = 0.55 * heading + step * (1.0, 0.7, 0.5)
        home = (np.array([0.0, -38.0, 190.0 - 130.0 * k / LOOPS]) - position) * (0.09, 0.2, 0.16)
        position = position + 22.0 * heading / np.linalg.norm(heading) + home
        loops[k] = position
    small = smooth_line(frame.points(loops), 12.0)
    small_radii = np.clip(rng.normal(13.0, 1.8) * np.exp(0.15 * _wander(rng, len(small), 3)), 9.0, 20.0)
    for line, radii, gas_share in ((small, small_radii, 0.12), (colon, colon_radii, 0.45)):
        paint_tube(canvas, line, radii, Tissue.BOWEL, place)
        filled = _wander(rng, len(line), 4)
        for k in range(len(line) - 1):
            gas = filled[k] > np.interp(gas_share, (0.0, 0.5, 1.0), (2.5, 0.0, -2.5))
            inner = radii[k : k + 2] - (3.5 if gas else 5.0)
            if inner.min() > 2.5:
                paint_tube(canvas, line[k : k + 2], inner, Tissue.GAS if gas else Tissue.LUMEN, members(Tissue.BOWEL))
    return {"colon": (colon, colon_radii), "small_bowel": (small, small_radii)}


def _wander(rng: np.random.Generator, n: int, smooth: int) -> np.ndarray:
    """A random walk-like curve of unit variance, correlated over a few points."""
    kernel = np.hanning(2 * smooth + 3)
    value = np.convolve(rng.standard_normal(n + len(kernel)), kernel / np.sqrt((kernel**2).sum()), mode="same")
    return value[len(kernel) // 2 :][:n]


def paint_glands(rng: np.random.Generator, canvas: Canvas, frame: Frame) -> None:
    """Thyroid, tonsils, thymus, tongue, pancreas, breasts, uterus or testes."""
    soft = SOFT.copy()

    def put(centre, semi, tissue, turn=(0.0, 0.0, 0.0), rough=0.2, over=soft):
        slices, value = ellipsoid(canvas, frame.points(centre), frame.semi(semi), rotation(turn), rough)
        paint(canvas, slices, value < 1.0, tissue, over)

    put((0, -48, 650), (22, 30, 16), Tissue.MUSCLE)
    for side in (-1, 1):
        put((side * 17, -20, 588), (9, 11, 21), Tissue.THYROID)
        put((side * 17, -14, 658), (8, 9, 12), Tissue.TONSIL, over=members(Tissue.FAT, Tissue.MUSCLE, Tissue.GAS))
    put((0, -22, 684), (16, 8, 9), Tissue.TONSIL, over=members(Tissue.FAT, Tissue.MUSCLE, Tissue.GAS))
    put((0, -46, 500), (17, 10, 28), Tissue.THYMUS)
    for centre, semi in (((-24, -24, 226), (20, 16, 20)), ((12, -20, 244), (32, 11, 13)), ((56, 4, 262), (30, 12, 13))):
        put(centre, semi, Tissue.PANCREAS, (0.0, -0.3, 0.0))
    if frame.male:
        for side in (-1, 1):
            put((side * 18, -70, -92), (15, 18, 22), Tissue.FAT, over=members(Tissue.AIR))
            put((side * 17, -70, -94), (11, 14, 18), Tissue.TESTIS)
        return
    put((rng.normal(0, 8), 8, 34), (24, 20, 34), Tissue.UTERUS, (-0.7, 0.0, 0.0))
    size = np.interp(frame.bmi, (17, 40), (0.75, 1.5)) * rng.uniform(0.8, 1.2)
    for side in (-1, 1):
        put((side * 84, -108, 424), np.array((52, 38, 48)) * size, Tissue.FAT, over=members(Tissue.AIR))
        put((side * 84, -112, 422), np.array((34, 24, 32)) * size, Tissue.GLAND, rough=0.5, over=members(Tissue.FAT))


def ureters(rng: np.random.Generator, frame: Frame) -> dict[str, np.ndarray]:
    """Lines from the kidneys' pelves to the bladder; too thin to be painted in CT."""
    lines = {}
    for side, name in ((-1, "right"), (1, "left")):
        x = side * np.array([46, 36, 36, 46, 34, 14])
        way = np.stack([x, (38, 24, 14, 22, 18, -2), (232, 185, 120, 68, 22, 6)], axis=-1)
        lines[f"ureter_{name}"] = smooth_line(frame.points(way + rng.normal(0.0, 4.0, way.shape)), 8.0)
    return lines
