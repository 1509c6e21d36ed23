"""Stands in for `l2s segment` in the node's tests: reads every image's header, takes its time, writes SEG, SR and RTSTRUCT objects.

    python tests/serve/fake_segment.py IMAGES OUTPUT [--seconds 0.2] [--fail FILE] [--crash FILE]

Each run makes new UIDs, as the real one does. --fail FILE: exit 2 for studies whose UID the file lists; --crash FILE: SIGKILL.
"""

import argparse
import os
import signal
import sys
import time
from pathlib import Path

import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

CLASSES = {
    "SEG": "1.2.840.10008.5.1.4.1.1.66.4",
    "SR": "1.2.840.10008.5.1.4.1.1.88.33",
    "RTSTRUCT": "1.2.840.10008.5.1.4.1.1.481.3",
}


def make_result(modality: str, image: Dataset, images: int) -> Dataset:
    """One object in the image's study that says how many images it was made from."""
    made = Dataset()
    for key in (
        "PatientName",
        "PatientID",
        "PatientBirthDate",
        "PatientSex",
        "StudyInstanceUID",
        "StudyID",
        "StudyDate",
        "StudyTime",
    ):
        setattr(made, key, image.get(key, ""))
    made.SOPClassUID, made.SOPInstanceUID, made.SeriesInstanceUID = CLASSES[modality], generate_uid(), generate_uid()
    made.Modality = modality
    made.SeriesNumber = made.InstanceNumber = "1"
    made.SeriesDescription = f"made from {images}"
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    made.file_meta.MediaStorageSOPClassUID = made.SOPClassUID
    made.file_meta.MediaStorageSOPInstanceUID = made.SOPInstanceUID
    return made


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("images", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--seconds", type=float, default=0.2)
    parser.add_argument("--fail", type=Path)
    parser.add_argument("--crash", type=Path)
    arguments = parser.parse_args()
    heads = [pydicom.dcmread(file, stop_before_pixels=True) for file in sorted(arguments.images.iterdir())]
    study = heads[0].StudyInstanceUID
    print(f"{len(heads)} images")
    time.sleep(arguments.seconds / 2)
    if arguments.fail and study in arguments.fail.read_text():
        print("error: no PET series", file=sys.stderr)
        return 2
    if arguments.crash and study in arguments.crash.read_text():
        os.kill(os.getpid(), signal.SIGKILL)
    for modality in CLASSES:
        make_result(modality, heads[0], len(heads)).save_as(
            arguments.output / f"{modality.lower()}.dcm", enforce_file_format=True
        )
        time.sleep(arguments.seconds / 6)
    return 0


if __name__ == "__main__":
    sys.exit(main())
