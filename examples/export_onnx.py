"""
Exports a model to ONNX, and segments an image with the graph.

    python examples/export_onnx.py outputs/my_model deployed photo.jpg

The folder needs no PyTorch any more: take it to where it should run, with onnxruntime, NumPy and Pillow.
"""

import argparse
import json

from deployment_eomt import export_model
from deployment_eomt.predict import Segmenter  # in the folder, too: `from predict import Segmenter`


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Exports a model to ONNX, and segments an image with the graph.")
    parser.add_argument("model", help="folder or name on the Hub")
    parser.add_argument("folder", help="folder to write")
    parser.add_argument("image", help="path")
    parser.add_argument("--precision", default="float32", help="float32, float16 or int8")
    options = parser.parse_args()

    folder = export_model(options.model, options.folder, format="onnx", precision=options.precision)
    report = json.loads((folder / "export.json").read_text())["eomt"]["report"]
    print(f"Equal to the model in {report['same_pixels']:.2%} of the pixels of {report['num_images']} images.")
    for segment in Segmenter(folder)(options.image):
        print(f"{segment['label']:<20} {segment['score']:.2f}  box {segment['bbox']}")
