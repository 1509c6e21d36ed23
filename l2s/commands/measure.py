"""`l2s measure`: the lesion table of a result, or of any mask on a PET."""

from __future__ import annotations

import argparse
import json
import logging
from dataclasses import asdict, replace
from pathlib import Path

from l2s.commands.segment import add_count_flags
from l2s.errors import InputError

MASK_KIND = "mask"  # in the record of a folder that was made from --pet and --mask: no result that could be lost


def add(commands: argparse._SubParsersAction) -> None:
    measure = commands.add_parser(
        "measure", help="measure the lesions of a mask", description=run_measure.__doc__, allow_abbrev=False
    )
    measure.add_argument(
        "outdir",
        type=Path,
        nargs="?",
        help="a result of l2s segment; with --pet and --mask a folder to make of them, for l2s report (default: none)",
    )
    measure.add_argument("--pet", type=Path, metavar="FILE", help="measure on this PET (SUV) instead of a result")
    measure.add_argument("--mask", type=Path, metavar="FILE", help="the mask on that PET's grid, above 0 is lesion")
    measure.add_argument("--ct", type=Path, metavar="FILE", help="the CT of that PET, for HU")
    add_count_flags(measure)
    measure.add_argument("--organs", type=Path, metavar="FILE", help="organ label map, on the PET grid or another")
    for region, name in (("liver", "liver"), ("blood", "blood pool")):
        measure.add_argument(f"--{region}-label", type=int, nargs="+", metavar="N", help=f"labels of {name} in --organs")
        measure.add_argument(
            f"--{region}-sphere",
            type=float,
            nargs=4,
            metavar=("X", "Y", "Z", "D"),
            help=f"sphere of {name} instead: centre in mm LPS, diameter in mm",
        )
    measure.add_argument("--weight-kg", type=float, metavar="KG", help="with height and sex: lean body mass, for PERCIST")
    measure.add_argument("--height-cm", type=float, metavar="CM")
    measure.add_argument("--sex", choices=("M", "F"))
    measure.add_argument(
        "--lbm",
        choices=("janmahasatian", "james"),
        default="janmahasatian",
        help="formula of lean body mass (default: %(default)s)",
    )
    measure.add_argument("--baseline", type=Path, metavar="OUTDIR", help="an earlier study's result, for PERCIST's response")
    measure.set_defaults(run=run_measure)


def run_measure(arguments: argparse.Namespace) -> None:
    """Measure the lesions of a result, or of any mask on a PET, and write lesions.csv and lesions.json."""
    check_words(arguments)
    from l2s import outdir
    from l2s.measure import lesion_table, lesions
    from l2s.study import Body

    body = Body(arguments.weight_kg, arguments.height_cm, arguments.sex)
    settings = lesions.Settings(arguments.connectivity, arguments.min_volume_ml, body=body, lean_mass=arguments.lbm)
    lesions.check(settings)
    baseline = lesion_table.read_baseline(arguments.baseline) if arguments.baseline else None
    if arguments.outdir:
        check_outdir(arguments)
    saved, warnings = read_mask_and_pet(arguments) if arguments.pet else outdir.read(arguments.outdir)
    liver, blood, lines = read_regions(arguments, saved.study.grid)
    for line in warnings + lines:
        logging.getLogger(__name__).warning("%s", line)
    settings = lesions.Settings(arguments.connectivity, arguments.min_volume_ml, liver, blood, body, arguments.lbm, baseline)
    measures = lesions.measure(saved.study, saved.mask, saved.probability, saved.cue, settings, saved.mask_name)
    found, percist = list(measures.warnings), measures.patient.percist
    if baseline and percist.lean_mass_kg is None:
        found.append(
            f"--baseline {arguments.baseline} is not used: {'; '.join(percist.reason)}; give --weight-kg, --height-cm and --sex"
        )
    for line in found:
        logging.getLogger(__name__).warning("%s", line)
    print(lesion_table.as_text(measures))
    if arguments.outdir:
        if arguments.pet:
            names = write_folder(arguments, saved, measures, [*warnings, *lines, *found])
        else:
            names = write_table(arguments.outdir, saved, measures)
        print(f"{arguments.outdir}: {', '.join(names)}")


def write_table(folder: Path, saved, measures) -> list[str]:
    """Puts a new table into the folder of a result; returns its files. What was made from the old one goes, and that is said."""
    from l2s import __version__, outdir
    from l2s.measure import lesion_table
    from l2s.wholefile import write_text

    weights = saved.record.get("weights") or {}
    measures = replace(measures, weights_name=weights.get("name"), weights_sha256=weights.get("sha256"))
    names = [path.name for path in lesion_table.write(folder, measures, f"l2s {__version__}")]
    if stale := outdir.drop_derived(folder):
        files = [name for name in saved.record.get("files") or [] if name not in stale]
        write_text(folder / outdir.RECORD, json.dumps(saved.record | {"files": files}, indent=2) + "\n")
        logging.getLogger(__name__).warning(
            "%s: removed %s, made from the table before this one; l2s report makes the page again", folder, ", ".join(stale)
        )
    return names


