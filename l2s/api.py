"""The Python API: l2s.segment(...) -> Result. The command `l2s segment` runs through the same functions.

Nothing heavy is imported before something is segmented: `import l2s` stays light.
"""

from __future__ import annotations

import math
import numbers
import re
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from l2s.errors import InputError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    import numpy as np

    from l2s.engine import Plan
    from l2s.io.dicom_out import Findings
    from l2s.io.inputs import Case, DicomSource
    from l2s.io.suv import Overrides
    from l2s.measure.lesions import Measures
    from l2s.measure.reference import Baseline, Region
    from l2s.pipeline import Segmentation
    from l2s.run import Record
    from l2s.study import Body, Grid, Study


WRITING = 3.0  # times reading: PET, CT and mask are packed and read back
MAP_WRITING = 1.5  # the same for probability or cue: on two cores half of the 3 that noise took on one


@dataclass(frozen=True)
class Result:
    """A segmented study. Arrays are (z, y, x) in LPS on the PET grid.

    Attributes:
        study: what was segmented.
        segmentation: the pipeline's answer.
        measures: the table of its lesions.
        run: how it was made; `record` is its content.
        plan: device, precision and budgets.
        dicom: the slices that DICOM results refer to; None for images.
    """

    study: Study
    segmentation: Segmentation
    measures: Measures
    run: Record
    plan: Plan
    dicom: DicomSource | None = None

    @property
    def mask(self) -> np.ndarray:
        """bool (z, y, x)."""
        return self.segmentation.mask

    @property
    def probability(self) -> np.ndarray:
        """float32 (z, y, x), 0..1, of the segmenter before fusion."""
        return self.segmentation.probability

    @property
    def cue(self) -> np.ndarray:
        """float32 (z, y, x), 0..1, of the localizer."""
        return self.segmentation.cue

    @property
    def lesions(self) -> list[dict]:
        """One flat dictionary a lesion, the largest first: pandas.DataFrame(result.lesions). Fields as in measure/lesions.py."""
        from l2s.measure import lesion_table

        return lesion_table.rows(self.measures)

    @property
    def patient(self) -> dict:
        """The figures of the whole body; None where undefined."""
        return asdict(self.measures.patient)

    @property
    def record(self) -> dict:
        """Files, geometry, device, weights and their SHA-256, settings, seconds, warnings."""
        return self.run.content

    def save(
        self,
        outdir: str | Path,
        format: str = "nii.gz",
        save_probability: bool = False,
        save_cue: bool = False,
        dicom_formats: tuple[str, ...] = (),
        uid_seed: str | None = None,
    ) -> list[Path]:
        """Writes the result's folder (see l2s/outdir.py); returns its files, the record last.

        All is made in a hidden folder beside its place first: a failure leaves what was there. Then each file replaces its predecessor in
        one step; without a record.json a folder is not complete (outdir.replace_all).

        Args:
            outdir: the folder.
            format: of the mask: 'nii.gz' or 'mha'.
            save_probability, save_cue: whether to write them too.
            dicom_formats: of 'seg', 'sr', 'rtstruct'; for DICOM input alone.
            uid_seed: equal seed, series and mask give equal UIDs; None: new ones.

        Raises:
            InputError: the folder cannot be written, holds something that is not a result of l2s, or a DICOM result cannot be made.
        """
        from l2s import __version__, run
        from l2s import outdir as folders

        folder = Path(outdir)
        if format not in folders.FORMATS:
            raise folders.InputError(f"format {format!r}: one of {', '.join(folders.FORMATS)}")
        folders.check(folder)
        self.run.go_on()
        mask_name = f"mask.{format}"
        findings = self._findings(uid_seed) if dicom_formats else None  # what cannot be DICOM is said before a file is written
        with folders.staging(folder) as stage:
            with self.run.stage("write"):
                names = folders.write(
                    stage,
                    self.study,
                    self.mask,
                    replace(self.measures, mask_name=mask_name),
                    f"l2s {__version__}",
                    self.probability if save_probability else None,
                    self.cue if save_cue else None,
                )
                if findings:
                    names += self._write_dicom(stage, findings, dicom_formats)
            self.run.content["files"] = names
            run.warn_over_budget(self.plan.budget, self.run)
            self.run.write(stage / folders.RECORD)
            folders.replace_all(stage, folder, names)
        self.run.rest()
        return [folder / name for name in (*names, folders.RECORD)]

    def _findings(self, uid_seed: str | None) -> Findings:
        """The mask's lesions on the source's slices.

        Raises:
            InputError: there is no source in DICOM, or DICOM results cannot hold so many lesions.
        """
        from l2s import __version__
        from l2s.io import dicom_out, slices

        if self.dicom is None:
            raise InputError("seg, sr and rtstruct need DICOM input, as they refer to its slices; use nii.gz or mha")
        weights = self.record["weights"]
        producer = dicom_out.Producer(__version__, parameters=(f"weights={weights['name']}", f"sha256={weights['sha256']}"))
        found = slices.match(self.dicom.headers, self.study.grid, plane_tolerance=slices.IRREGULAR_VOXELS)
        if found.off_planes > slices.TOLERANCE_VOXELS:
            self.run.warn(
                [
                    f"the PET's slices lie up to {found.off_planes:.2f} slice distances off the mask's planes (an irregular series): DICOM "
                    "results show each plane of the mask on the slice next to it"
                ]
            )
        counted = (self.measures.connectivity, self.measures.min_voxels)
        return dicom_out.prepare(self.mask, self.study.grid, found, producer, uid_seed, *counted)

    def _write_dicom(self, folder: Path, findings: Findings, formats: tuple[str, ...]) -> list[str]:
        """SEG, SR and RTSTRUCT beside the mask; returns their names."""
        from l2s.io import dicom_out
        from l2s.io.sr_out import figures_of

        figures = figures_of(self.measures.lesions, self.measures.patient)
        dicom_out.write_results(folder, findings, figures, formats)
        self.run.note(findings.warnings)  # write_results has logged them
        return [f"{name}.dcm" for name in dicom_out.FORMATS if (folder / f"{name}.dcm").is_file()]

    def report(self, path: str | Path, baseline: Result | str | Path | None = None, truth=None) -> Path:
        """Writes the HTML report, one file that needs nothing else; returns its path.

        Args:
            path: ends in .html; its folder is made. Into a result's own folder it goes after save, which refuses files of others.
            baseline: an earlier study to compare with: its Result, or the folder of one, which is counted as this one is.
            truth: the true mask to judge the lesions by: bool (z, y, x) on the study's grid, or its file.

        Raises:
            InputError: the path cannot be written, or baseline or truth cannot be used.
        """
        from l2s import __version__, outdir
        from l2s.io.cases import read_truth
        from l2s.report.page import write_report

        path = Path(path)
        if path.suffix.lower() not in (".html", ".htm"):
            raise InputError(f"{path}: the page is HTML; give a name that ends in .html")
        if path.is_dir():
            raise InputError(f"{path} is a folder; name a file")
        outdir.check_writable(path.absolute().parent)
        earlier = None if baseline is None else earlier_case(baseline, self.measures)
        if isinstance(truth, str | Path):
            truth = read_truth(Path(truth), self.study.grid)
        scores = None if truth is None else judge(truth, self)
        path.absolute().parent.mkdir(parents=True, exist_ok=True)
        write_report(path, page_case(self), f"l2s {__version__}", earlier, truth, scores)
        outdir.list_file(path)
        return path


