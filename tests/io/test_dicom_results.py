"""SEG, SR and RTSTRUCT as others read them: dciodvfy, dcmqi, plastimatch, highdicom, and pydicom by hand."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import generated_pet
import highdicom as hd
import numpy as np
import pydicom
import pytest
from pydicom.sr import _concepts_dict
from scipy import ndimage
from test_contours import inside

from l2s import components
from l2s.errors import InputError
from l2s.io import dicom_out, seg_out, sr_out
from l2s.io.dicom_out import Producer, prepare
from l2s.io.rtstruct_out import write_rtstruct
from l2s.io.seg_out import write_seg
from l2s.io.sr_out import Figures, LesionFigures, volumes_of, write_sr
from l2s.study import Grid

PRODUCER = Producer("9.9", parameters=("weights=random", "sha256=0123"))
ORIENTATIONS = {
    "axial": ((0, 1, 2), False, False, generated_pet.grid().direction),
    "axial turned": ((0, 1, 2), True, True, generated_pet.grid().direction),
    "coronal": ((1, 0, 2), True, False, generated_pet.grid().direction),
    "oblique sagittal": ((2, 0, 1), True, False, generated_pet.OBLIQUE),
}


def tool(name: str) -> str:
    """The path of a program; the test skips where it is not installed."""
    path = shutil.which(name) or shutil.which(name, path=str(Path(sys.executable).parent))
    if path is None:
        pytest.skip(f"{name} is not installed: pip install -e '.[dev]'")
    return path


def complaints(path: Path) -> list[str]:
    """dciodvfy's errors about a file, and its warnings but for those that the patient's own name and study ID cause."""
    answer = subprocess.run([tool("dciodvfy"), path], capture_output=True, text=True)
    lines = (answer.stdout + answer.stderr).splitlines()
    assert any(line in ("Segmentation", "ComprehensiveSR", "RTStructureSet") for line in lines), lines
    inherited = ("Retired Person Name form", "needed to build DICOMDIR")
    return [line for line in lines if line.startswith(("Error", "Warning")) and not any(text in line for text in inherited)]


@pytest.fixture(params=ORIENTATIONS, scope="module")
def case(request, tmp_path_factory):
    """(mask, grid, findings, folder with pet/, seg.dcm, sr.dcm, rtstruct.dcm) for an orientation."""
    axes, flip_rows, flip_columns, direction = ORIENTATIONS[request.param]
    grid = generated_pet.grid(direction=direction)
    mask = generated_pet.lesions(grid)
    folder = tmp_path_factory.mktemp("results")
    headers = generated_pet.series(grid, axes, flip_rows, flip_columns)
    generated_pet.write(folder / "pet", headers)
    findings = prepare(mask, grid, headers[::-1], PRODUCER)
    segmentation = write_seg(folder / "seg.dcm", findings)
    write_sr(folder / "sr.dcm", findings, figures(), segmentation)
    write_rtstruct(folder / "rtstruct.dcm", findings)
    return mask, grid, findings, folder


def figures() -> Figures:
    """Numbers that no two items share."""
    rows = tuple(LesionFigures(n, n + 0.125, n + 0.25, n + 0.375, n + 0.5, n + 0.625) for n in (1, 2, 3))
    return Figures(rows, tmtv_ml=7.5, tlg_g=8.5, suv_max=9.5)


def truth(mask, grid) -> dict[int, set]:
    """Voxels (z, y, x) of each lesion by number: labelled by scipy, the largest first."""
    labels, count = ndimage.label(mask, ndimage.generate_binary_structure(3, 2))
    voxels = [{tuple(v) for v in np.argwhere(labels == n).tolist()} for n in range(1, count + 1)]
    return dict(enumerate(sorted(voxels, key=len, reverse=True), 1))


@pytest.mark.parametrize("name", ["seg", "sr", "rtstruct"])
def test_dciodvfy_finds_nothing(case, name):
    assert complaints(case[3] / f"{name}.dcm") == []


def test_dciodvfy_would_find_something(case, tmp_path):
    broken = pydicom.dcmread(case[3] / "seg.dcm")
    del broken.SegmentSequence[0].SegmentedPropertyTypeCodeSequence
    broken.save_as(tmp_path / "seg.dcm")
    assert any("SegmentedPropertyTypeCodeSequence" in line for line in complaints(tmp_path / "seg.dcm"))


def test_the_segmentation_by_hand_is_the_mask(case):
    """Bit by bit, frame by frame, through positions in mm: no reader's idea of order is trusted."""
    mask, grid, _, folder = case
    dataset = pydicom.dcmread(folder / "seg.dcm")
    bits = np.unpackbits(np.frombuffer(dataset.PixelData, np.uint8), bitorder="little")
    frames = bits[: dataset.NumberOfFrames * dataset.Rows * dataset.Columns].reshape(-1, dataset.Rows, dataset.Columns)
    shared = dataset.SharedFunctionalGroupsSequence[0]
    cosines = np.array(shared.PlaneOrientationSequence[0].ImageOrientationPatient, float)
    row_mm, column_mm = (float(v) for v in shared.PixelMeasuresSequence[0].PixelSpacing)
    found = {}
    for frame, item in zip(frames, dataset.PerFrameFunctionalGroupsSequence):
        number = item.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        position = np.array(item.PlanePositionSequence[0].ImagePositionPatient, float)
        for r, c in np.argwhere(frame):
            index = grid.mm_to_index_zyx(position + cosines[:3] * column_mm * c + cosines[3:] * row_mm * r)
            assert np.abs(index - np.rint(index)).max() < 1e-3
            found.setdefault(number, set()).add(tuple(np.rint(index).astype(int).tolist()))
    assert found == truth(mask, grid)


