"""What of this process's environment a child is handed: all but what looks like a secret.

An engine reads model files that strangers have made, and has no use for the keys of other providers.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

SECRET = re.compile(r"(?:^|_)(?:API_?KEY|ACCESS_KEY|KEY|SECRET|TOKEN|PASSWORD|PASSWD|CREDENTIALS?)(?:_ID)?$")
TAKEN_ALONG = frozenset({"HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"})  # by which engines fetch models


def without_secrets(environment: Mapping[str, str]) -> dict[str, str]:
    """By their names; vLLM's may be handed others by `env` of its entry."""
    return {
        name: value for name, value in environment.items() if name in TAKEN_ALONG or not SECRET.search(name.upper())
    }