def page_case(result: Result):
    """A result as the page wants it."""
    from l2s import __version__
    from l2s.measure import lesion_table
    from l2s.report.page import Case

    return Case(result.study, result.mask, lesion_table.as_dict(result.measures, f"l2s {__version__}"), result.record)


def earlier_case(baseline: Result | str | Path, measures: Measures):
    """An earlier study as the page wants it; a folder's lesions are counted as those of measures are.

    Raises:
        InputError: it is no result.
    """
    from l2s import __version__, outdir
    from l2s.measure import lesion_table, lesions
    from l2s.report.page import Case

    if isinstance(baseline, Result):
        return page_case(baseline)
    if not isinstance(baseline, str | Path):
        raise InputError(f"baseline {type(baseline).__name__}: give an earlier Result or the folder of one")
    saved, _ = outdir.read(Path(baseline))
    settings = lesions.Settings(measures.connectivity, measures.min_volume_ml)
    counted = lesions.measure(saved.study, saved.mask, saved.probability, saved.cue, settings, saved.mask_name)
    return Case(saved.study, saved.mask, lesion_table.as_dict(counted, f"l2s {__version__}"), saved.record)


def judge(truth, result: Result) -> dict[str, float | None]:
    """Figures of the mask against the truth, by autoPET's rules.

    Raises:
        InputError: the truth is no mask on the study's grid.
    """
    from l2s.measure.metrics import evaluate_masks

    shape, kind = getattr(truth, "shape", None), getattr(truth, "dtype", None)
    if shape != result.mask.shape or str(kind) != "bool":
        raise InputError(f"truth of shape {shape}, type {kind}: a bool array of {result.mask.shape} or a file is needed")
    one = evaluate_masks(truth, result.mask, result.study.grid.voxel_volume_ml)
    return {"Dice": one.dice, "false positive ml": one.fpv_ml, "false negative ml": one.fnv_ml}