def test_each_frame_names_the_slice_at_its_position(case):
    _, _, findings, folder = case
    dataset = pydicom.dcmread(folder / "seg.dcm")
    at = {h.SOPInstanceUID: [round(float(v), 4) for v in h.ImagePositionPatient] for h in findings.slices.headers}
    for item in dataset.PerFrameFunctionalGroupsSequence:
        (source,) = item.DerivationImageSequence[0].SourceImageSequence
        position = [round(float(v), 4) for v in item.PlanePositionSequence[0].ImagePositionPatient]
        assert at[source.ReferencedSOPInstanceUID] == position
    named = {i.ReferencedSOPInstanceUID for i in dataset.ReferencedSeriesSequence[0].ReferencedInstanceSequence}
    assert named == set(at)


def test_highdicom_reads_the_segmentation_back(case):
    mask, grid, findings, folder = case
    back = hd.seg.segread(folder / "seg.dcm")
    uids = [h.SOPInstanceUID for h in findings.slices.headers]
    planes = back.get_pixels_by_source_instance(uids, combine_segments=True, assert_missing_frames_are_empty=True)
    assert np.array_equal(planes, findings.labels)
    assert np.array_equal(findings.slices.as_stored(mask), planes > 0)


def test_dcmqi_reads_the_segmentation(case, tmp_path):
    """ITK's and DCMTK's view of it, which is 3D Slicer's too."""
    import SimpleITK as sitk

    mask, grid, _, folder = case
    command = [tool("segimage2itkimage"), "--inputDICOM", folder / "seg.dcm", "--outputDirectory", tmp_path]
    subprocess.run([*command, "--outputType", "nrrd", "--mergeSegments"], check=True, capture_output=True)
    found = {}
    for path in tmp_path.glob("*.nrrd"):
        image = sitk.ReadImage(str(path))
        for z, y, x in np.argwhere(sitk.GetArrayFromImage(image)).tolist():
            index = grid.mm_to_index_zyx(image.TransformIndexToPhysicalPoint((x, y, z)))
            assert np.abs(index - np.rint(index)).max() < 1e-3
            found.setdefault(image[x, y, z], set()).add(tuple(np.rint(index).astype(int).tolist()))
    assert found == truth(mask, grid)


def test_segments_say_what_they_are(case):
    dataset = pydicom.dcmread(case[3] / "seg.dcm")
    assert (dataset.SegmentationType, dataset.SegmentsOverlap, len(dataset.SegmentSequence)) == ("BINARY", "NO", 3)
    assert "research use only" in dataset.SeriesDescription.lower()
    assert "research use only" in dataset.ContentDescription.lower()
    for n, item in enumerate(dataset.SegmentSequence, 1):
        category, kind = item.SegmentedPropertyCategoryCodeSequence[0], item.SegmentedPropertyTypeCodeSequence[0]
        assert (category.CodeValue, category.CodingSchemeDesignator) == ("49755003", "SCT")
        assert (kind.CodeValue, kind.CodingSchemeDesignator, kind.CodeMeaning) == ("52988006", "SCT", "Lesion")
        assert (item.SegmentNumber, item.SegmentLabel, item.TrackingID) == (n, f"FDG-avid lesion {n}", f"FDG-avid lesion {n}")
        algorithm = item.SegmentationAlgorithmIdentificationSequence[0]
        assert (item.SegmentAlgorithmType, algorithm.AlgorithmName, algorithm.AlgorithmVersion) == ("AUTOMATIC", "L2SNet", "9.9")
        assert algorithm.AlgorithmFamilyCodeSequence[0].CodeValue == "123110"
        assert algorithm.AlgorithmParameters == "weights=random\nsha256=0123"
        assert len(item.RecommendedDisplayCIELabValue) == 3
    assert len({i.TrackingUID for i in dataset.SegmentSequence}) == 3


