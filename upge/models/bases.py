"""The base models that come with the package: small, pre-trained here, each in its folder.

A base's folder is in the Hugging Face format; its ``base.json`` says by which recipe it was made,
where, and how accurate it is. ``python -m experiments.bases`` makes them.
"""

from __future__ import annotations

from pathlib import Path

#: The base of English word problems; all others are of the synthetic suites.
WORDS = "words"

CHECKPOINTS = Path(__file__).parent / "checkpoints"

#: The file that makes a folder a base; written last.
RECORD = "base.json"


def base_names() -> list[str]:
    """The names under which :func:`~upge.models.pretrained.load_pretrained` knows bases."""
    return sorted(path.parent.name for path in CHECKPOINTS.glob(f"*/{RECORD}"))


def base_folder(name: str) -> Path | None:
    """The folder of a base; None if no base has that name."""
    return CHECKPOINTS / name if name in base_names() else None
