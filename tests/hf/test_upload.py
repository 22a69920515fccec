"""An upload asks huggingface_hub for the token and nobody else, before any work and without the network."""

from __future__ import annotations

from pathlib import Path

import huggingface_hub.constants
import pytest

from sage_jax.hf.upload import UploadError, check_upload


def test_the_token_is_that_of_the_environment_or_of_the_login(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("HF_TOKEN_PATH", "HF_STORED_TOKENS_PATH"):
        monkeypatch.setattr(huggingface_hub.constants, name, str(tmp_path / "token"))
    with pytest.raises(UploadError, match=r"upload_to = 'user/parts', but there is no token .*`hf auth login` or set"):
        check_upload("user/parts")
    (tmp_path / "token").write_text("from-the-login")
    check_upload("user/parts")
    (tmp_path / "token").unlink()
    monkeypatch.setenv("HF_TOKEN", "from-the-environment")
    check_upload("user/parts")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(UploadError, match="HF_HUB_OFFLINE is set: unset it"):
        check_upload("user/parts")
