"""Which columns of a hospital's CSV may be labels: by their names in six languages, and by their values in any."""

import re
import unicodedata
from collections.abc import Sequence

from xraygen.dataset.allowed import OLDEST

MOST_WORDS = 64
"""A label has no more different words than this."""
_FEW_TEXTS = 20  # so many texts, all different, may be the findings of a small table
_FEWEST_DIGITS = 5
"""Of a postcode; what has as many may be a number that names somebody."""
_LONGEST_CHARACTERS, _LONGEST_WORDS = 80, 10

_NAMED = (
    "category class condition diagnosis disease finding label lesion model organ part pathology region view"
)
_NOT_AFTER_THESE = "".join(rf"(?<!{what}_)" for what in _NAMED.split())
"""A class_name is no patient's."""
_ENGLISH = (
    r"(^|_)(uid|mrn|ssn|dob|birth|birthdate|date|accession|address|phone|email|url|physician|surname)(_|$)"
    rf"|(^|_){_NOT_AFTER_THESE}(names?|ids)(_|$)|(^|_)(telephone|addresses|physicians)(_|$)"
    r"|^(patients?|first|last|full|given|family|middle)name$|^accessionnumber$|uid$|^unnamed_\d+$|birth_?date$"
    r"|^studydate$|(^|_)(fax|e_mail|zip|zipcode|postcode|postal|street|city|remarks?|comments?)(_|$)"
    r"|(^|_)(case|visit|encounter|order|report|insurance)_?(id|no|number)(_|$)|report_?text"
)
_GERMAN = (
    r"(nach|vor|zu|familien|geburts|maedchen|patienten|ruf)_?namen?(_|$)|geburt|(^|_)geb(_|$)|gebdat|datum(_|$)"
    r"|(^|_)(plz|mail|tel|str|kvnr|notiz|notizen|station)(_|$)|strasse|hausnummer|postleitzahl|^(wohn|geburts)?ort$"
    r"|anschrift|adresse|telefon|telefax|handy|ueberweis|zuweis|einweis|arzt|aerzt|anforderer|unterschrift"
    r"|versicher|krankenkasse|kostentraeger|nummer(_|$)|(^|_)nr(_|$)"
    r"|(^|_)(fall|pat|patienten|akten|auftrags|aufnahme)_?(nr|id)(_|$)"
    r"|freitext|(befund|bericht)s?_?text|kommentar|bemerkung|anmerkung|anamnese"
)
_ROMANCE = (
    r"(^|_)noms?(_|$)|prenom|naissance|(^|_)(nir|ipp|rue|ville|medecin|adresse)(_|$)|prescripteur|code_?postal"
    r"|securite_?sociale|(^|_)(num|numero|no)_?(de_)?(dossier|patient)|apellido|(^|_)nombres?(?!_d)(_|$)"
    r"|(^|_)nombres?_del?_(paciente|medico)|nacimiento|direccion|domicilio|(^|_)(fecha|calle|dni|nhc|medico)(_|$)"
    r"|telefono|codigo_?postal|historia_?clinica|(^|_)(cognome|nome)(_|$)|nascita|indirizzo|codice_?fiscale"
    r"|(^|_)data_(di|esame)(_|$)|sobrenome|nascimento|endereco|(^|_)cpf(_|$)"
)
"""French, Spanish, Italian, and Portuguese where it differs; nombre_de_... is French for a count."""
_DUTCH = r"(^|_)naam(_|$)|(achter|voor)naam|geboorte|(^|_)adres(_|$)|straat|huisarts"
_NEVER_A_LABEL = re.compile("|".join((_ENGLISH, _GERMAN, _ROMANCE, _DUTCH)))

_DURATION = "".join(rf"(?<!{what}_)" for what in ("exposure", "survival", "bleeding", "prothrombin"))
_TIME_OF_DAY = re.compile(
    rf"(^|_){_DURATION}(time(?!_(to|since|until|after)_)|heure|hora|ora|orario|tijd|tijdstip)(_|$)|uhrzeit(_|$)"
    r"|^(study|series|acquisition|content)time$|(untersuchungs|aufnahme)zeit(punkt)?(_|$)"
)
_AGE = "(age|alter|edad|idade|leeftijd|eta)"
_AN_AGE = re.compile(rf"(^|_)(?<!bone_)(?<!gestational_){_AGE}(_|$)")
_AT_THE_FILM = (
    "(patients?|patienten|pat|study|exam|examination|acquisition|admission|imaging|scan|visit|untersuchung|studie|aufnahme"
    "|at|of|the|in|on|bei|zum|der|years?|yrs?|y|jahren?|j|ans|anos|anni|jaar)"
)
_AGE_AT_THE_FILM = re.compile(rf"({_AT_THE_FILM}_)*(patient(en|s)?)?{_AGE}(_{_AT_THE_FILM})*")