def segment(
    source,
    ct: str | Path | None = None,
    weights: str | Path | None = None,
    device: str = "auto",
    precision: str = "auto",
    fusion: str | None = None,
    windows: str | None = None,
    spacing_mm_zyx: tuple[float, float, float] | None = None,
    connectivity: int = 18,
    min_volume_ml: float = 0.0,
    mirror: str | None = None,
    max_ram: str | None = None,
    max_vram: str | None = None,
    time_budget: float | None = None,
    pet_series: str | None = None,
    ct_series: str | None = None,
    overrides: Overrides | None = None,
    name: str | None = None,
    liver: Region | tuple[float, float, float, float] | None = None,
    blood: Region | tuple[float, float, float, float] | None = None,
    body: Body | None = None,
    lean_mass: str = "janmahasatian",
    baseline: Baseline | Result | str | Path | None = None,
) -> Result:
    """Lesions of one study. Research use only.

    Args:
        source: a case folder (images/{pet,ct}, or SUV.nii.gz and CTres.nii.gz), a PET file (with ct), DICOM (a folder, a zip, a
            DICOMDIR), a Study, or arrays as
            (pet_suv, ct_hu, spacing_mm_zyx) or (pet_suv, ct_hu, spacing_mm_zyx, origin_mm_xyz), both (z, y, x): z to the head,
            y to the back, x to the patient's left.
        ct: the CT file of a PET file, or of a DICOM PET without CT.
        weights: their folder; None: $L2S_WEIGHTS, /opt/ml/model, the bundled one.
        device: 'auto', 'cpu', 'cuda' or 'cuda:N'.
        precision: 'auto', 'fp32', 'bf16', 'fp16' or 'int8'.
        fusion: 'voxelwise', 'componentwise' or 'none'; None: the weights'.
        windows: 'tiles' or 'gaussian'; None: the weights'.
        spacing_mm_zyx: the working spacing; None: the weights'.
        connectivity: 6, 18 or 26: what joins voxels to a lesion.
        min_volume_ml: smaller components count as no lesions; the mask keeps them.
        mirror: axes along which mirrored copies are averaged, such as 'x' or 'xyz'.
        max_ram, max_vram: peak memory of the process and of the GPU, such as '4G'.
        time_budget: seconds of the whole run: the base answer always, then folds and mirrors while they fit.
        pet_series, ct_series: SeriesInstanceUID where a DICOM study has several.
        overrides: l2s.io.suv.Overrides: what is known better than the DICOM header.
        name: the case's name; None: the source's.
        liver, blood: normal tissue for PERCIST and Deauville: a sphere (x, y, z, diameter) in mm LPS, or a Region on the PET's grid.
        body: weight, height and sex; what is None in it is taken from the source.
        lean_mass: 'janmahasatian' or 'james'.
        baseline: an earlier study for PERCIST's response: its Result, the folder of one, or a Baseline.

    Raises:
        InputError: the input, the weights or a setting cannot be used.
    """
    from l2s import run
    from l2s.measure.lesions import Settings
    from l2s.study import Body

    args = run.default_flags()
    args.weights, args.device, args.fusion, args.windows = weights, device, fusion, windows
    args.precision, args.mirror, args.max_ram, args.max_vram = precision, mirror, max_ram, max_vram
    for word, value in (("mirror", mirror), ("max_ram", max_ram), ("max_vram", max_vram), ("name", name)):
        if value is not None and not isinstance(value, str):
            raise InputError(f"{word} {value!r}: text is needed, such as {TEXTS[word]!r}")
    if time_budget is not None and (isinstance(time_budget, bool) or not isinstance(time_budget, numbers.Real)):
        raise InputError(f"time_budget {time_budget!r}: a number of seconds is needed")
    args.time_budget = None if time_budget is None else float(time_budget)
    if spacing_mm_zyx is not None:
        args.spacing_mm = three_numbers(spacing_mm_zyx, "spacing_mm_zyx")
    try:
        settings = Settings(connectivity, min_volume_ml, None, None, body or Body(), lean_mass, as_baseline(baseline))
        check(args, settings)
        # numpy's numbers are none for JSON
        settings = replace(
            settings, connectivity=int(connectivity), min_volume_ml=float(min_volume_ml), body=plain_body(settings.body)
        )
        record = run.Record()
        plan, model = run.load_model(args, record)
        with record.stage("read"):
            case = as_case(source, ct, pet_series, ct_series, overrides)
        if name:
            case = replace(case, name=name, study=replace(case.study, name=name))
        grid = case.study.grid
        settings = replace(settings, liver=as_region(liver, grid, "liver"), blood=as_region(blood, grid, "blood"))
        result = run_case(args, case, record, plan, model, settings)
    except InputError as error:
        raise type(error)(in_python(str(error))) from error
    record.content["warnings"] = [in_python(line) for line in record.content["warnings"]]
    record.rest()
    return result


