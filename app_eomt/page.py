"""The page: what it shows, and what happens when something is dropped, moved or asked for."""

import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from eomt_transformers.segment import as_file_name
from image_processing_eomt import TASKS

from .downloads import write_files
from .photographs import draw_examples
from .results import format_error, format_picture, format_result, format_results
from .segmenter import Segmenter


MAX_FILE_SIZE = "256mb"
MAX_FILE_AGE = 3600  # seconds, after which uploads and downloads are deleted
TITLE = "EoMT segmentation"
HEADER = f"""<h1>{TITLE}</h1>
<p>Drop a photograph and see what the model finds in it. It stays on the computer that serves this page, and is deleted
after an hour.</p>"""
HINT = '<p class="eomt-hint">The segments appear here.</p>'
SLIDERS = {
    "threshold": ("Score threshold", "Segments with a lower score are left out."),
    "mask_threshold": ("Mask threshold", "How probable a pixel must be to belong to a segment."),
    "overlap_mask_area_threshold": ("Overlap threshold", "How much of its mask a segment must win from others."),
}

# What is served besides the page; nothing comes from another machine, and nothing is told to one.
LAUNCH: dict[str, Any] = {
    "css_paths": Path(__file__).parent / "page.css",
    "theme": gr.themes.Default(
        primary_hue="teal",
        neutral_hue="slate",
        font=["system-ui", "sans-serif"],
        font_mono=["ui-monospace", "monospace"],
    ).set(body_text_color_subdued="*neutral_500", block_info_text_color="*neutral_500"),
    "max_file_size": MAX_FILE_SIZE,
    "footer_links": [],
    "run_history": False,
    "enable_monitoring": False,
    "ssr_mode": False,
    "show_error": True,
    "quiet": True,
}