def write_folder(arguments: argparse.Namespace, saved, measures, warnings: list[str]) -> list[str]:
    """A folder as `l2s segment` makes it, of a mask that another tool made: PET, CT, mask, table and a record of where they came from."""
    from l2s import __version__, outdir, run
    from l2s.io.images import plain_utf8

    measures = replace(measures, mask_name=outdir.MASKS[0])
    record = run.Record()
    files = {"pet": arguments.pet, "ct": arguments.ct, "mask": arguments.mask}
    record.content["case"] = {"name": saved.study.name, "kind": MASK_KIND} | {
        k: plain_utf8(p.name) for k, p in files.items() if p
    }
    record.content["geometry"] = asdict(saved.study.stored or saved.study.grid)
    patient = measures.patient
    record.content["body"] = {"weight_kg": patient.weight_kg, "height_cm": patient.height_cm, "sex": patient.sex}
    record.content["result"] = {"lesions": patient.lesions, "volume_ml": round(patient.tmtv_ml, 3)}
    record.content["warnings"] += warnings
    with outdir.staging(arguments.outdir) as stage:
        with record.stage("write"):
            names = outdir.write(stage, saved.study, saved.mask, measures, f"l2s {__version__}")
        record.content["files"] = names
        record.write(stage / outdir.RECORD)
        outdir.replace_all(stage, arguments.outdir, names)
    return [*names, outdir.RECORD]


def check_words(arguments: argparse.Namespace) -> None:
    """Raises InputError where flags do not go together."""
    if (arguments.pet is None) != (arguments.mask is None):
        raise InputError("--pet and --mask go together: give both, or the folder of a result")
    if arguments.pet is None and arguments.outdir is None:
        raise InputError("nothing to measure: name the folder of a result, or give --pet FILE --mask FILE")
    if arguments.ct and not arguments.pet:
        raise InputError(f"--ct {arguments.ct} goes with --pet and --mask; a result has its own CT")
    for region in ("liver", "blood"):
        labels, sphere = getattr(arguments, f"{region}_label"), getattr(arguments, f"{region}_sphere")
        if labels and sphere:
            raise InputError(f"--{region}-label and --{region}-sphere: one of them")
        if labels and not arguments.organs:
            raise InputError(f"--{region}-label {' '.join(map(str, labels))} needs the label map: --organs FILE")
        if labels and min(labels) < 1:
            raise InputError(f"--{region}-label {min(labels)}: 1 or more, 0 is background")
    if arguments.organs and not (arguments.liver_label or arguments.blood_label):
        raise InputError(f"--organs {arguments.organs}: which label is the liver? Give --liver-label N or --blood-label N")
    if arguments.baseline and arguments.outdir and arguments.baseline.resolve() == arguments.outdir.resolve():
        raise InputError(f"--baseline {arguments.baseline} is the study itself; name the earlier one's folder")


def check_outdir(arguments: argparse.Namespace) -> None:
    """Raises InputError, before any work, where the folder cannot take what will be written."""
    from l2s import outdir

    folder = arguments.outdir
    outdir.check_writable(folder)
    if not arguments.pet:
        return
    kind = (outdir.read_record(folder).get("case") or {}).get("kind") if (folder / outdir.RECORD).is_file() else MASK_KIND
    if kind != MASK_KIND:
        raise InputError(f"{folder} holds a result with a mask of its own; name another folder for --mask {arguments.mask}")
    outdir.check(folder, [path for path in (arguments.pet, arguments.mask, arguments.ct) if path])


def read_mask_and_pet(arguments: argparse.Namespace):
    """(outdir.Saved, warnings) of --pet, --mask and --ct."""
    from l2s import outdir
    from l2s.io.cases import read_truth
    from l2s.io.inputs import name_of
    from l2s.io.studies import read_pet, read_study

    name = name_of(arguments.pet)
    study, warnings = read_study(arguments.pet, arguments.ct, name) if arguments.ct else read_pet(arguments.pet, name)
    return outdir.Saved(study, read_truth(arguments.mask, study.grid), arguments.mask.name, None, None, {}), warnings


def read_regions(arguments: argparse.Namespace, grid):
    """(liver, blood, warnings): the regions that the flags name, None where they name none."""
    from l2s.io.labels import read_labels
    from l2s.measure.reference import region_of_labels, region_of_sphere

    labels, warnings = read_labels(arguments.organs, grid) if arguments.organs else (None, [])
    regions = []
    for region in ("liver", "blood"):
        numbers, sphere = getattr(arguments, f"{region}_label"), getattr(arguments, f"{region}_sphere")
        if numbers:
            regions.append(region_of_labels(labels, tuple(numbers), arguments.organs.name))
        else:
            regions.append(region_of_sphere(grid, tuple(sphere[:3]), sphere[3]) if sphere else None)
    return *regions, warnings
