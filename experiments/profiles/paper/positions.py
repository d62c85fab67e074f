"""A copy of a model with more positions, as LUFFY's and the paper's scripts train Qwen2.5-Math."""

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
        target: the copy's folder; it must not be there yet.
        changes: of ``config.json``.

    Raises:
        UpgeError: the copy is there already, or there is no such model.
    """
    if target.exists():
        raise UpgeError(f"{target}: is there already; remove it to make it anew")
    folder = Path(source) if Path(source).is_dir() else _download(source)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    target.mkdir(parents=True)
    for path in folder.iterdir():
        if path.suffix == ".safetensors":
            (target / path.name).symlink_to(path.resolve())
        elif path.is_file() and path.name != "config.json":
            shutil.copy(path, target)
    # Since transformers 5 rotary settings have a mapping of their own.
    rotary = config.get("rope_parameters")
    if rotary is not None and "rope_theta" in changes:
        rotary["rope_theta"] = changes["rope_theta"]
    # Last: a folder that has it is whole.
    atomic_write(target / "config.json", json.dumps(config | changes, indent=2) + "\n")


def _download(source: str) -> Path:
    hub = require("huggingface_hub", "lm")
    try:
        return Path(hub.snapshot_download(source))
    except (OSError, ValueError) as error:
        raise UpgeError(
            f"{source} can't be had from the hub ({type(error).__name__}); name a folder with "
            "it by --source"
        ) from error
