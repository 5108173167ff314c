"""Upload of an export to a model hub."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import HfApi

from lope_dist.core.errors import LopeError


def push_to_hub(folder: Path, repo_id: str, *, private: bool) -> str:
    """Upload a written export and return its address. The folder stays as it is.

    Raises:
        LopeError: the hub cannot be reached or refuses.
    """
    api = HfApi()
    try:
        url = api.create_repo(repo_id, private=private, exist_ok=True)
        api.upload_folder(repo_id=repo_id, folder_path=folder, commit_message=f"Add {folder.name}")
    except (OSError, ValueError, RuntimeError) as error:  # what the client raises: many kinds
        reason = " ".join(str(error).split())
        raise LopeError(
            f"The export is complete in '{folder}', but was not uploaded to '{repo_id}': {reason}"
        ) from None
    return str(url)