def test_patient_study_and_frame_of_reference_are_the_sources(case):
    for name in ("seg", "sr", "rtstruct"):
        dataset, source = pydicom.dcmread(case[3] / f"{name}.dcm"), case[2].slices.headers[0]
        keys = (
            "PatientName PatientID PatientSex PatientBirthDate PatientWeight StudyInstanceUID StudyID StudyDate AccessionNumber"
        )
        for key in (keys + " SpecificCharacterSet ReferringPhysicianName").split():
            assert dataset[key].value == source[key].value, key
        assert dataset.SeriesInstanceUID != source.SeriesInstanceUID
        if name != "sr":
            assert dataset.FrameOfReferenceUID == source.FrameOfReferenceUID


def test_rtstruct_filled_by_hand_is_the_mask(case):
    """Each contour in its slice's own plane; a pixel is in where its centre is, to well within half a voxel."""
    mask, grid, findings, folder = case
    dataset = pydicom.dcmread(folder / "rtstruct.dcm")
    headers = {h.SOPInstanceUID: h for h in findings.slices.headers}
    found = {}
    for item in dataset.ROIContourSequence:
        for contour in item.ContourSequence:
            header = headers[contour.ContourImageSequence[0].ReferencedSOPInstanceUID]
            right, down = np.array(header.ImageOrientationPatient[:3], float), np.array(header.ImageOrientationPatient[3:], float)
            points = np.array(contour.ContourData, float).reshape(-1, 3) - np.array(header.ImagePositionPatient, float)
            assert len(points) == contour.NumberOfContourPoints
            assert np.abs(points @ np.cross(right, down)).max() < 1e-3  # in the slice's plane
            polygon = np.stack([points @ down / header.PixelSpacing[0], points @ right / header.PixelSpacing[1]], axis=1)
            assert np.abs(polygon - 0.5 - np.rint(polygon - 0.5)).max() < 1e-3  # along pixel edges
            for r, c in np.ndindex(header.Rows, header.Columns):
                if inside(polygon, r, c):
                    mm = (
                        np.array(header.ImagePositionPatient)
                        + right * header.PixelSpacing[1] * c
                        + down * header.PixelSpacing[0] * r
                    )
                    voxel = tuple(np.rint(grid.mm_to_index_zyx(mm)).astype(int).tolist())
                    assert voxel not in found.setdefault(item.ReferencedROINumber, set())  # polygons do not overlap
                    found[item.ReferencedROINumber].add(voxel)
    assert found == truth(mask, grid)


def test_regions_say_what_they_are(case):
    mask, grid, findings, folder = case
    dataset = pydicom.dcmread(folder / "rtstruct.dcm")
    assert "research use only" in dataset.SeriesDescription.lower()
    assert dicom_out.RESEARCH_USE in dataset.StructureSetDescription
    assert dataset.ApprovalStatus == "UNAPPROVED"
    lesions = truth(mask, grid)
    for region, contours, observation in zip(
        dataset.StructureSetROISequence, dataset.ROIContourSequence, dataset.RTROIObservationsSequence
    ):
        assert region.ROINumber == contours.ReferencedROINumber == observation.ReferencedROINumber
        assert region.ROIName == f"FDG-avid lesion {region.ROINumber}"
        assert float(region.ROIVolume) == pytest.approx(len(lesions[region.ROINumber]) * 0.015, rel=1e-5)  # 3 x 2 x 2.5 mm
        assert region.ROIDerivationAlgorithmIdentificationSequence[0].AlgorithmName == "L2SNet"
        assert observation.RTROIIdentificationCodeSequence[0].CodeValue == "52988006"
        assert observation.RTROIInterpretedType == ""
    study = dataset.ReferencedFrameOfReferenceSequence[0].RTReferencedStudySequence[0]
    images = study.RTReferencedSeriesSequence[0].ContourImageSequence
    assert {i.ReferencedSOPInstanceUID for i in images} == {h.SOPInstanceUID for h in findings.slices.headers}


