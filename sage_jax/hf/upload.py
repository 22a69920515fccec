"""Upload of a finished folder to the Hugging Face Hub; the token is the one that huggingface_hub finds itself."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Protocol

import huggingface_hub

from sage_jax.errors import UserError


class UploadError(UserError):
    """A folder that was not uploaded; the message says why, and how to do it without exporting again."""


class HubApi(Protocol):
    """What is used of `huggingface_hub.HfApi`."""

    def create_repo(self, repo_id: str, *, private: bool | None = None, exist_ok: bool = False) -> Any: ...

    def upload_folder(self, *, repo_id: str, folder_path: str | Path, commit_message: str | None = None) -> Any: ...


def check_upload(repo: str) -> None:
    """Checks, before any work, that there is a way to the hub; asks no server.

    Raises:
      UploadError: There is no token, or huggingface_hub is told to stay offline.
    """
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        raise UploadError(
            f"export.upload_to = {repo!r}, but HF_HUB_OFFLINE is set: unset it, or leave upload_to out and upload "
            f"the finished folder later, with `hf upload {repo} FOLDER`"
        )
    if not huggingface_hub.get_token():
        raise UploadError(
            f"export.upload_to = {repo!r}, but there is no token of the Hugging Face Hub: log in with "
            "`hf auth login` or set HF_TOKEN, or leave upload_to out"
        )


def upload(folder: Path, repo: str, *, private: bool, api: HubApi) -> None:
    """Uploads a folder as one commit, making the repository where there is none; one that is there keeps who sees it.

    Raises:
      UploadError: Anything failed; the folder stays.
    """
    try:
        api.create_repo(repo, private=private, exist_ok=True)
        api.upload_folder(repo_id=repo, folder_path=folder, commit_message="Export of sage_jax")
    except Exception as error:  # what the hub's client raises depends on its version and on its HTTP library
        raise UploadError(
            f"{folder} is complete, but was not uploaded to {repo}: {type(error).__name__}: {error}\n"
            f"Check the network, the token (`hf auth whoami`) and that it may write to {repo}; then upload the folder "
            f"with `hf upload {repo} {folder}`"
        ) from None
