"""Drawing planes and outlines side by side at one scale, with the marks that a reader of medical images looks for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from PIL.Image import Image

LESION_RGB = (213, 94, 0)  # vermillion of the Okabe-Ito palette: told from black, grey and white by every kind of colour vision
CUT_RGB = (0, 114, 178)  # blue of the same palette
INK_RGB, FAINT_RGB, PAPER_RGB = (30, 30, 30), (110, 110, 110), (255, 255, 255)
HEIGHT_PX, WIDTH_PX = 960, 1560  # of the panels: the picture fits a screen
GAP_PX, HEAD_PX, FOOT_PX = 24, 96, 76
LEAST_WIDTH_PX = 760  # the heading and the scales need it
FINE = 2  # outlines are drawn so many times larger and shrunk: smooth lines
LINE_PX = 1.7


@dataclass(frozen=True)
class Panel:
    """One plane, head up.

    Attributes:
        title: written above it.
        plane: float (rows, columns).
        mask: bool (rows, columns); its outline is drawn.
        limits: the values that become black and white; the first may be the larger one.
        size_mm: (width, height).
        marks: letters at the left and the right edge.
        cut_mm: where along the width the CT's plane lies, if it is to be marked.
    """

    title: str
    plane: np.ndarray
    mask: np.ndarray
    limits: tuple[float, float]
    size_mm: tuple[float, float]
    marks: tuple[str, str]
    cut_mm: float | None = None


def compose(panels: list[Panel], name: str, caption: str) -> Image:
    """The whole picture: heading, panels of one height at one scale, grey scale and length scale."""
    from PIL import Image, ImageDraw

    scale = min(HEIGHT_PX / panels[0].size_mm[1], WIDTH_PX / sum(p.size_mm[0] for p in panels))
    drawn = [draw_panel(panel, scale) for panel in panels]
    inner = sum(d.width for d in drawn) + GAP_PX * (len(drawn) - 1)
    width = max(inner, LEAST_WIDTH_PX) + 2 * GAP_PX
    page = Image.new("RGB", (width, HEAD_PX + drawn[0].height + FOOT_PX), PAPER_RGB)
    pen = ImageDraw.Draw(page)
    warning = "Research use only"
    right = width - GAP_PX
    write(pen, (right, 16), warning, 20, LESION_RGB, "ra")
    room = right - GAP_PX - 24 - int(pen.textlength(warning, font(20)))
    write(pen, (GAP_PX, 14), fit(pen, name, 24, room), 24, INK_RGB, "la")
    write(pen, (GAP_PX, 46), caption, 17, INK_RGB, "la")
    left = (width - inner) // 2
    for panel, image in zip(panels, drawn):
        write(pen, (left, HEAD_PX - 6), fit(pen, panel.title, 14, image.width), 14, FAINT_RGB, "ld")
        page.paste(image, (left, HEAD_PX))
        left += image.width + GAP_PX
    draw_scales(page, HEAD_PX + drawn[0].height + 16, scale)
    return page


def draw_panel(panel: Panel, scale: float) -> Image:
    """One panel at scale pixels a mm."""
    from PIL import ImageDraw

    size = tuple(max(1, round(mm * scale)) for mm in panel.size_mm)
    black, white = panel.limits
    image = shade(panel.plane, panel.limits, size).convert("RGB")
    image.paste(LESION_RGB, (0, 0), outline(panel.mask, size))
    pen = ImageDraw.Draw(image)
    if panel.cut_mm is not None:
        x = round(panel.cut_mm * scale)
        for start in range(0, image.height, 12):
            pen.line([(x, start), (x, start + 5)], fill=CUT_RGB, width=1)
    middle, (right, bottom) = image.height // 2, (image.width - 1, image.height - 1)
    ink, halo = (INK_RGB, PAPER_RGB) if white < black else (PAPER_RGB, (0, 0, 0))
    for at, letter, anchor in (
        ((8, middle), panel.marks[0], "lm"),
        ((right - 8, middle), panel.marks[1], "rm"),
        ((right // 2, 6), "H", "ma"),
        ((right // 2, bottom - 6), "F", "md"),
    ):
        pen.text(at, letter, font=font(18), fill=ink, anchor=anchor, stroke_width=2, stroke_fill=halo)
    pen.rectangle([0, 0, right, bottom], outline=(190, 190, 190))
    return image


def shade(plane: np.ndarray, limits: tuple[float, float], size: tuple[int, int]) -> Image:
    """The plane as an 8-bit grey picture of that (width, height); limits are the values that become black and white."""
    from PIL import Image

    black, white = limits
    # clipped first: a bladder of SUV 100 must not ring around itself
    plane = np.clip(np.nan_to_num(plane, nan=black).astype(np.float32), min(limits), max(limits))
    smooth = np.asarray(Image.fromarray(plane).resize(size, Image.Resampling.BICUBIC))
    return Image.fromarray(np.rint(255 * np.clip((smooth - black) / (white - black), 0, 1)).astype(np.uint8))


def outline(mask: np.ndarray, size: tuple[int, int]) -> Image:
    """An 8-bit opacity of that (width, height): a smooth line around the mask, outside of it, so that it hides no lesion."""
    from PIL import Image, ImageFilter

    fine = Image.fromarray(mask.astype(np.float32)).resize((size[0] * FINE, size[1] * FINE), Image.Resampling.BILINEAR)
    inside = np.asarray(fine) >= 0.5
    # a blurred edge is 5 % high at 1.64 sigma: growing by blurring costs a tenth of growing voxel by voxel
    blurred = Image.fromarray(inside.astype(np.uint8) * 255).filter(ImageFilter.GaussianBlur(LINE_PX * FINE / 1.64))
    ring = (np.asarray(blurred) >= 0.05 * 255) & ~inside
    return Image.fromarray(ring.astype(np.uint8) * 255).resize(size, Image.Resampling.BOX)


def draw_scales(page: Image, top: int, scale: float) -> None:
    """SUV grey scale at the left, 100 mm at the right, the outline's meaning between."""
    from PIL import Image, ImageDraw

    pen = ImageDraw.Draw(page)
    ramp = Image.fromarray(np.tile(np.linspace(255, 0, 200, dtype=np.uint8), (14, 1)))
    left, right = GAP_PX + 34, page.width - GAP_PX
    write(pen, (GAP_PX, top + 7), "SUV", 14, INK_RGB, "lm")
    page.paste(ramp, (left + 6, top))
    pen.rectangle([left + 6, top, left + 205, top + 13], outline=FAINT_RGB)
    for share, text in ((0, "0"), (0.5, "5"), (1, "10+")):
        write(pen, (left + 6 + round(199 * share), top + 18), text, 13, INK_RGB, "ma")
    length = round(100 * scale)
    pen.line([(right - length, top + 7), (right, top + 7)], fill=INK_RGB, width=2)
    for x in (right - length, right):
        pen.line([(x, top + 2), (x, top + 12)], fill=INK_RGB, width=2)
    write(pen, (right - length // 2, top + 18), "100 mm", 13, INK_RGB, "ma")
    key = left + 206 + 36
    pen.rectangle([key, top + 1, key + 18, top + 12], outline=LESION_RGB, width=2)
    write(pen, (key + 26, top + 7), "lesion mask", 14, INK_RGB, "lm")
    key += 150
    for start in (key, key + 8, key + 16):
        pen.line([(start, top + 7), (start + 4, top + 7)], fill=CUT_RGB, width=2)
    write(pen, (key + 28, top + 7), "plane of the CT", 14, INK_RGB, "lm")


def font(size: int):
    """The font that Pillow carries in itself."""
    from PIL import ImageFont

    return ImageFont.load_default(size)


def write(pen, at: tuple[int, int], text: str, size: int, colour: tuple[int, int, int], anchor: str) -> None:
    pen.text(at, text, font=font(size), fill=colour, anchor=anchor)


def fit(pen, text: str, size: int, room_px: int) -> str:
    """The text, its middle left out where it is wider than the room."""
    if pen.textlength(text, font(size)) <= room_px:
        return text
    keep = len(text)
    while keep > 2 and pen.textlength(text[: keep // 2] + "..." + text[len(text) - keep // 2 :], font(size)) > room_px:
        keep -= 1
    return text[: keep // 2] + "..." + text[len(text) - keep // 2 :]