def test_plastimatch_reads_the_regions(tmp_path):
    """A treatment planning toolkit's own filling, on an axial series, with the hole."""
    import SimpleITK as sitk

    grid = generated_pet.grid((7, 20, 22))
    mask = generated_pet.lesions(grid)
    mask[2:5, 8:19, 8:19] = True
    mask[2:5, 10:17, 10:17] = False
    mask[2:5, 12:15, 12:15] = True  # an island in a hole: a lesion of its own
    headers = generated_pet.series(grid)
    generated_pet.write(tmp_path / "pet", headers)
    write_rtstruct(tmp_path / "rt.dcm", prepare(mask, grid, headers, PRODUCER))
    command = [tool("plastimatch"), "convert", "--input", tmp_path / "rt.dcm", "--referenced-ct", tmp_path / "pet"]
    subprocess.run(
        [*command, "--output-prefix", tmp_path / "out", "--prefix-format", "nrrd"], check=True, capture_output=True, cwd=tmp_path
    )
    lesions = truth(mask, grid)
    assert len(lesions) == 4
    for number, voxels in lesions.items():
        image = sitk.ReadImage(str(tmp_path / "out" / f"FDG-avid lesion {number}.nrrd"))
        assert {tuple(v) for v in np.argwhere(sitk.GetArrayFromImage(image)).tolist()} == voxels


def test_one_region_holds_all_lesions(case, tmp_path):
    write_rtstruct(tmp_path / "rt.dcm", case[2], one_region=True)
    dataset = pydicom.dcmread(tmp_path / "rt.dcm")
    each = pydicom.dcmread(case[3] / "rtstruct.dcm")
    (item,) = dataset.ROIContourSequence
    assert [c.ContourData for c in item.ContourSequence] == [
        c.ContourData for r in each.ROIContourSequence for c in r.ContourSequence
    ]
    assert complaints(tmp_path / "rt.dcm") == []


def groups_of(path) -> dict[str, dict]:
    """{tracking identifier: {(concept, derivation): (value, unit)}} and more, walked by pydicom alone."""
    root = pydicom.dcmread(path)
    (container,) = [i for i in root.ContentSequence if i.ValueType == "CONTAINER"]
    groups = {}
    for group in container.ContentSequence:
        facts, numbers = {}, {}
        for item in group.ContentSequence:
            concept = item.ConceptNameCodeSequence[0].CodeValue
            if item.ValueType == "NUM":
                modifiers = {
                    m.ConceptNameCodeSequence[0].CodeValue: m.ConceptCodeSequence[0].CodeValue
                    for m in item.get("ContentSequence", [])
                }
                measured = item.MeasuredValueSequence[0]
                units = measured.MeasurementUnitsCodeSequence[0]
                unit = units.get("CodeValue") or units.LongCodeValue  # beyond 16 characters
                numbers[concept, modifiers.get("121401")] = (float(measured.NumericValue), unit)
            elif item.ValueType == "IMAGE" and concept == "121191":
                facts["segment"] = (
                    item.ReferencedSOPSequence[0].ReferencedSOPInstanceUID,
                    item.ReferencedSOPSequence[0].ReferencedSegmentNumber,
                )
            elif item.ValueType in ("TEXT", "UIDREF"):
                facts[concept] = item.get("TextValue") or item.get("UID")
        groups[facts["112039"]] = {"numbers": numbers, **facts}
    return groups


