"""Names of the files of a run in its output folder."""

REPORT = "evaluation.json"
CONFUSION_CSV, CONFUSION_PNG = "confusion_matrix.csv", "confusion_matrix.png"
DATA_REPORT = "data_report.json"
CURVES = "training_curves.png"
PREDICTIONS = "predictions"  # a folder
DRAWINGS = "evaluation_pictures"  # a folder