TEXTS = {"mirror": "xy", "max_ram": "4G", "max_vram": "6G", "name": "anna"}
# flags whose argument of segment(...) is not the flag's own name
ARGUMENTS = {
    "spacing-mm": "spacing_mm_zyx",
    "injection-datetime": "overrides.injection",
    "reference-datetime": "overrides.reference",
}
ARGUMENTS |= {flag: f"overrides.{flag.replace('-', '_')}" for flag in ("weight-kg", "height-m", "sex", "dose-bq", "half-life-s")}


def in_python(message: str) -> str:
    """A message that names flags of the command line, with the arguments of segment(...) in their place."""
    return re.sub(r"(?<![\w-])--([a-z][a-z-]*[a-z])( FILE| UID)?", lambda m: ARGUMENTS.get(m[1], m[1].replace("-", "_")), message)


def three_numbers(values, what: str) -> tuple[float, float, float]:
    """Three finite floats.

    Raises:
        InputError: they are not.
    """
    try:
        found = tuple(float(v) for v in values)
    except (TypeError, ValueError):
        found = ()
    if len(found) != 3 or isinstance(values, str) or not all(map(math.isfinite, found)):
        raise InputError(f"{what} {values!r}: three numbers in mm are needed, one for each axis")
    return found


def plain_body(body: Body) -> Body:
    """The same in Python's own floats."""
    weight, height = (None if value is None else float(value) for value in (body.weight_kg, body.height_cm))
    return replace(body, weight_kg=weight, height_cm=height)


def as_region(value, grid: Grid, what: str) -> Region | None:
    """A Region as it is, or that of a sphere (x, y, z, diameter) in mm LPS; None for None.

    Raises:
        InputError: it is neither, or does not lie on the grid.
    """
    import numpy as np

    from l2s.measure.reference import Region, region_of_sphere

    if value is None:
        return None
    if isinstance(value, Region):
        voxels, count = np.asarray(value.voxels), math.prod(grid.shape_zyx)
        if (
            voxels.ndim != 1
            or voxels.dtype.kind not in "iu"
            or not len(voxels)
            or not (0 <= voxels.min() <= voxels.max() < count)
        ):
            raise InputError(
                f"{what}: a Region's voxels are flat indices into the PET, whole numbers from 0 to {count - 1}, one at least"
            )
        return replace(value, voxels=np.unique(voxels))
    try:
        x, y, z, diameter = (float(v) for v in value)
    except (TypeError, ValueError):
        raise InputError(f"{what} {value!r}: a sphere (x, y, z, diameter) in mm LPS or a Region is needed") from None
    return region_of_sphere(grid, (x, y, z), diameter)


def as_baseline(value) -> Baseline | None:
    """What PERCIST needs of an earlier Result, of the folder of one, or as it is; None for None.

    Raises:
        InputError: it is none of these, or the folder holds no table.
    """
    from l2s.measure import lesion_table
    from l2s.measure.reference import Baseline

    if value is None or isinstance(value, Baseline):
        return value
    if isinstance(value, Result):
        return lesion_table.baseline_of(lesion_table.as_dict(value.measures, "l2s"))
    if not isinstance(value, str | Path):
        raise InputError(f"baseline {type(value).__name__}: give an earlier Result or the folder of one")
    return lesion_table.read_baseline(Path(value))


def check(args: argparse.Namespace, settings) -> None:
    """Raises InputError for what would else end a run after the work: flags of a run, settings of the measures."""
    from l2s import run
    from l2s.measure import lesions

    run.check_flags(args)
    lesions.check(settings)