def test_the_report_by_hand(case):
    _, _, _, folder = case
    groups, segmentation = groups_of(folder / "sr.dcm"), pydicom.dcmread(folder / "seg.dcm")
    suv, maximum, mean, peak, total = "126401", "56851009", "373098007", "126031", "255619001"
    unit = "g/ml{SUVbw}"
    for n in (1, 2, 3):
        group = groups.pop(f"FDG-avid lesion {n}")
        assert group["112040"] == segmentation.SegmentSequence[n - 1].TrackingUID
        assert group["segment"] == (segmentation.SOPInstanceUID, n)
        assert (group["111001"], group["111003"]) == ("L2SNet", "9.9")
        assert group["numbers"] == {
            ("118565006", None): (n + 0.125, "cm3"),
            (suv, maximum): (n + 0.25, unit),
            (suv, mean): (n + 0.375, unit),
            (suv, peak): (n + 0.5, unit),
            ("126033", None): (n + 0.625, "g"),
        }
    assert groups.pop("All FDG-avid lesions")["numbers"] == {
        ("246206008", None): (3, "1"),
        ("126032", total): (7.5, "cm3"),
        ("126033", total): (8.5, "g"),
        (suv, maximum): (9.5, unit),
    }
    assert groups == {}
    document = pydicom.dcmread(folder / "sr.dcm")
    assert dicom_out.RESEARCH_USE in [i.get("TextValue") for i in document.ContentSequence]
    assert document.CompletionFlagDescription == dicom_out.RESEARCH_USE
    assert "research use only" in document.SeriesDescription.lower()
    assert document.VerificationFlag == "UNVERIFIED"


def test_the_report_names_all_it_rests_on(case):
    _, _, findings, folder = case
    evidence = pydicom.dcmread(folder / "sr.dcm").CurrentRequestedProcedureEvidenceSequence
    named = {s.ReferencedSOPInstanceUID for e in evidence for r in e.ReferencedSeriesSequence for s in r.ReferencedSOPSequence}
    segmentation = pydicom.dcmread(folder / "seg.dcm").SOPInstanceUID
    assert named == {segmentation, *(h.SOPInstanceUID for h in findings.slices.headers)}


def test_highdicom_and_dcmqi_read_the_report(case, tmp_path):
    folder = case[3]
    report = hd.sr.srread(folder / "sr.dcm").content
    found = report.get_volumetric_roi_measurement_groups()
    assert [g.tracking_identifier for g in found] == [f"FDG-avid lesion {n}" for n in (1, 2, 3)]
    assert [m.value for m in found[1].get_measurements()] == [2.125, 2.25, 2.375, 2.5, 2.625]
    out = tmp_path / "sr.json"
    command = [tool("tid1500reader"), "--inputDICOM", folder / "sr.dcm", "--outputMetadata", out]
    subprocess.run(command, check=True, capture_output=True)
    measured = json.loads(out.read_text())["Measurements"]
    assert [m["TrackingIdentifier"] for m in measured] == [*(f"FDG-avid lesion {n}" for n in (1, 2, 3)), "All FDG-avid lesions"]
    assert [float(i["value"]) for i in measured[0]["measurementItems"]] == [1.125, 1.25, 1.375, 1.5, 1.625]


def test_a_report_without_segmentation_names_slices(case, tmp_path):
    _, _, findings, _ = case
    write_sr(tmp_path / "sr.dcm", findings, volumes_of(findings))
    groups = groups_of(tmp_path / "sr.dcm")
    assert "segment" not in groups["FDG-avid lesion 1"]
    assert groups["FDG-avid lesion 3"]["numbers"] == {("118565006", None): (0.015, "cm3")}
    assert complaints(tmp_path / "sr.dcm") == []


@pytest.mark.parametrize("suv_type", sr_out.SUV_TYPES)
def test_the_suv_type_is_in_concept_and_unit(case, tmp_path, suv_type):
    rows = (LesionFigures(1, 1.0, suv_max=2.0, suv_peak=float("nan")),)
    write_sr(tmp_path / "sr.dcm", case[2], Figures(rows, 1.0, suv_max=2.0, suv_type=suv_type))
    names = sr_out.SUV_TYPES[suv_type]
    numbers = groups_of(tmp_path / "sr.dcm")["FDG-avid lesion 1"]["numbers"]
    # the peak that could not be measured is left out, and so are mean and TLG
    assert numbers == {("118565006", None): (1.0, "cm3"), (names.concept.value, "56851009"): (2.0, names.unit.value)}


def test_every_code_is_in_the_standards_dictionaries():
    codes = [v for module in (dicom_out, sr_out) for v in vars(module).values() if isinstance(v, dicom_out.Code)]
    codes += [code for kind in sr_out.SUV_TYPES.values() for code in (kind.concept, kind.unit, kind.method)]
    assert len(codes) > 25
    known = {}  # (scheme, code): meanings, in lower case
    for scheme, words in _concepts_dict.concepts.items():
        for meanings in words.values():
            for value, (meaning, _) in meanings.items():
                known.setdefault((scheme, value), []).append(meaning.lower())
    for code in codes:
        if code == sr_out.GRAM:  # UCUM is a grammar; g is one of its base units
            continue
        meanings = known[code.scheme_designator, code.value]
        assert any(meaning.startswith(code.meaning.lower()) for meaning in meanings), code


