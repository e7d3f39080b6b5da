"""Names of what a run leaves in its output folder."""

REPORT = "evaluation.json"
DATA_REPORT = "data_report.json"
PREDICTIONS = "predictions"  # a folder
DRAWINGS = "evaluation_pictures"  # a folder
