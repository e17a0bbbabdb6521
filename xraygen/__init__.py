"""Synthetic chest X-rays: DICOM in, audited and marked DICOM out."""

from importlib.metadata import version

__version__ = version("xraygen")