def test_a_wrong_number_or_suv_type_is_refused(case, tmp_path):
    with pytest.raises(InputError, match="there is no lesion 4 in the mask"):
        write_sr(tmp_path / "sr.dcm", case[2], Figures((LesionFigures(4, 1.0),), 1.0))
    with pytest.raises(InputError, match="SUV type 'glucose'"):
        write_sr(tmp_path / "sr.dcm", case[2], Figures((), 1.0, suv_type="glucose"))
    assert list(tmp_path.iterdir()) == []


def test_no_lesion_is_an_answer_of_the_report_alone(tmp_path):
    grid = generated_pet.grid()
    findings = prepare(np.zeros(grid.shape_zyx, bool), grid, generated_pet.series(grid), PRODUCER)
    for name, write in (("seg", write_seg), ("rtstruct", write_rtstruct)):
        (tmp_path / f"{name}.dcm").write_text("of a former run")
        assert write(tmp_path / f"{name}.dcm", findings) is None
    write_sr(tmp_path / "sr.dcm", findings, volumes_of(findings), None)
    assert [p.name for p in tmp_path.iterdir()] == ["sr.dcm"]
    assert groups_of(tmp_path / "sr.dcm")["All FDG-avid lesions"]["numbers"] == {
        ("246206008", None): (0, "1"),
        ("126032", "255619001"): (0, "cm3"),
    }
    assert complaints(tmp_path / "sr.dcm") == []


def test_lesions_are_counted_as_the_table_counts_them():
    """The tunnel's block, a pair that touches by an edge, a single voxel; a pair that touches by a corner."""
    grid = generated_pet.grid()
    mask, headers = generated_pet.lesions(grid), generated_pet.series(grid)
    mask[5, 1, 9] = mask[6, 1, 9] = False
    mask[5, 1, 1] = mask[6, 2, 2] = True
    block = 3 * (4 * 5 - 2)
    expected = {(18, 1): [block, 2, 1, 1], (6, 1): [block, 1, 1, 1, 1], (26, 1): [block, 2, 2], (18, 2): [block, 2]}
    for (connectivity, min_voxels), sizes in expected.items():
        findings = prepare(mask, grid, headers, PRODUCER, None, connectivity, min_voxels)
        assert findings.voxels.tolist() == sizes


def test_the_table_of_measures_and_the_segments_speak_of_the_same_lesions(tmp_path):
    from l2s.io.sr_out import figures_of
    from l2s.measure.lesions import measure
    from l2s.study import Study

    grid = generated_pet.grid()
    mask = generated_pet.lesions(grid)
    suv = np.random.default_rng(2).random(grid.shape_zyx, np.float32) + 1
    table = measure(Study(suv, np.full_like(suv, np.nan), grid), mask)
    findings = prepare(mask, grid, generated_pet.series(grid), PRODUCER)
    segmentation = write_seg(tmp_path / "seg.dcm", findings)
    write_sr(tmp_path / "sr.dcm", findings, figures_of(table.lesions, table.patient), segmentation)
    groups, stored = groups_of(tmp_path / "sr.dcm"), findings.slices.as_stored(suv)
    for n in (1, 2, 3):
        numbers = groups[f"FDG-avid lesion {n}"]["numbers"]
        inside_it = stored[findings.labels == n]  # of the segment, by its number
        assert numbers["118565006", None][0] == pytest.approx(len(inside_it) * 0.015)
        assert numbers["126401", "56851009"][0] == pytest.approx(float(inside_it.max()))
        assert numbers["126401", "373098007"][0] == pytest.approx(float(inside_it.mean()), rel=1e-6)
        assert numbers["126033", None][0] == pytest.approx(float(inside_it.sum()) * 0.015, rel=1e-6)
        assert 1 <= numbers["126401", "126031"][0] <= 2
    assert groups["All FDG-avid lesions"]["numbers"]["126401", "56851009"][0] == pytest.approx(
        float(stored[findings.labels > 0].max())
    )


