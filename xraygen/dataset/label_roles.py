"""What the columns of a CSV are, by their headers: the path of a film, its patient, an age and the like."""

from collections.abc import Collection, Mapping

from xraygen.dataset.label_guess import names_the_age_at_the_film, plain

_ROLES: Mapping[str, tuple[str, ...]] = {
    "path": (
        *("path", "file", "file_name", "filename", "image", "image_path", "image_index"),
        *("pfad", "datei", "dateiname"),
    ),
    "image_id": ("image_id", "imageid", "dicom_id"),
    "instance": ("sopinstanceuid", "sop_instance_uid"),
    "study": ("study", "study_id", "studyid", "study_uid", "studyinstanceuid", "study_instance_uid"),
    "accession": ("accession", "accession_number", "accessionnumber"),
    "patient": (
        *("patient", "patient_id", "patientid", "subject", "subject_id", "patienten_id", "patientenid"),
        *("patientennummer", "patienten_nr", "patientennr"),
    ),
    "sex": ("sex", "gender", "patient_sex", "patient_gender", "patientsex", "patientgender", "geschlecht"),
    "age": ("age", "patient_age", "patientage", "alter"),
    "view": ("view", "view_position", "viewposition", "projection", "ap_pa"),
}
_ROLE_OF = {name: role for role, names in _ROLES.items() for name in names}


def roles_of(columns: Collection[str]) -> dict[str, str | None]:
    """Column -> its role, None for any other.

    A column such as `Age (years)` or `AgeAtStudy` is the age, too, if it is the only one and none is called just that.
    """
    roles = {column: _ROLE_OF.get(plain(column)) for column in columns}
    ages = [column for column, role in roles.items() if role is None and names_the_age_at_the_film(column)]
    if len(ages) == 1 and "age" not in roles.values():
        roles[ages[0]] = "age"
    return roles
