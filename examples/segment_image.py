"""
Segments an image: prints what is in it, and draws it.

    python examples/segment_image.py photo.jpg overlay.png
    python examples/segment_image.py photo.jpg overlay.png --model outputs/my_model --task instance --threshold 0.5
"""

import argparse

from eomt_transformers import draw_segmentation, pipeline


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Segments an image.")
    parser.add_argument("image", help="path or URL")
    parser.add_argument("overlay", help="file to write: the image with its segments")
    parser.add_argument("--model", default="tue-mps/coco_panoptic_eomt_large_640", help="folder or name on the Hub")
    parser.add_argument("--task", choices=["panoptic", "instance", "semantic"], help="default: the model's")
    parser.add_argument("--threshold", type=float, help="least score of a segment; default: the model's")
    options = parser.parse_args()

    segmenter = pipeline(options.model)
    given = {"subtask": options.task, "threshold": options.threshold}
    segments = segmenter(options.image, **{name: value for name, value in given.items() if value is not None})
    for segment in segments:
        score = "" if segment["score"] is None else f"{segment['score']:.2f}"  # semantic segments have none
        print(f"{segment['label']:<20} {score}")
    draw_segmentation(options.image, segments, id2label=segmenter.model.config.id2label).save(options.overlay)