def test_more_than_255_lesions_and_a_labelmap(tmp_path):
    grid = generated_pet.grid((7, 40, 40))
    mask = np.zeros(grid.shape_zyx, bool)
    mask[::2, ::4, ::4] = True  # 400 single voxels
    findings = prepare(mask, grid, generated_pet.series(grid), PRODUCER)
    assert (findings.count, findings.labels.dtype) == (400, np.uint16)
    for kind in (seg_out.BINARY, seg_out.LABELMAP):
        write_seg(tmp_path / "seg.dcm", findings, kind)
        back = hd.seg.segread(tmp_path / "seg.dcm")
        uids = [h.SOPInstanceUID for h in findings.slices.headers]
        planes = back.get_pixels_by_source_instance(uids, combine_segments=True, assert_missing_frames_are_empty=True)
        assert np.array_equal(planes, findings.labels)
        assert complaints(tmp_path / "seg.dcm") == []


def test_too_many_lesions_are_refused(monkeypatch):
    monkeypatch.setattr(dicom_out, "MAX_LESIONS", 2)
    grid = generated_pet.grid()
    with pytest.raises(InputError, match="3 lesions .limit 2"):
        prepare(generated_pet.lesions(grid), grid, generated_pet.series(grid), PRODUCER)


def test_a_mask_of_another_shape_is_refused():
    grid = generated_pet.grid()
    with pytest.raises(InputError, match="they must be equal"):
        prepare(np.zeros((1, 2, 3), bool), grid, generated_pet.series(grid), PRODUCER)


def uids_of(findings, folder) -> list[str]:
    """All UIDs that are made, not copied."""
    segmentation = write_seg(folder / "seg.dcm", findings)
    others = [
        write_sr(folder / "sr.dcm", findings, volumes_of(findings), segmentation),
        write_rtstruct(folder / "rt.dcm", findings),
    ]
    dimension = segmentation.DimensionOrganizationSequence[0].DimensionOrganizationUID
    return [
        *findings.tracking_uids,
        dimension,
        *(u for d in (segmentation, *others) for u in (d.SOPInstanceUID, d.SeriesInstanceUID)),
    ]


def test_a_seed_makes_uids_repeatable_and_content_tells_them_apart(tmp_path):
    grid = generated_pet.grid()
    mask, headers = generated_pet.lesions(grid), generated_pet.series(grid)
    one, again = (uids_of(prepare(mask, grid, headers, PRODUCER, "seed"), tmp_path) for _ in range(2))
    assert one == again
    assert len(set(one)) == len(one) == 10
    assert all(u.startswith(pydicom.uid.PYDICOM_ROOT_UID) and len(u) <= 64 for u in one)
    other_mask = mask.copy()
    other_mask[1, 1, 1] = False
    others = [
        prepare(mask, grid, headers, PRODUCER, "other"),
        prepare(mask, grid, headers, PRODUCER),
        prepare(mask, grid, headers, PRODUCER),
        prepare(other_mask, grid, headers, PRODUCER, "seed"),
        prepare(mask, grid, headers, Producer("9.10"), "seed"),
    ]
    everything = one + [uid for findings in others for uid in uids_of(findings, tmp_path)]
    assert len(set(everything)) == len(everything)


def test_a_headers_gaps_are_filled_and_remnants_left_out(tmp_path):
    """De-identification leaves a Clinical Trial module without sponsor; scanners leave out what the standard asks for."""
    grid = generated_pet.grid()
    headers = generated_pet.series(grid, ClinicalTrialProtocolID="6668", ClinicalTrialSponsorName="", PatientSex="U")
    for header in headers:
        for key in ("StudyID", "AccessionNumber", "ReferringPhysicianName", "PatientBirthDate"):
            del header[key]
    before = headers[0].to_json()
    findings = prepare(generated_pet.lesions(grid), grid, headers, PRODUCER)
    segmentation = write_seg(tmp_path / "seg.dcm", findings)
    write_sr(tmp_path / "sr.dcm", findings, volumes_of(findings), segmentation)
    write_rtstruct(tmp_path / "rt.dcm", findings)
    for name in ("seg", "sr", "rt"):
        dataset = pydicom.dcmread(tmp_path / f"{name}.dcm")
        assert "ClinicalTrialProtocolID" not in dataset
        assert (dataset.PatientSex, dataset.StudyID) == ("", "")
        assert complaints(tmp_path / f"{name}.dcm") == []
    assert headers[0].to_json() == before


