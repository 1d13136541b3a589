"""Pictures to send, and requests that hold them."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
from PIL import Image

from mcd.api.request import ChatImage, ChatMessage, ChatRequest


def pixels(seed: int, width: int = 40, height: int = 24) -> np.ndarray:
    """Noise: no two pictures alike anywhere."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def picture(seed: int, width: int = 40, height: int = 24, kind: str = "PNG") -> bytes:
    """A file of those pixels."""
    file = io.BytesIO()
    Image.fromarray(pixels(seed, width, height)).save(file, kind)
    return file.getvalue()


def data_url(data: bytes, kind: str = "png") -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def message(*parts: str | bytes, role: str = "user") -> ChatMessage:
    """Text and pictures in turn."""
    content, images = "", []
    for part in parts:
        if isinstance(part, bytes):
            images.append(ChatImage(part, len(content)))
        else:
            content += part
    return ChatMessage(role=role, content=content, images=tuple(images))


def seeing(*parts: str | bytes, **members: Any) -> ChatRequest:
    """A greedy request of one message."""
    return ChatRequest(model="m", messages=(message(*parts),), **{"temperature": 0.0, "max_tokens": 16, **members})
