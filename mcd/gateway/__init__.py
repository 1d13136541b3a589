"""The HTTP face: OpenAI's API, the control socket and the one asyncio/trio seam."""