def test_a_complete_clinical_trial_is_kept(tmp_path):
    grid = generated_pet.grid()
    trial = {"ClinicalTrialSponsorName": "S", "ClinicalTrialProtocolID": "P", "ClinicalTrialSubjectID": "7"}
    trial |= dict.fromkeys(
        ("ClinicalTrialProtocolName", "ClinicalTrialSiteID", "ClinicalTrialSiteName", "ClinicalTrialTimePointID"), ""
    )
    findings = prepare(generated_pet.lesions(grid), grid, generated_pet.series(grid, **trial), PRODUCER)
    segmentation = write_seg(tmp_path / "seg.dcm", findings)
    write_sr(tmp_path / "sr.dcm", findings, volumes_of(findings), segmentation)
    write_rtstruct(tmp_path / "rt.dcm", findings)
    for name in ("seg", "sr", "rt"):
        dataset = pydicom.dcmread(tmp_path / f"{name}.dcm")
        assert [dataset[key].value for key in trial] == list(trial.values())
        assert complaints(tmp_path / f"{name}.dcm") == []


@pytest.mark.parametrize(
    ("charset", "name"),
    [
        ("ISO_IR 100", "Müller^Jörg"),
        ("ISO_IR 192", "Иванова^Анна"),
        (["", "ISO 2022 IR 87"], "Yamada^Tarou=山田^太郎=やまだ^たろう"),
        ("GB18030", "Wang^XiaoDong=王^小东"),
    ],
)
def test_names_in_any_character_set_survive(tmp_path, charset, name):
    grid = generated_pet.grid()
    generated_pet.write(tmp_path / "pet", generated_pet.series(grid, SpecificCharacterSet=charset, PatientName=name))
    headers = [pydicom.dcmread(path, stop_before_pixels=True) for path in (tmp_path / "pet").iterdir()]
    findings = prepare(generated_pet.lesions(grid), grid, headers, PRODUCER)
    segmentation = write_seg(tmp_path / "seg.dcm", findings)
    write_sr(tmp_path / "sr.dcm", findings, volumes_of(findings), segmentation)
    write_rtstruct(tmp_path / "rt.dcm", findings)
    for part in ("seg", "sr", "rt"):
        assert str(pydicom.dcmread(tmp_path / f"{part}.dcm").PatientName) == name


def test_a_file_that_cannot_be_written_leaves_nothing(case, tmp_path, monkeypatch):
    def full(self, path, **options):
        Path(path).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pydicom.Dataset, "save_as", full)
    (tmp_path / "seg.dcm").write_text("former")
    with pytest.raises(InputError, match="No space left on device"):
        write_seg(tmp_path / "seg.dcm", case[2])
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("seg.dcm", "former")]


def test_a_real_series(data, tmp_path):
    """ACRIN 042 with every voxel above SUV 4: names, gaps and bed joints of a real scanner."""
    from l2s.io import dicom, slices
    from l2s.io.images import read_image

    pet, grid, _, _ = read_image(data / "acrin042_case/images/pet/acrin042.mha")
    mask = pet > 4
    series = slices.match(dicom.read_slices(data / "acrin042").headers, grid)
    assert series.headers[0].Units == "BQML"
    findings = prepare(mask, grid, series, PRODUCER)
    assert findings.count == components.label(mask).count > 100
    segmentation = write_seg(tmp_path / "seg.dcm", findings)
    write_sr(tmp_path / "sr.dcm", findings, volumes_of(findings), segmentation)
    write_rtstruct(tmp_path / "rt.dcm", findings)
    for name in ("seg", "sr", "rt"):
        assert complaints(tmp_path / f"{name}.dcm") == []
    planes = hd.seg.segread(tmp_path / "seg.dcm").get_pixels_by_source_instance(
        [h.SOPInstanceUID for h in series.headers], combine_segments=True, assert_missing_frames_are_empty=True
    )
    assert np.array_equal(planes > 0, mask)
    area_mm2 = 0.0
    for item in pydicom.dcmread(tmp_path / "rt.dcm").ROIContourSequence:
        for contour in item.ContourSequence:
            x, y, _ = np.array(contour.ContourData, float).reshape(-1, 3).T
            area_mm2 += abs(np.sum(x * np.roll(y, -1) - y * np.roll(x, -1))) / 2
    assert area_mm2 == pytest.approx(mask.sum() * grid.spacing_mm_zyx[1] * grid.spacing_mm_zyx[2], rel=1e-6)


def test_grid_of_the_fixture_is_what_the_tests_think():
    assert generated_pet.grid() == Grid((7, 9, 11), (3.0, 2.0, 2.5), (-20.0, 12.5, -300.0))
