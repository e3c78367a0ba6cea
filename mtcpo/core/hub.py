"""Whether the hub of models and data sets can be reached at all: its own library finds out after half a minute."""

from __future__ import annotations

import os
import socket


def unreachable_hub() -> bool:
    """Tell at once that the hub cannot be reached: switched off, or no name service to find it by."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return True
    if any(os.environ.get(name) for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")):
        return False
    host = constants.ENDPOINT.split("//")[-1].split("/")[0].split(":")[0]
    try:
        socket.getaddrinfo(host, 443)
    except socket.gaierror:
        return True
    return False
