"""Packaging of eomt-transformers."""

import re
import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


PACKAGES = [
    "eomt_transformers",
    "configuration_eomt",
    "modeling_eomt",
    "image_processing_eomt",
    "loading_eomt",
    "training_eomt",
    "training_eomt.data",
    "training_eomt.metrics",
    "training_eomt.prediction",
    "training_eomt.publishing",
    "training_eomt.script",
    "deployment_eomt",
    "deployment_eomt.formats",
    "app_eomt",
]

INIT = Path("eomt_transformers/__init__.py").read_text(encoding="utf-8")
VERSION = re.findall(r'^__version__ = "(.+)"$', INIT, re.MULTILINE)[0]

# Lower bounds are those that `make test-oldest` installs and tests.
REQUIREMENTS = [
    "accelerate>=1.12",
    "datasets>=4.0",
    "evaluate>=0.4.6",
    "huggingface_hub>=1.33",
    "jinja2>=3.1",
    "matplotlib>=3.9",
    "msgspec>=0.22",
    "numpy>=2.0",
    "pillow>=11.0",
    "pycocotools>=2.0.10",
    "pyyaml>=6.0.2",
    "safetensors>=0.6",
    "scipy>=1.14",
    "tensorboard>=2.18",
    "torch>=2.6",
    "torchvision>=0.21",
    "tqdm>=4.66",
    "transformers>=5.17",
]
QUANTIZATION = ["torchao>=0.15"]
# Exporting needs newer packages than everything else; running what was exported needs neither of these two.
EXPORT = ["torch>=2.11", "transformers>=5.24"]
ONNX = [*EXPORT, "onnx>=1.21", "onnxruntime>=1.23", "onnxscript>=0.7"]
DEPLOYMENT = {
    "onnx": ONNX,
    "openvino": [*EXPORT, "nncf>=3.4", "onnx>=1.21", "onnxscript>=0.7", "openvino>=2026.3"],
    "executorch": [*EXPORT, "executorch>=1.5"],
    "coreml": [*EXPORT, "coremltools>=9.0"],
    "tensorrt": ONNX,  # with which the graph is written; engines need NVIDIA's package besides
    "serving": ["fastapi>=0.115", "onnxruntime>=1.23", "uvicorn>=0.30"],
}
APP = ["gradio>=6.31"]
TEST = [
    "httpx>=0.27",
    "ipykernel>=6.29",
    "markdown-it-py>=3.0",
    "nbclient>=0.10.1",
    "nbformat>=5.10",
    "playwright>=1.50",
    "pytest>=8.0",
    "pytest-xdist>=3.6",
    "setuptools>=70.1",
    "timm>=1.0.20",
]
DEV = [*TEST, "mypy>=1.18", "pre-commit>=4.0", "ruff==0.17.6", "types-PyYAML", "types-tqdm"]
# Griffe reads the sources, so that a site needs none of the packages above.
DOCS = ["mkdocs>=1.6,<2", "mkdocs-material>=9.7,<10", "mkdocstrings[python]>=1.0"]


class BuildWithRecipes(build_py):
    """Recipes lie at the top of the checkout, and in a package in a wheel."""

    def run(self):
        super().run()
        if not self.editable_mode:
            folder = Path(self.build_lib) / "training_eomt" / "recipes"
            folder.mkdir(parents=True, exist_ok=True)
            for recipe in Path("recipes").glob("*.yaml"):
                shutil.copy(recipe, folder)


setup(
    name="eomt-transformers",
    version=VERSION,
    author="The eomt-transformers authors",
    description="EoMT, the Encoder-only Mask Transformer, for Hugging Face Transformers",
    long_description=Path("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    keywords=["segmentation", "panoptic", "instance", "semantic", "vision transformer", "EoMT", "transformers"],
    project_urls={
        "Paper": "https://arxiv.org/abs/2503.19108",
        "Published checkpoints": "https://huggingface.co/tue-mps",
    },
    python_requires=">=3.10",
    packages=PACKAGES,
    package_data={package: ["py.typed", "*.css", "*.json", "*.md"] for package in PACKAGES},
    py_modules=["run_segmentation"],
    cmdclass={"build_py": BuildWithRecipes},
    entry_points={
        "console_scripts": [
            "eomt = eomt_transformers.command:main",
            "eomt-run-segmentation = run_segmentation:command",
        ]
    },
    install_requires=REQUIREMENTS,
    extras_require={
        "quantization": QUANTIZATION,
        **DEPLOYMENT,
        "app": APP,
        "docs": DOCS,
        "test": TEST,
        "dev": DEV,
    },
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Intended Audience :: Developers",
        "Intended Audience :: Science/Research",
        "Programming Language :: Python :: 3",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Topic :: Scientific/Engineering :: Image Recognition",
    ],
)
