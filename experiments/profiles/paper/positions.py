"""Copies of Qwen2.5-Math with more positions, which LUFFY's and the paper's scripts train."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from upge.common.errors import UpgeError
from upge.common.files import atomic_write
from upge.common.optional import require


def copy_model(source: str, target: Path, changes: dict[str, Any]) -> None:
    """Copy a model's folder and change its configuration; the weights are linked, not copied.

    Args:
        source: a folder, or a hub id, which is downloaded.
        target: the copy's folder, which must not exist yet.
        changes: to the keys of ``config.json``.

    Raises:
        UpgeError: the target exists, or the source cannot be downloaded.
    """
    if target.exists():
        raise UpgeError(f"{target}: exists already; remove it to make it again")
    folder = Path(source) if Path(source).is_dir() else _download(source)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    target.mkdir(parents=True)
    for path in folder.iterdir():
        if path.suffix == ".safetensors":
            (target / path.name).symlink_to(path.resolve())
        elif path.is_file() and path.name != "config.json":
            shutil.copy(path, target)
    # Transformers 5 keeps rotary settings in a separate mapping.
    rotary = config.get("rope_parameters")
    if rotary is not None and "rope_theta" in changes:
        rotary["rope_theta"] = changes["rope_theta"]
    # Written last, so that a folder with a config.json is complete.
    atomic_write(target / "config.json", json.dumps(config | changes, indent=2) + "\n")


def _download(source: str) -> Path:
    hub = require("huggingface_hub", "train")
    try:
        return Path(hub.snapshot_download(source))
    except (OSError, ValueError) as error:
        raise UpgeError(
            f"{source} cannot be downloaded from the hub ({type(error).__name__}); name a local "
            "folder by --source"
        ) from error
