"""The Python API: l2s.segment(...) -> Result. The command `l2s segment` runs through the same functions.

Nothing heavy is imported before something is segmented: `import l2s` stays light.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse

    import numpy as np

    from l2s.challenge import Record
    from l2s.engine import Plan
    from l2s.io.inputs import Case, DicomSource
    from l2s.measure.lesions import Measures
    from l2s.pipeline import Segmentation
    from l2s.study import Study


WRITING = 3.0  # times reading: PET, CT and mask are packed and read back
IRREGULAR_VOXELS = 0.5  # slices that the PET was resampled from, at irregular bed joints, lie up to so far off its planes


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

        Args:
            outdir: the folder.
            format: of the mask: 'nii.gz' or 'mha'.
            save_probability, save_cue: whether to write them too.
            dicom_formats: of 'seg', 'sr', 'rtstruct'; for DICOM input alone.
            uid_seed: equal seed, series and mask give equal UIDs; None: new ones.

        Raises:
            InputError: the folder cannot be written, or holds something that is not a result of l2s.
        """
        from l2s import __version__, challenge
        from l2s import outdir as folders

        folder = Path(outdir)
        if format not in folders.FORMATS:
            raise folders.InputError(f"format {format!r}: one of {', '.join(folders.FORMATS)}")
        folders.check(folder)
        mask_name = f"mask.{format}"
        with self.run.stage("write"):
            names = folders.write(
                folder,
                self.study,
                self.mask,
                replace(self.measures, mask_name=mask_name),
                f"l2s {__version__}",
                self.probability if save_probability else None,
                self.cue if save_cue else None,
            )
            if dicom_formats:
                names += self._write_dicom(folder, dicom_formats, uid_seed)
        self.run.content["files"] = names
        self.run.warn(challenge.over_budget(self.plan.budget, self.run))
        self.run.write(folder / folders.RECORD)
        return [folder / name for name in (*names, folders.RECORD)]

    def _write_dicom(self, folder: Path, formats: tuple[str, ...], uid_seed: str | None) -> list[str]:
        """SEG, SR and RTSTRUCT beside the mask; returns their names."""
        from l2s import __version__
        from l2s.errors import InputError
        from l2s.io import dicom_out, slices
        from l2s.io.sr_out import figures_of

        if self.dicom is None:
            raise InputError(f"{', '.join(formats)} need DICOM input, as they refer to its slices; use nii.gz or mha")
        weights = self.record["weights"]
        producer = dicom_out.Producer(__version__, parameters=(f"weights={weights['name']}", f"sha256={weights['sha256']}"))
        found = slices.match(self.dicom.headers, self.study.grid, plane_tolerance=IRREGULAR_VOXELS)
        counted = (self.measures.connectivity, self.measures.min_voxels)
        findings = dicom_out.prepare(self.mask, self.study.grid, found, producer, uid_seed, *counted)
        figures = figures_of(self.measures.lesions, self.measures.patient)
        dicom_out.write_results(folder, findings, figures, formats)
        return [f"{name}.dcm" for name in dicom_out.FORMATS if (folder / f"{name}.dcm").is_file()]

    def report(self, path: str | Path) -> Path:
        """Writes the HTML report, one file that needs nothing else; returns its path."""
        from l2s import __version__
        from l2s.measure import lesion_table
        from l2s.report.page import Case, write_report

        tool = f"l2s {__version__}"
        table = lesion_table.as_dict(self.measures, tool)
        write_report(Path(path), Case(self.study, self.mask, table, self.record), tool)
        return Path(path)


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
) -> Result:
    """Lesions of one study. Research use only.

    Args:
        source: a case folder (images/{pet,ct}, or SUV.nii.gz and CTres.nii.gz), a PET file (with ct), a Study, or arrays as
            (pet_suv, ct_hu, spacing_mm_zyx) or (pet_suv, ct_hu, spacing_mm_zyx, origin_mm_xyz), both (z, y, x): z to the head,
            y to the back, x to the patient's left.
        ct: the CT file of a PET file.
        weights: their folder; None: $L2S_WEIGHTS, /opt/ml/model, the bundled one.
        device: 'auto', 'cpu', 'cuda' or 'cuda:N'.
        precision: 'auto', 'fp32', 'bf16', 'fp16' or 'int8'.
        fusion: 'voxelwise', 'componentwise' or 'none'; None: the weights'.
        windows: 'tiles' or 'gaussian'; None: the weights'.
        spacing_mm_zyx: the working spacing; None: the weights'.
        connectivity: 6, 18 or 26: what joins voxels to a lesion.
        min_volume_ml: smaller components count as no lesions; the mask keeps them.

    Raises:
        InputError: the input, the weights or a setting cannot be used.
    """
    from l2s import challenge
    from l2s.measure.lesions import Settings

    args = challenge.run_defaults()
    args.weights, args.device, args.fusion, args.windows, args.spacing_mm = weights, device, fusion, windows, spacing_mm_zyx
    args.precision = precision
    settings = Settings(connectivity, min_volume_ml)
    check(args, settings)
    record = challenge.Record()
    plan, model = challenge.load_model(args, record)
    with record.stage("read"):
        case = as_case(source, ct)
    return run(args, case, record, plan, model, settings)