_NUMBER = re.compile(r"[<>≤≥~]?\s*[-+]?(\d+([.,]\d+)?|[.,]\d+)(e[-+]?\d+)?\s*%?", re.IGNORECASE)
_DAY_AND_MONTH = r"(?<!\d)\d{1,2}\s*[./-]\s*\d{1,2}\s*[./-]\s*(\d{4}|\d{2})(?!\d)"
_MONTH_IN_LETTERS = r"(?<!\d)\d{1,2}[. -]+[^\W\d_]{3,}[. -]+\d{4}(?!\d)"
_ISO = r"(?<!\d)(1[89]|2[01])\d\d[./-]\d{1,2}[./-]\d{1,2}(?!\d)"
_DICOM_DATE = r"^(1[89]|2[01])\d\d(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])(\d{6}(\.\d+)?)?$"
_CLOCK = r"^(\d{2}:\d{2}|\d{1,2}:\d{2}:\d{2}(\.\d+)?)$"
_MOMENT = re.compile("|".join((_DAY_AND_MONTH, _MONTH_IN_LETTERS, _ISO, _DICOM_DATE, _CLOCK)))
_TIME_OF_DICOM = re.compile(r"([01]\d|2[0-3])[0-5]\d[0-5]\d[.,]\d+")
"""084015.14 is 8:40:15 (PS3.5 6.2, TM); without a fraction it has the digits of an identifier."""
_AS_LONG = re.compile(r"\d{6}[.,]\d+")
_PERSON = re.compile(r"[^\W\d_]\^[^\W\d_]|\w@\w")
"""A name as DICOM writes it, or an e-mail address."""


def plain(column: str) -> str:
    """Patient ID -> patient_id, Überweiser -> ueberweiser, Prénom -> prenom."""
    text = unicodedata.normalize("NFC", column).casefold()  # ß becomes ss
    text = text.translate({ord("ä"): "ae", ord("ö"): "oe", ord("ü"): "ue"})
    letters = "".join(mark for mark in unicodedata.normalize("NFKD", text) if not unicodedata.combining(mark))
    return re.sub(r"[^a-z0-9]+", "_", letters).strip("_")


def may_name_a_patient(column: str) -> bool:
    """Whether a column's name is that of a name, date, number or address; AcquisitionDate is acquisition_date too."""
    return any(_NEVER_A_LABEL.search(name) for name in _spellings(column))


def names_the_age_at_the_film(column: str) -> bool:
    """Whether a column's name is that of a patient's age in years: `Age (years)`, `AgeAtStudy`, not `age_group`."""
    return any(_AGE_AT_THE_FILM.fullmatch(name) for name in _spellings(column))


def may_be_a_label(column: str, values: Sequence[str]) -> bool:
    """`looks_like_a_label`, and neither called a time of day nor an age that is one of 90 and more.

    Args:
        column: Its name.
        values: The column, row by row; "" where it is silent.
    """
    names = _spellings(column)
    if any(_TIME_OF_DAY.search(name) for name in names):
        return False
    an_age = any(_AN_AGE.search(name) or _AGE_AT_THE_FILM.fullmatch(name) for name in names)
    return not (an_age and any(map(_is_old, values))) and looks_like_a_label(values)


def _spellings(column: str) -> tuple[str, str]:
    """AcquisitionDate as acquisitiondate and acquisition_date."""
    words = re.sub(r"(?<=[a-zäöüß0-9])(?=[A-ZÄÖÜ])", "_", column)
    return plain(column), plain(words)


def _is_old(value: str) -> bool:
    """Whether it is an age that only a pool of the oldest may show: 93, 093Y, 93,5, and 1116 of months."""
    match = re.fullmatch(r"(\d{1,9})([.,]\d+)?\s*[a-z]*", value, re.IGNORECASE)
    return match is not None and int(match[1]) >= OLDEST


def looks_like_a_label(values: Sequence[str]) -> bool:
    """Whether a column's values are those of a label in whatever language: few words, or measured numbers.

    No label is a column with
      * a date or a time of day in more than a tenth of its filled rows;
      * an e-mail address, a name as DICOM writes it, or a text of more than 80 characters, 10 words or one line;
      * values of five digits and more, no decimal fractions, in most rows, unless few of them recur again and again;
      * more than 64 different words (those between | count one by one), or 20 different texts and more that are more
        than half of the filled rows.

    Limits: fewer than 20 short texts may as well be the names of as many patients as their findings.

    Args:
        values: The column, row by row; "" where it is silent.
    """
    filled = [value for value in values if value]
    if 10 * _count_moments(filled) > len(filled):
        return False
    if any(_PERSON.search(value) or _is_free_text(value) for value in filled):
        return False
    numbers = [value for value in filled if _may_be_an_identifier(value)]
    if 2 * len(numbers) > len(filled) and len({*numbers}) > min(MOST_WORDS, len(filled) / 4):
        return False
    texts = {value for value in filled if not _NUMBER.fullmatch(value)}
    words = {word.strip() for text in texts for word in text.split("|")}
    return len(words) <= MOST_WORDS and (len(texts) < _FEW_TEXTS or 2 * len(texts) <= len(filled))


def _count_moments(filled: Sequence[str]) -> int:
    """How many values hold a date or a time of day."""
    as_long = [value for value in filled if _AS_LONG.fullmatch(value)]
    times = sum(_TIME_OF_DICOM.fullmatch(value) is not None for value in as_long)
    # Of measured numbers as long, some read as times by chance: nearly all do where they are times.
    in_dicoms_form = times if 10 * times > 9 * len(as_long) else 0
    return in_dicoms_form + sum(_MOMENT.search(value) is not None for value in filled)


def _is_free_text(value: str) -> bool:
    """Whether somebody wrote sentences."""
    return len(value) > _LONGEST_CHARACTERS or len(value.split()) > _LONGEST_WORDS or "\n" in value


def _may_be_an_identifier(value: str) -> bool:
    """Whether it has the digits of a number that names a person, an examination or a place; 0.12345 has not."""
    if _NUMBER.fullmatch(value) and not re.fullmatch(r"\d+", value):
        return False
    return sum(map(str.isdigit, value)) >= _FEWEST_DIGITS
