"""Gives the site its first page, which is the README with its links as they are from here."""

from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files


def on_files(files: Files, config: Any) -> Files:
    """Called by mkdocs once it knows its pages."""
    text = (Path(config.config_file_path).parent / "README.md").read_text("utf-8")
    files.append(File.generated(config, "index.md", content=text.replace("](docs/", "](")))
    return files
