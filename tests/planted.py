"""Films and files of every kind whose tags, names and texts identify a patient."""

import shutil
import zipfile
from pathlib import Path

import nibabel
import numpy as np
from PIL import Image, PngImagePlugin
from pydicom import config as pydicom_config
from pydicom import dcmread
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRLittleEndian, MediaStorageDirectoryStorage

WORDS = (
    "Quarkovic", "Zebedia", "ZZ-48151623", "48151623", "19470811", "1947-08-11", "11.08.1947", "08/11/1947",
    "ACC9081726354", "Wendelinspital", "Plumbob", "Dreiborn", "1.2.826.0.1.3680043.9.7777", "Verlaufskontrolle",
    "Privatnotiz", "Pngtextowitz", "Niftivic", "Ottersbach", "Kommentarius", "0151-2342", "Viewposina", "Bodypartova",
    "20240229", "131415.9", "STATIONX7",
)  # fmt: skip
IDENTIFIERS = ("ZZ-48151623", "Quarkovic^Zebedia", "1.2.826.0.1.3680043.9.7777.1", "ACC9081726354-1")


def plant(film: Dataset, number: int) -> Dataset:
    """Fill a phantom's tags with a patient's."""
    film.PatientName, film.PatientID = "Quarkovic^Zebedia^^Dr.", f"ZZ-48151623-{number // 2}"
    film.OtherPatientNames, film.PatientBirthDate, film.PatientAge = "Zebedia Q.", "19470811", "097Y"
    film.AccessionNumber, film.InstitutionName = f"ACC9081726354-{number // 2 % 99}", "Wendelinspital"
    film.StudyDate = film.SeriesDate = film.ContentDate = "20240229"
    film.StudyTime, film.StationName = "131415.9", "STATIONX7"
    film.StudyDescription, film.SeriesDescription = "Verlaufskontrolle Quarkovic", "geb. 11.08.1947"
    film.ImageComments, film.PatientComments = "Kommentarius", "Tel. 0151-2342, 1947-08-11, 08/11/1947"
    film.ReferringPhysicianName = film.OperatorsName = "Ottersbach"
    film.SOPInstanceUID = film.file_meta.MediaStorageSOPInstanceUID = f"1.2.826.0.1.3680043.9.7777.1.{number}"
    film.StudyInstanceUID = f"1.2.826.0.1.3680043.9.7777.2.{number // 2}"
    film.SeriesInstanceUID = film.FrameOfReferenceUID = f"1.2.826.0.1.3680043.9.7777.3.{number}"
    film.ViewPosition, film.BodyPartExamined = "VIEWPOSINA QUARK", "CHEST BODYPARTOVA"
    film.PatientSex = "QUARKOVIC"
    film.private_block(0x0011, "Privatnotiz", create=True).add_new(1, "LO", "Quarkovic")
    item = Dataset()
    item.PatientID, item.IssuerOfPatientID = "ZZ-48151623", "Wendelinspital"
    film.OtherPatientIDsSequence = Sequence([item])
    return film


