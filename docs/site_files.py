"""What the site consists of: a hook of MkDocs, see `mkdocs.yml`.

Pages keep the place in the site that their files have in the repository, so that a link between two files is the same
here, on GitHub and in a checkout, and `mkdocs build --strict` checks it.
"""

from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files


ROOT = Path(__file__).resolve().parents[1]
# What the pages are made of, and what they link to.
PATTERNS = (
    "*.md",
    "LICENSE",
    "CITATION.cff",
    "docs/**/*.css",
    "docs/**/*.md",
    "docs/**/*.png",
    "benchmarks/*.md",
    "benchmarks/results/*",
    "examples/**/*",
    "model_cards/*.md",
    "recipes/*",
)
CACHES = {"__pycache__", ".ipynb_checkpoints"}


def on_files(files: Files, config: Any) -> Files:
    """Replaces the files of `docs/` by those of the repository; the theme's stay."""
    docs = Path(config.docs_dir)
    for file in list(files):
        if file.abs_src_path is not None and docs in Path(file.abs_src_path).parents:
            files.remove(file)
    for pattern in PATTERNS:
        for path in sorted(ROOT.glob(pattern)):
            name = path.relative_to(ROOT)
            if path.is_file() and not CACHES & set(name.parts):
                files.append(File(name.as_posix(), str(ROOT), config.site_dir, config.use_directory_urls))
    return files