def check(args: argparse.Namespace, settings) -> None:
    """Raises InputError for what would else end a run after the work: flags of a run, settings of the measures."""
    from l2s import challenge
    from l2s.measure import lesions

    challenge.check_run_flags(args)
    lesions.check(settings)


def as_case(source, ct: str | Path | None = None) -> Case:
    """What segment's source and ct say, as a case.

    Raises:
        InputError: it is none of the kinds, or cannot be read.
    """
    import numpy as np

    from l2s.errors import InputError
    from l2s.io.inputs import Case, read_input
    from l2s.study import Grid, Study

    if isinstance(source, str | Path):
        return read_input(Path(source), None if ct is None else Path(ct))
    if ct is not None:
        raise InputError("ct goes with the path of a PET file; arrays come as (pet_suv, ct_hu, spacing_mm_zyx)")
    if isinstance(source, tuple | list) and len(source) in (3, 4):
        pet, hu = (np.ascontiguousarray(a, dtype=np.float32) for a in source[:2])
        origin = source[3] if len(source) == 4 else (0.0, 0.0, 0.0)
        if pet.ndim != 3 or len(source[2]) != 3 or len(origin) != 3:
            raise InputError(f"PET of shape {pet.shape}, spacing {source[2]}, origin {origin}: three axes each are needed")
        source = Study(pet, hu, Grid(pet.shape, tuple(map(float, source[2])), tuple(map(float, origin))))
    if not isinstance(source, Study):
        raise InputError(f"{type(source).__name__} is no source: give a path, a Study or (pet_suv, ct_hu, spacing_mm_zyx)")
    from l2s.io.studies import check_study

    return Case(source, source.name, "memory", {}, check_study(source))


def run(args: argparse.Namespace, case: Case, record: Record, plan, model, settings) -> Result:
    """Segments and measures a case that was read.

    Args:
        args: the flags of challenge.add_run_flags.
        case: the input.
        record: of this run; filled on.
        plan, model: of challenge.load_model.
        settings: of the measures.
    """
    from l2s import challenge
    from l2s.measure.lesions import measure

    study = case.study
    record.content["case"] = {"name": case.name, "kind": case.kind} | {kind: p.name for kind, p in case.files.items()}
    record.warn(case.warnings)
    record.content["geometry"] = asdict(study.stored or study.grid)
    record.content["body"] = asdict(study.body)
    if case.dicom:
        record.content["dicom"] = case.dicom.facts
    segmentation = challenge.segment(args, record, plan, model, study, WRITING)
    with record.stage("measure"):
        measures = measure(study, segmentation.mask, segmentation.probability, segmentation.cue, settings)
    patient = measures.patient
    record.content["result"] = {"lesions": patient.lesions, "volume_ml": round(patient.tmtv_ml, 3)}
    return Result(study, segmentation, measures, record, plan, case.dicom)