def check_dicom(case: Case, formats: Sequence[str]) -> None:
    """Raises InputError, before any work, where DICOM results of a case could not be made: no DICOM, slices too far off its grid, headers.

    Args:
        case: as it was read. formats: of 'seg', 'sr', 'rtstruct'.
    """
    from l2s.io import dicom_out, slices

    if case.dicom is None:
        raise InputError(f"{', '.join(formats)} need DICOM input, as they refer to its slices; use nii.gz or mha")
    found = slices.match(case.dicom.headers, case.study.grid, plane_tolerance=slices.IRREGULAR_VOXELS)
    dicom_out.rehearse(found, case.study.grid, formats)


def as_case(
    source,
    ct: str | Path | None = None,
    pet_series: str | None = None,
    ct_series: str | None = None,
    overrides: Overrides | None = None,
) -> Case:
    """What segment's source, ct and the words on DICOM say, as a case.

    Raises:
        InputError: it is none of the kinds, or cannot be read.
    """
    from l2s.io.inputs import Case, read_input
    from l2s.study import Grid, Study

    if isinstance(source, str | Path):
        return read_input(Path(source), None if ct is None else Path(ct), pet_series, ct_series, overrides)
    if pet_series or ct_series or (overrides and overrides.given()):
        raise InputError("pet_series, ct_series and overrides are for DICOM; leave them out with arrays or a Study")
    if ct is not None:
        raise InputError("ct goes with the path of a PET file; arrays come as (pet_suv, ct_hu, spacing_mm_zyx)")
    if isinstance(source, tuple | list) and len(source) in (3, 4):
        pet, hu = (float_array(array, what) for array, what in zip(source[:2], ("pet_suv", "ct_hu")))
        spacing = three_numbers(source[2], "spacing_mm_zyx")
        origin = three_numbers(source[3], "origin_mm_xyz") if len(source) == 4 else (0.0, 0.0, 0.0)
        source = Study(pet, hu, Grid(pet.shape, spacing, origin))
    if not isinstance(source, Study):
        raise InputError(f"{type(source).__name__} is no source: give a path, a Study or (pet_suv, ct_hu, spacing_mm_zyx)")
    from l2s.io.studies import check_study

    # float64 would be compared with what is measured in float32
    source = replace(source, pet_suv=float_array(source.pet_suv, "pet_suv"), ct_hu=float_array(source.ct_hu, "ct_hu"))
    return Case(source, source.name, "memory", {}, check_study(source))


def float_array(array, what: str) -> np.ndarray:
    """float32 (z, y, x), contiguous.

    Raises:
        InputError: it is no array of numbers along three axes.
    """
    import numpy as np

    try:
        found = np.ascontiguousarray(array, dtype=np.float32)
    except (TypeError, ValueError):
        raise InputError(f"{what} is no array of numbers; give (z, y, x)") from None
    if found.ndim != 3:
        raise InputError(f"{what} of shape {found.shape}: three axes are needed, (z, y, x)")
    return found


def run_case(
    args: argparse.Namespace, case: Case, record: Record, plan, model, settings, writing: float = WRITING, drawing: float = 0.0
) -> Result:
    """Segments and measures a case that was read.

    Args:
        args: the flags of run.add_flags.
        case: the input.
        record: of this run; filled on.
        plan, model: of run.load_model.
        settings: of the measures.
        writing, drawing: of run.segment: what a time budget has to leave.
    """
    from l2s import run
    from l2s.io.images import plain_utf8
    from l2s.measure.lesions import measure

    study = case.study
    record.content["case"] = {"name": case.name, "kind": case.kind} | {kind: plain_utf8(p.name) for kind, p in case.files.items()}
    record.warn(case.warnings)
    record.content["geometry"] = asdict(study.stored or study.grid)
    record.content["body"] = asdict(study.body)
    if case.dicom:
        record.content["dicom"] = case.dicom.facts
    segmentation = run.segment(args, record, plan, model, study, writing, drawing)
    with record.stage("measure"):
        measures = measure(study, segmentation.mask, segmentation.probability, segmentation.cue, settings)
    weights = record.content["weights"]
    measures = replace(measures, weights_name=weights["name"], weights_sha256=weights["sha256"])
    record.warn(list(measures.warnings))
    patient = measures.patient
    record.content["result"] = {"lesions": patient.lesions, "volume_ml": round(patient.tmtv_ml, 3)}
    return Result(study, segmentation, measures, record, plan, case.dicom)
