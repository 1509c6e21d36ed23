"""`l2s serve` with the real `l2s segment` behind it: a PET/CT from dcmtk's storescu, SEG, SR and RTSTRUCT at its storescp."""

import json
import sys

import pydicom
import pytest

from tests.io.dicom_samples import STUDY, hot_study
from tests.serve import peers
from tests.serve.fake_segment import CLASSES


@pytest.mark.skipif(not peers.has_dcmtk(), reason="dcmtk is not installed (apt-get install dcmtk)")
def test_a_study_comes_back_as_seg_sr_and_rtstruct(tmp_path, make_marking_weights):
    study = hot_study(tmp_path / "study")
    (tmp_path / "weights").mkdir()
    weights = make_marking_weights(tmp_path / "weights", study)
    port, destination_port, spool, pacs = peers.free_port(), peers.free_port(), tmp_path / "spool", tmp_path / "pacs"
    config = peers.write_config(tmp_path / "node.toml", spool, port, destination_port, quiet_s=0.3)
    flags = ["--weights", str(weights), "--device", "cpu", "--fusion", "none", "--min-volume-ml", "1"]
    argv = [sys.executable, "-m", "l2s.cli", "serve", "--config", str(config), "--", *flags]
    with (
        peers.start_destination(pacs, destination_port, tmp_path / "pacs.log"),
        peers.Process(argv, tmp_path / "node.log") as node,
    ):
        peers.wait_for(lambda: peers.answers(port))
        assert peers.storescu(port, study).returncode == 0
        peers.wait_for(lambda: peers.spool_is_done(spool, [STUDY]) or any((spool / "failed").iterdir()), 120)
        assert node.terminate() == 0
    images = {str(pydicom.dcmread(path, stop_before_pixels=True).SOPInstanceUID): path for path in study.rglob("0*")}
    counts = peers.check_all(spool, {STUDY: images}, pacs)
    assert (counts["instances_in_spool"], counts["results_at_destination"]) == (40, 3)
    received = {str(one.SOPClassUID): one for one in map(pydicom.dcmread, pacs.iterdir())}
    assert set(received) == set(CLASSES.values())
    seg, report, regions = (received[CLASSES[kind]] for kind in ("SEG", "SR", "RTSTRUCT"))
    assert {one.StudyInstanceUID for one in received.values()} == {STUDY}
    assert str(seg.PatientName) == "SECRET^NAME"  # the PACS files it under the patient
    assert seg.ReferencedSeriesSequence[0].SeriesInstanceUID == "1.2.3.4.5.7"
    output = spool / "done" / f"{STUDY}_g1" / "output"
    lesions = json.loads((output / "record.json").read_text())["result"]["lesions"]
    assert len(seg.SegmentSequence) == len(regions.StructureSetROISequence) == lesions > 0
    assert seg.SOPInstanceUID in {
        str(item.ReferencedSOPInstanceUID)
        for study_item in report.CurrentRequestedProcedureEvidenceSequence
        for series_item in study_item.ReferencedSeriesSequence
        for item in series_item.ReferencedSOPSequence
    }
    assert "SECRET" not in (tmp_path / "node.log").read_text()
