"""One image file, in and out: DICOM and pictures to display-correct pixels, and back."""
