"""Policies: pretrained language models from the hub, a local folder or a package's GGUF file."""