class Page:
    """
    The page of some checkpoints.

    Nothing about a visitor is kept here: the browser's session holds which photograph is open, and what a checkpoint
    predicted is kept by photograph.

    Args:
        segmenters: the checkpoints, side by side.
        folder: where files are written for visitors; emptied by whoever made it.
    """

    def __init__(self, segmenters: Sequence[Segmenter], folder: Path):
        self.segmenters, self.folder = segmenters, folder
        self.tasks = [task for task in TASKS if all(task in segmenter.tasks for segmenter in segmenters)]
        # The first that all are made for: what one of them cannot do is none of them asked.
        self.task = self.tasks[0]
        names = [segmenter.name for segmenter in segmenters]
        self.names = [
            f"{name} ({names[: index + 1].count(name)})" if names.count(name) > 1 else name
            for index, name in enumerate(names)
        ]

    def build(self) -> gr.Blocks:
        """Puts the page together."""
        examples = draw_examples(self.folder)
        with gr.Blocks(title=TITLE, analytics_enabled=False, delete_cache=(600, MAX_FILE_AGE)) as blocks:
            photograph = gr.State()
            gr.HTML(HEADER)
            with gr.Row(elem_classes="eomt-page"):
                with gr.Column(elem_classes="eomt-input"):
                    upload = gr.File(label="Photograph", file_types=["image"], height=140)
                    with gr.Row():
                        buttons = [
                            gr.Button(name, icon=path, size="sm", min_width=120) for name, path in examples.items()
                        ]
                    preview = gr.HTML(apply_default_css=False)
                with gr.Column(elem_classes="eomt-output"):
                    results = gr.HTML(HINT, apply_default_css=False)
                with gr.Column(visible=False, elem_classes="eomt-settings") as controls:
                    task = gr.Radio(
                        [(name.capitalize(), name) for name in self.tasks],
                        value=self.task,
                        label="Task",
                        visible=len(self.tasks) > 1,
                    )
                    sliders = [gr.Slider(0, 1, step=0.01, **self.set_slider(name)) for name in SLIDERS]
                    prepare = gr.Button("Prepare downloads", size="sm")
                    files = gr.File(label="Downloads", interactive=False, visible=False, elem_classes="eomt-files")

            # One thing at a time: memory is bounded by what one photograph needs.
            common: dict[str, Any] = {
                "concurrency_id": "model",
                "api_visibility": "private",
                "js": self.read_sliders(),
            }
            settings = [photograph, task, *sliders]
            outputs = [preview, controls, results, files]
            chosen = [
                upload.upload(lambda path: (path, None), upload, [photograph, upload], api_visibility="private"),
                *(
                    button.click(lambda path=str(path): path, None, photograph, api_visibility="private")
                    for button, path in zip(buttons, examples.values(), strict=True)
                ),
            ]
            for event in chosen:
                event.then(
                    self.open, settings, outputs, trigger_mode="always_last", show_progress_on=results, **common
                )
            show = {
                "fn": self.show,
                "inputs": settings,
                "outputs": [results, files],
                "trigger_mode": "always_last",
                "show_progress": "minimal",
                **common,
            }
            gr.on([slider.change for slider in sliders], **show)
            task.input(self.choose_sliders, task, sliders, api_visibility="private").then(**show)
            prepare.click(self.prepare, settings, files, **common)
        return blocks

    def set_slider(self, name: str) -> dict[str, Any]:
        """Returns how the slider of a threshold looks at first: it shows the first checkpoint's own value."""
        label, info = SLIDERS[name]
        value = self.segmenters[0].own_threshold(name)
        if any(segmenter.own_threshold(name) != value for segmenter in self.segmenters):
            info += " Until this is moved, each checkpoint takes its own."
        return {"label": label, "info": info, "value": value, "visible": name in TASKS[self.task].settings}

    def read_sliders(self) -> str:
        """Returns the script that reads the sliders: a number may be typed beside each, or be deleted there."""
        own = [self.segmenters[0].own_threshold(name) for name in SLIDERS]
        read = f"(value, index) => Math.min(1, Math.max(0, value ?? {own}[index]))"
        return f"(photograph, task, ...values) => [photograph, task, ...values.map({read})]"

    def choose_sliders(self, task: str) -> list[dict[str, Any]]:
        """Shows the sliders that a task has."""
        return [gr.update(visible=name in TASKS[task].settings) for name in SLIDERS]

    def read_thresholds(self, task: str, *values: float) -> dict[str, float]:
        """Returns the thresholds that were moved: where they were not, each checkpoint takes its own."""
        moved = {
            name: value
            for name, value in zip(SLIDERS, values, strict=True)
            if abs(value - self.segmenters[0].own_threshold(name)) > 1e-6
        }
        return {name: value for name, value in moved.items() if name in TASKS[task].settings}

    def open(self, path: str, task: str, *values: float) -> Iterator[Any]:
        """Shows a new photograph: itself, its segments, the settings."""
        try:
            picture = self.segmenters[0].predict(path, task).picture
        except (OSError, ValueError) as error:
            yield "", gr.update(visible=False), format_error(error), None
            return
        preview, controls = format_picture(picture, Path(path).name), gr.update(visible=True)
        for results, files in self.show(path, task, *values):
            yield preview, controls, results, files

    def show(self, path: str | None, task: str, *values: float) -> Iterator[Any]:
        """Shows the segments of each checkpoint as soon as they are there, and takes back what could be downloaded."""
        thresholds = self.read_thresholds(task, *values)
        results: list[str] = []
        for name, segmenter in zip(self.names, self.segmenters, strict=True):
            try:
                drawing = segmenter.draw(check_open(path), task, thresholds)
                seconds = segmenter.predict(check_open(path), task).seconds
                results.append(format_result(name, Path(check_open(path)).name, seconds, drawing))
            except (OSError, ValueError) as error:
                results.append(format_error(error))
            yield format_results(results), gr.update(value=None, visible=False)

    def prepare(self, path: str | None, task: str, *values: float) -> Any:
        """Writes the files that can be downloaded."""
        thresholds = self.read_thresholds(task, *values)
        path = check_open(path)
        photograph = Path(path)
        files: list[Path] = []
        for name, segmenter in zip(self.names, self.segmenters, strict=True):
            stem = as_file_name(photograph.stem)
            if len(self.segmenters) > 1:
                stem += f"_{as_file_name(name)}"
            photograph_size = segmenter.predict(path, task).size
            drawing = segmenter.draw(path, task, thresholds).image
            segments = segmenter.segment(path, task, thresholds)
            folder = Path(tempfile.mkdtemp(dir=self.folder))  # each its own: names may be the same
            files += write_files(folder, stem, photograph.name, photograph_size, segments, segmenter.id2label, drawing)
        return gr.update(value=[str(file) for file in files], visible=True)


def check_open(path: str | None) -> str:
    """Returns the photograph that is open in a session; raises a `ValueError` where it has been deleted."""
    if path is None or not Path(path).is_file():
        raise ValueError("The photograph is not here any more. Drop it again.")
    return path


def serve(segmenters: Sequence[Segmenter], host: str | None, port: int | None, share: bool) -> None:
    """Serves the page until it is interrupted, and deletes all files of visitors then."""
    with tempfile.TemporaryDirectory(prefix="eomt_app_") as folder:
        os.environ["GRADIO_TEMP_DIR"] = folder
        page = Page(segmenters, Path(folder)).build()
        page.launch(server_name=host, server_port=port, share=share, prevent_thread_lock=True, **LAUNCH)
        print(f"Open {page.share_url or page.local_url} in a browser. Ctrl-C stops it.", flush=True)
        page.block_thread()