def write_sources(films: Path, folder: Path) -> None:
    """Phantoms under names and with tags that identify; pictures and volumes likewise; and files that are refused."""
    paths = sorted(films.rglob("*.dcm"))
    with pydicom_config.disable_value_validation():
        for number, path in enumerate(paths):
            film = plant(dcmread(path), number)
            out = folder / "Dreiborn" / f"Quarkovic_Zebedia_19470811_{number // 2}" / f"Plumbob{number}.dcm"
            out.parent.mkdir(parents=True, exist_ok=True)
            film.save_as(out)
        ward = folder / "Dreiborn"
        odd = plant(dcmread(paths[0]), 900)
        refused: dict[str, dict[str, str | int]] = {
            "class": {"SOPClassUID": "1.2.826.0.1.3680043.9.7777.5", "Rows": 0},
            "other": {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.2"},
            "photometric": {"PhotometricInterpretation": "QUARKOVIC"},
            "text": {"WindowCenter": "Quarkovic", "RescaleSlope": "Zebedia", "NumberOfFrames": "Plumbob"},
            "part": {"BodyPartExamined": "KNEE QUARKOVIC"},
        }
        for name, changes in refused.items():
            changed = dcmread(paths[0])
            changed.update(odd)
            for keyword, value in changes.items():
                changed.add_new(keyword, "LO" if isinstance(value, str) else "US", value)
            changed.save_as(ward / f"Plumbob-{name}.dcm")
        odd.file_meta.TransferSyntaxUID = "1.2.826.0.1.3680043.9.7777.6"
        odd.save_as(ward / "Plumbob-syntax.dcm", implicit_vr=False, little_endian=True)
    content = paths[1].read_bytes()
    (ward / "Quarkovic-cut.dcm").write_bytes(content[: len(content) // 2])
    (ward / "Quarkovic-report.txt").write_text("Quarkovic, Zebedia, *11.08.1947")
    grey = np.random.default_rng(0).integers(0, 65536, (64, 64), dtype=np.uint16)
    text = PngImagePlugin.PngInfo()
    text.add_text("Patient", "Pngtextowitz Quarkovic")
    text.add_text("Comment", "Pngtextowitz 48151623 " * 20, zip=True)
    text.add_itxt("Title", "Pngtextowitz")
    Image.fromarray(grey).save(ward / "Plumbob.png", pnginfo=text)
    volume = nibabel.Nifti1Image(grey.astype(np.int16), np.eye(4))
    volume.header["descrip"], volume.header["intent_name"] = b"Niftivic 11.08.1947", b"Niftivic"
    volume.to_filename(ward / "Plumbob.nii.gz")
    rows = [
        f"Quarkovic,19470811,ACC9081726354-{number},Kommentarius,ZZ-48151623-{number},F{number % 2}"
        for number in range(50)
    ]
    (folder / "labels.csv").write_text(
        "\n".join(["surname,birth_date,accession,remark,patient_id,finding", *rows])
    )


def write_packed(folder: Path) -> None:
    """The same films in an archive whose members' names identify, and on a disc with a DICOMDIR."""
    films = sorted((folder / "in").rglob("Plumbob?.dcm"))
    (folder / "packed").mkdir()
    with zipfile.ZipFile(folder / "packed/films.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for number, path in enumerate(films[:6]):
            archive.write(path, f"Quarkovic_Zebedia/ZZ-48151623-{number}.dcm")
        for name in ("../Quarkovic.dcm", "Dreiborn/Quarkovic.zip", "Dreiborn/Zebedia-19470811.txt"):
            archive.writestr(name, b"Quarkovic, Zebedia")
    shutil.make_archive(str(folder / "packed/Dreiborn"), "gztar", folder / "in")
    damaged = (folder / "packed/films.zip").read_bytes()
    (folder / "packed/Quarkovic-cut.zip").write_bytes(damaged[: len(damaged) // 2])
    disc = folder / "disc"
    disc.mkdir()
    records = []
    for number in range(4):
        name = f"QUARKOVI{number}"
        if number < 3:  # the last one is missing
            shutil.copy(films[number], disc / name)
        record = Dataset()
        record.DirectoryRecordType, record.ReferencedFileID = "IMAGE", name
        records.append(record)
    index = Dataset()
    index.file_meta = FileMetaDataset()
    index.file_meta.MediaStorageSOPClassUID = MediaStorageDirectoryStorage
    index.file_meta.MediaStorageSOPInstanceUID = "1.2.826.0.1.3680043.9.7777.9"
    index.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    index.FileSetID, index.DirectoryRecordSequence = "QUARKOVIC", Sequence(records)
    index.save_as(disc / "DICOMDIR", enforce_file_format=True)
    (folder / "withdrawn.txt").write_text("ZZ-48151623-3\n# Quarkovic withdrew\nPlumbob7.dcm\n")
